"""Hydra configs: config.yaml first, then one folder per group, one YAML per choice."""
