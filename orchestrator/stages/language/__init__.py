"""What the stages share that work on text of the data service: preparing, resuming, record."""
