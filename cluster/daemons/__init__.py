"""The processes that stay on this machine: started once, restarted when they die, ended together.

home.py         the folder that holds what is known of them, and who may use them
daemon.py       one of them: its command, how it is told that it answers
supervisor.py   the process that watches them; `python -m cluster.daemons`
control.py      what a command does: start, look, mend, end
ray_nodes.py    the head of a Ray cluster, and a node that joins one
remote.py       hosts of a list join and leave, over ssh
"""
