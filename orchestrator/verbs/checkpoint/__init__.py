"""`orchestrate checkpoint`: the checkpoints of a run, in its folder or behind a URL.

command    the verb, and run folders    rows    what is shown of each
remote     runs behind a URL
"""
