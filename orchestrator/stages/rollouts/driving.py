"""A stage of rollouts in the process that starts the job: arithmetic, prompts, record."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.chat import template_of
from data.files import cache_root
from data.messages import counted
from data.sources.conversation import Conversation
from data.sources.conversations import file_conversations
from data.sources.python_questions import python_questions
from models import cost
from models.configs import language
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.stages.examples.driving import ready_of
from orchestrator.stages.examples.published import open_arrays
from orchestrator.stages.examples.ragged import filled_lengths
from orchestrator.stages.examples.splitting import left_out
from orchestrator.stages.language.preparing import describe
from orchestrator.stages.language.roles import language_role, tokenizer_of_all, value_role
from orchestrator.stages.rollouts.engine_settings import VLLM
from orchestrator.stages.rollouts.prompts import PublishedPrompts, publish_prompts
from orchestrator.stages.rollouts.section import OWN, REWARD, RolloutConfig
from orchestrator.stages.rollouts.text import text_of, with_text
from orchestrator.stages.stage import Outline, Ready, RoleOutline, Say, Score, Shown, Work
from orchestrator.stages.weights import verified_weights
from orchestrator.training.vllm_process import BLOCK

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

SAME = f"{', '.join(f'stage.{name}' for name in OWN)} and model.weights"
TRAINING = (
    Shown("train/reward", "reward {:.3f}"),
    Shown("train/kl", "KL {:.3f} nats/token"),
    Shown("train/answer_tokens", "{:.1f} tokens an answer"),
    Shown("train/answers_per_second", "{:.1f} answers/s", rate=True),
    Shown("train/trainer_idle", "trainer idle {:.0%}", rate=True),
    Shown("train/engines_idle", "engines idle {:.0%}", rate=True),
    Shown("train/step_seconds", "{:.3g} s/step", rate=True),
)
EVALUATION = (
    Shown("validation/reward", "held-out reward {:.3f}"),
    Shown("validation/learned_reward", "by the model {:.3f}"),
    Shown("validation/kl", "KL {:.3f} nats/token"),
)


def outline(config: JobConfig) -> Outline:
    """The job from its settings alone. Raises ValueError for models that read other tokens."""
    stage = config.section(RolloutConfig)
    template_of(stage.chat_template)
    tokenizer = tokenizer_of_all(config)
    _check_reward_model(config)
    _check_engines(config, stage)
    return _outline(config, f"{_source(stage)}, not read yet", tokenizer.vocab_size)


def estimate(config: JobConfig, start: "Checkpoint | None") -> Outline:
    """The same: prompts are counted when they are made."""
    return outline(config)


def prepare(config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
    """Read and publish the prompts; check that the job can go on from `start`."""
    stage = config.section(RolloutConfig)
    say(f"reading {_source(stage)}")
    published = publish_prompts(
        _conversations(config, stage),
        _source(stage),
        tokenizer_of_all(config),
        template_of(stage.chat_template),
        prompt_tokens=stage.prompt_tokens,
        validation_fraction=stage.validation_fraction,
        seed=config.seed,
        cache=cache_root(),
    )
    text = text_of(config, start, say) if stage.ptx_coefficient else None
    if text is not None:
        published = replace(published, text=text.published())
    if published.too_long:
        say(left_out(published.too_long, "prompt", f"stage.prompt_tokens={stage.prompt_tokens}"))
    data = (
        f"{_source(stage)}: {published.train:,} train and {published.validation:,} held-out "
        f"prompts, {published.tokens:.1f} tokens a prompt"
    )
    if text is not None:
        data += f"; {sum(own.tokens for own in text.train_sets.values()):,} tokens of "
        data += f"{describe(config.data)} beside them"
    ready = ready_of(
        config,
        start,
        _outline(config, data, published.vocab_size, published),
        published,
        same=SAME,
        name="python_questions" if stage.data is None else Path(stage.data).stem,
        source=stage.data or "python_docs",
        columns={"messages": "list"},
    )
    return ready if text is None else with_text(ready, config, text)


def _check_reward_model(config: JobConfig) -> None:
    """Raise ValueError if what shall tell rewards was never trained to."""
    if REWARD not in config.role_names:
        return
    model = language(config.role(REWARD).model)
    assert model.weights is not None  # the stage has checked it
    found = verified_weights(model.weights, model.weights_role, allow_pickle=model.allow_pickle)
    if not getattr(found.model_config, "value_head", False):
        raise ValueError(
            f"roles.reward.model.weights={model.weights} has no value head, which tells rewards; "
            "give a run of stage=reward"
        )


def _check_engines(config: JobConfig, stage: RolloutConfig) -> None:
    """Raise ValueError if vLLM is not there, or can't write with the policy."""
    if stage.engine_kind == VLLM:
        from orchestrator.training.vllm_engine import check_vllm

        assert stage.engine_python is not None  # the settings were checked
        if config.resources.gpus_per_worker > 1:
            raise ValueError(
                f"stage.engine_kind=vllm writes on one GPU, and resources.gpus_per_worker="
                f"{config.resources.gpus_per_worker}; set resources.gpus_per_worker=1"
            )
        policy = rollout_role(config, tokenizer_of_all(config).vocab_size, stage.roles[0])
        check_vllm(stage.engine_python, policy.model, config.resources.device)


