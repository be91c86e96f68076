"""Orchestrate the training of language models: Hydra, Ray, DeepSpeed, MLflow."""
