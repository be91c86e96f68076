"""The table of stages: what a job can do."""

from orchestrator.stages.evaluate.stage import EvaluateConfig
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.stages.stage import Stage

STAGES = {
    "pretrain": Stage(
        PretrainConfig,
        "orchestrator.stages.pretrain.driver",
        "orchestrator.stages.pretrain.train:pretrain",
    ),
    "evaluate": Stage(
        EvaluateConfig,
        "orchestrator.stages.evaluate.driver",
        "orchestrator.stages.evaluate.measure:evaluate",
    ),
}
