"""Questions about data: which document when, what reading costs, how two datasets differ."""