def _reward(config: JobConfig, stage: RolloutConfig) -> str:
    rule = f"stage.rule={stage.rule}, from 0 to 1"
    if REWARD not in config.role_names:
        return rule
    weights = language(config.role(REWARD).model).weights
    return f"of the model roles.reward.model.weights={weights}; what is told is {rule}"


def _source(stage: RolloutConfig) -> str:
    return stage.data or "questions about functions of Python"


def _conversations(config: JobConfig, stage: RolloutConfig) -> Iterator[Conversation]:
    return python_questions(config.seed) if stage.data is None else file_conversations(stage.data)


def _outline(
    config: JobConfig, data: str, vocabulary: int, published: PublishedPrompts | None = None
) -> Outline:
    """The plan of a job whose steps are rollouts with the updates by them."""
    stage, batch = config.section(RolloutConfig), config.batch
    roles = {
        name: RoleOutline.of(rollout_role(config, vocabulary, name), work_of(config, name))
        for name in config.role_names
    }
    answers = batch.step * stage.steps
    first = next(iter(roles.values()))
    flops = length = None
    longest = stage.prompt_tokens + stage.answer_tokens
    if published is not None:
        flops = answers * flops_per_answer(config, published)
        [ends] = open_arrays(published.fingerprint, cache_root(), "train-ends")
        asked = batch.step // config.workers // stage.copies
        prompt, most = filled_lengths(ends, max(asked, 1))
        length, longest = prompt + stage.answer_tokens, most + stage.answer_tokens
    operations = "" if flops is None else f"; {flops:.3g} floating-point operations"
    cut = (
        f"{counted(stage.mini_batches, 'optimizer step')} x {counted(batch.micro, 'answer')} x "
        f"{counted(batch.accumulation_steps, 'micro-step')} x {counted(config.workers, 'worker')}"
    )
    lines = {
        "model": first.line,
        "data": data,
        "step": f"{cut} = {counted(batch.step, 'answer')} of at most "
        f"{counted(stage.answer_tokens, 'token')}, learned from {counted(stage.epochs, 'time')}",
        "job": f"{counted(stage.steps, 'step')} = {answers:,} answers and "
        f"{counted(stage.steps * stage.updates, 'optimizer step')}{operations}",
        "reward": _reward(config, stage),
    }
    return Outline(
        stage.steps,
        lines,
        roles,
        TRAINING,
        EVALUATION,
        flops=flops,
        length=length,
        longest=longest,
        score=Score("validation/reward", lower_is_better=False),
    )


def work_of(config: JobConfig, role: str) -> Work:
    """What a step asks of a model: the policy writes, all look at it, what is trained learns."""
    stage, text = config.section(RolloutConfig), config.data.sequence_length
    trained, policy = role not in stage.frozen, role == stage.roles[0]
    return Work(
        passes=stage.epochs if trained else 0,
        text=text if policy and stage.ptx_coefficient else 0,
        looks=1,
        written=stage.answer_tokens if policy else 0,
        writers=stage.engines if policy else 0,
        block=BLOCK if stage.engine_kind == VLLM else None,
        ahead=policy and stage.off_policy_steps > 0,
        updates=stage.updates if trained else 0,
        loss="scores",
        scored=stage.answer_tokens,
        averaged=policy and stage.ema_decay is not None,
    )


def rollout_role(config: JobConfig, vocabulary: int, name: str) -> RoleConfig:
    """As `language_role`, with a value head where the stage wants one."""
    valued = name in config.section(RolloutConfig).valued
    return (value_role if valued else language_role)(config, vocabulary, name)


def flops_per_answer(config: JobConfig, published: PublishedPrompts) -> float:
    """Floating-point operations for an answer of full length, of all that is done with it.

    A forward pass of the policy writes it and one scores it, one of each other model scores it,
    and each epoch takes a forward and a backward pass, which is three forward passes. So does a
    row of text beside it.
    """
    stage = config.section(RolloutConfig)
    tokens = round(published.tokens) + stage.answer_tokens
    found = 0.0
    for name in config.role_names:
        model = rollout_role(config, published.vocab_size, name).model
        policy = name == stage.roles[0]
        trained = 0 if name in stage.frozen else 3 * stage.epochs
        found += cost.flops_per_sample(model, tokens) / 3 * (1 + policy + trained)
        if policy and stage.ptx_coefficient:
            found += stage.epochs * cost.flops_per_sample(model, config.data.sequence_length)
    return found
