"""`orchestrate generate`: what is typed in command.py, what is shown in the others."""
