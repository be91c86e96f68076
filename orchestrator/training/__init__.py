"""What runs in each worker: engine, loop, objectives, checkpoints. Knows no Ray, MLflow or Hydra."""
