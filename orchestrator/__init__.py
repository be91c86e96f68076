"""Orchestrate the training of language models: one command line over Hydra, Ray, DeepSpeed, MLflow."""
