"""Where work runs: the devices at hand, and workers placed on them by Ray.

Three kinds of workers, each with a file one reads first:
    gang.py       share one torch.distributed world; start and fail together, and start again
    pool.py       a function over many arguments, by workers that may die
    service.py    replicas of an object with state and methods, replaced one at a time

What they stand on:
    placement.py  what is asked for, and whether it can ever fit
    nodes.py, inventory.py    the CPUs and GPUs of this machine, and of a cluster
    worker.py     the process of a worker, from inside; answers.py: what goes to it and back
    bundles.py, gang_run.py, polls.py, world.py    the parts of a gang
    inline.py     a gang without Ray
    pulse.py      whether a worker of a pool or a service still answers
    slot.py, replica.py    one worker of a pool, one replica of a service
    files.py      files on hosts that do not share the driver's disk
    failure.py, post_mortem.py, ending.py    who is to blame, of what it died, and that all are gone
    errands.py    small functions carried out on a given node
    head.py       whether Ray's head process, and the raylet of a node, are still there
    waiting.py    waits for room, or for a head process that is away
    emulated.py   a cluster of several nodes on this machine, to rehearse the loss of one
    connection/   the connection to Ray
    daemons/      what stays on this machine: started, watched, restarted, ended
    queue/        jobs that wait for room, and what travels with them
    host/         memory, processes, ports and environment of one host
"""
