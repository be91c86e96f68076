"""Group-relative policy optimization: each answer is compared with others to the same prompt.

stage.py    the settings
driver.py   the stage in the process that starts the job
train.py    what every rank does, with the policy and the frozen reference
"""
