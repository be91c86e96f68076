"""Imported once by the process that all measurements are forked from: imports what they need."""

from tests.benchmarks.loader_libraries import CONTENDERS, is_installed

for own in CONTENDERS.values():
    if is_installed(own):
        own.prepare()
