"""Several runs beside each other: where they differ, and pictures of them together.

differences.py   settings, data, code, and whether a curve lies in the band of others
recipes.py       reference curves of the stages, as conf/ has them
pictures.py      those of a sweep: both that follow
panels.py        losses by steps, time, size and distance, and the results, best first
tiles.py         pictures of several runs on one: how each divides the plane
"""
