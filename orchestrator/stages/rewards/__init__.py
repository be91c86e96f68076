"""What tells how good an answer is without anybody's judgement.

rules.py  RULES, the table of rewards that a function computes
"""

from orchestrator.stages.rewards.rules import REFERENCED, RULES, Rule

__all__ = ["REFERENCED", "RULES", "Rule"]
