"""The connection to Ray: a private one that is started and ended here, or that of a cluster."""
