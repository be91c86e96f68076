"""What a job can do: one folder per stage, and the table of them.

language/   what the stages share that train on text of the data service
"""

from orchestrator.stages.stage import Stage
from orchestrator.stages.table import STAGES

__all__ = ["STAGES", "Stage"]
