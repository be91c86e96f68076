"""The story of a run, told by its journal alone: what happened, what it cost, what to do next.

`sentences.py` says one event, for the screen and every list of events; `spending.py` says where the
time of a run went and what its goodput is; `telling.py` puts both into a screen.
"""
