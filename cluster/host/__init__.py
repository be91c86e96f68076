"""The host that this process runs on: its memory limits, processes, ports and environment."""
