"""One run from start to end: its life, its workers, its failures, its screen."""
