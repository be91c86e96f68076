"""Who is asked for a text or a choice: a model here, an endpoint, or a rule; and what it answers.

section.py      settings of one that is asked
requests.py     what is asked and what is answered, and who can be asked
local.py        a model on this machine that writes, or tells rewards
endpoint.py     a server that speaks as OpenAI's does
answers.py      requests answered once: kept by a hash of what was asked
spending.py     tokens and money, before and after
items.py        questions with answers to rate or compare, in files
agreement.py    how far those who judge agree
verdicts.py     two answers compared, in both orders, or by their rewards
comparing.py    pairs put to the judge of a stage, whoever that is
leaving_out.py  what has no room, or is no row of a file, and how that is told
driving.py      what a stage that asks tells before it starts
"""
