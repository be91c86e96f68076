"""Arguments to JobConfig, one or many: the home of hydra."""

from orchestrator.compose.jobs import compose, compose_one

__all__ = ["compose", "compose_one"]
