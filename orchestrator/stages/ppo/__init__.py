"""Proximal policy optimization: a critic tells what each token was expected to bring.

stage.py    the settings
driver.py   the stage in the process that starts the job
auditing.py checks of policy and critic before a long run
train.py    what every rank does, with policy, critic and the frozen reference
"""
