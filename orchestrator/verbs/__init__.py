"""What can be typed after `orchestrate`: one file per verb."""
