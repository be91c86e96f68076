"""Jobs that wait for the cluster, and what travels with them."""
