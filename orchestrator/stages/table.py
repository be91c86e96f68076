"""The table of stages: what a job can do."""

from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.stages.stage import Stage

STAGES = {
    "pretrain": Stage(
        PretrainConfig,
        "orchestrator.stages.pretrain.driver",
        "orchestrator.stages.pretrain.train:pretrain",
    ),
}
