"""Questions about the data of a job: which document when, what reading costs, baselines."""
