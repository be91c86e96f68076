"""Engines: forward, backward and step over plain PyTorch or DeepSpeed ZeRO, and their state.

building.py      `build`: which engine, around a model that it materialises itself
protocol.py      what every engine does
torch_engine.py  one process of plain PyTorch, and whole frozen models
zero_engine.py   DeepSpeed, ZeRO 0 to 3; the only package that imports it
"""

from orchestrator.training.engine.building import build
from orchestrator.training.engine.importing import forget_process_group
from orchestrator.training.engine.protocol import Engine
from orchestrator.training.engine.sharding import whole_weights

__all__ = ["Engine", "build", "forget_process_group", "whole_weights"]
