"""What runs in each worker: engine, loop, objectives, checkpoints. No Ray, MLflow, Hydra."""
