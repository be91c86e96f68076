"""Jobs that wait for the cluster: commands with needs and owners, kept in a database.

    job.py        a job, its states and the steps between them
    drivers.py    what starts and stops the process of a job, wherever that is: the Protocol
    admission.py  who starts where, who is preempted, and why everybody else waits; pure
    foretelling.py when a job would start that is not handed in yet
    placing.py    bundles onto nodes; preemption.py: who leaves; reasons.py: the sentences
    store.py      the table of jobs for clients; rows.py, database.py: SQLite or PostgreSQL
    keeping.py    the same for the keeper, and its lease
    keeper.py     the loop that makes the processes agree with the table
    processes.py  drivers that are processes of this machine
    ray_jobs.py   drivers that Ray carries to the head of its cluster
    parcel.py     the code that travels with a job, named by its content
    service.py    the daemon that keeps the queue and answers clients over HTTP
    client.py     what a command asks of it; asking.py, version.py: one request

A client adds a job to the store and may go away. One keeper at a time reads the store, asks
admission, writes down what it is about to start, and starts it. What a job trains is unknown here.
"""
