"""Several runs beside each other: where they differ, and pictures of them together.

differences.py   settings, data, code, and whether a curve lies in the band of others
curves.py        training and validation of all in one picture
sizes.py         by steps, time, parameters and distance in the context
"""
