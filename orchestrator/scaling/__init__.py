"""Scaling laws: how loss follows from parameters, tokens and compute, with honest intervals.

points     what was measured, and its conventions    sources   from a table or from run folders
forms      the laws as formulas                      fitting   their constants from points
intervals  how sure they are                         frontier  the best size of each budget
residuals  who lies off the law                      report    what all this says
picture    how it looks                              choosing  the model for a budget
"""
