"""`orchestrate data`: command.py takes the arguments, subject.py finds the job, actions.py acts."""
