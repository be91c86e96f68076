"""Where work runs: the devices at hand, and gangs of workers placed on them by Ray."""
