"""Arguments to JobConfig, one or many: the home of hydra."""

from orchestrator.compose.jobs import compose, compose_one, defaults

__all__ = ["compose", "compose_one", "defaults"]
