"""What a job will do, worked out before it starts; everything that can be refused is refused.

planning.py     the plan of a job, and its lines
resume.py       where it goes on, and what a resume may change
weights.py      what its models start from
devices.py      what there is, and whether the job fits it
outputs.py      whether its checkpoints fit the disk
memory.py       state of a worker, in closed form
traffic.py      what workers send each other
working.py      what a step needs besides, by role
engines.py      what a rollout engine needs, beside the workers
timing.py       how long a step takes
forecast.py     all of that together
showing.py      how it reads: memory, time, hours, money, energy
several.py      what several jobs take together
hardware.py     what the job is taken to run on
calibration.py  what was measured of this machine
gpu_calibration.py  and of a kind of GPU; measured/ comes with this code
lessons.py      what runs have taught
waiting.py      how long it would wait in the queue
prices.py       what an hour costs
fitting.py      changes that make a job fit, or faster
scoring.py      what came of a plan
"""
