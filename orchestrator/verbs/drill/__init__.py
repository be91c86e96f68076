"""`orchestrate drill`: rehearse failures on a job of one's own, from outside of its code.

`command.py` is the verb; `rows.py` the table of drills, each with what it needs, what it does to
the job and when it is passed; `node_rows.py` those that need several nodes, and `network.py` a
second host for them; `soak.py` those that last for minutes; `rehearsal.py` starts the job as a user
would, follows its journal and waits for it to go on; `faults.py` does the harm; `invariants.py`
says what must hold of every run whatever was done to it.
"""
