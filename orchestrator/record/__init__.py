"""What happened: run folder, journal, redaction, figures; mlflow/ is a replay of them.

Of a step that several attempts made, `descent.py` says whose values count, everywhere.
"""
