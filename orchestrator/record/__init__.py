"""What happened: run folder, journal, redaction, figures; mlflow/ is a replay of them."""
