"""Scaling laws: how loss follows from parameters, tokens and compute, with honest intervals.

points     what was measured, and its conventions    sources   a table, run folders, or MLflow
forms      the laws as formulas                      fitting   their constants from points
intervals  how sure they are                         frontier  the best size of each budget
residuals  who lies off the law                      report    what all this says
picture    how it looks                              choosing  the model for a budget
predicting the loss of one run, kept until the run   dial      a family of models by their depth
           tells the truth                           tuning    the best value of a setting
"""
