"""Answers criticised by principles and revised, for sft and dpo (Bai et al. 2022).

stage       its settings
principles  a constitution, from a file
prompts     what is asked, from a file or of Python's documentation
driver      principles, prompts and writer; what it will cost
revising    answer, critique, revision, round by round
revise      what every rank does
outcome     what the revisions changed, with intervals
answers.yaml  the constitution of the demonstration, checked by rules
"""
