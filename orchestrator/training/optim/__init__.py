"""Optimizers by their name in the config, and the learning rate of each step.

building.py      parameter groups and the optimizer over them
elementwise.py   Adagrad and Lion
muon.py          Muon
schedule.py      the learning rate
uncompiled.py    torch's optimizers without its compiler
"""

from orchestrator.training.optim.building import STATE_KEYS, build
from orchestrator.training.optim.schedule import learning_rate

__all__ = ["STATE_KEYS", "build", "learning_rate"]
