"""The table of stages: what a job can do."""

from orchestrator.stages.classify.stage import ClassifyConfig
from orchestrator.stages.classify_text.stage import ClassifyTextConfig
from orchestrator.stages.constitution.stage import ConstitutionConfig
from orchestrator.stages.dpo.stage import DPOConfig
from orchestrator.stages.embed.stage import EmbedConfig
from orchestrator.stages.evaluate.stage import EvaluateConfig
from orchestrator.stages.grpo.stage import GRPOConfig
from orchestrator.stages.judge.stage import JudgingConfig
from orchestrator.stages.masked.stage import MaskedConfig
from orchestrator.stages.ppo.stage import PPOConfig
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.stages.regress.stage import RegressConfig
from orchestrator.stages.reward.stage import RewardConfig
from orchestrator.stages.sft.stage import SFTConfig
from orchestrator.stages.stage import Stage
from orchestrator.stages.translate.stage import TranslateConfig

STAGES = {
    "pretrain": Stage(
        PretrainConfig,
        "orchestrator.stages.pretrain.driver",
        "orchestrator.stages.pretrain.train:pretrain",
    ),
    "classify": Stage(
        ClassifyConfig,
        "orchestrator.stages.classify.driver",
        "orchestrator.stages.classify.train:classify",
    ),
    "embed": Stage(
        EmbedConfig,
        "orchestrator.stages.embed.driver",
        "orchestrator.stages.embed.train:embed",
    ),
    "regress": Stage(
        RegressConfig,
        "orchestrator.stages.regress.driver",
        "orchestrator.stages.regress.train:regress",
    ),
    "masked": Stage(
        MaskedConfig,
        "orchestrator.stages.masked.driver",
        "orchestrator.stages.masked.train:masked",
    ),
    "classify_text": Stage(
        ClassifyTextConfig,
        "orchestrator.stages.classify_text.driver",
        "orchestrator.stages.classify_text.train:classify_text",
    ),
    "translate": Stage(
        TranslateConfig,
        "orchestrator.stages.translate.driver",
        "orchestrator.stages.translate.train:translate",
    ),
    "sft": Stage(
        SFTConfig,
        "orchestrator.stages.sft.driver",
        "orchestrator.stages.sft.train:sft",
    ),
    "reward": Stage(
        RewardConfig,
        "orchestrator.stages.reward.driver",
        "orchestrator.stages.reward.train:reward",
    ),
    "dpo": Stage(
        DPOConfig,
        "orchestrator.stages.dpo.driver",
        "orchestrator.stages.dpo.train:optimize",
    ),
    "grpo": Stage(
        GRPOConfig,
        "orchestrator.stages.grpo.driver",
        "orchestrator.stages.grpo.train:optimize",
    ),
    "ppo": Stage(
        PPOConfig,
        "orchestrator.stages.ppo.driver",
        "orchestrator.stages.ppo.train:optimize",
    ),
    "judge": Stage(
        JudgingConfig,
        "orchestrator.stages.judge.driver",
        "orchestrator.stages.judge.judge:judge",
    ),
    "constitution": Stage(
        ConstitutionConfig,
        "orchestrator.stages.constitution.driver",
        "orchestrator.stages.constitution.revise:revise",
    ),
    "evaluate": Stage(
        EvaluateConfig,
        "orchestrator.stages.evaluate.driver",
        "orchestrator.stages.evaluate.measure:evaluate",
    ),
}
