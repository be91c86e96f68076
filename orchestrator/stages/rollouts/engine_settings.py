"""The settings of rollout engines, processes beside the workers that write the answers."""

from dataclasses import dataclass

from orchestrator.config.checks import check_at_least, check_choice

OURS, VLLM = "own", "vllm"
KINDS = (OURS, VLLM)


@dataclass
class EnginesConfig:
    """Who writes the answers."""

    engines: int = 0
    """Rollout engines: processes of their own, each with as many CPUs and GPUs as a worker, which
    hold the policy whole and write the answers. Weights go there after each update, hashed on both
    sides. 0: each worker writes its own. With resources.launcher=inline they live in this process.
    """
    engine_kind: str = "own"
    """What they are: own, those of this project, or vllm, vLLM in a Python environment of its own,
    whose answers count by what the policy says of them, as with off_policy_steps."""
    engine_python: str | None = None
    """engine_kind=vllm: the interpreter of that environment, where the job is started and on every
    host."""
    off_policy_steps: int = 0
    """0: a step learns from answers that the policy has just written; 1: engines write the answers
    of the next step meanwhile, with the weights before this one's updates."""
    importance_limit: float = 2.0
    """off_policy_steps, engine_kind=vllm: a token counts by its probability now / when it was
    written, and at most so much (truncated importance sampling)."""

    @property
    def processes(self) -> int:
        """The rollout engines."""
        return self.engines

    @property
    def corrects(self) -> bool:
        """Whether answers are written by another policy than the one that learns from them."""
        return self.off_policy_steps > 0 or self.engine_kind != OURS

    def check_engines(self) -> None:
        """Raise ValueError, with what to type, for settings that don't go together."""
        check_at_least("stage.engines", self.engines, 0)
        check_at_least("stage.off_policy_steps", self.off_policy_steps, 0)
        check_choice("stage.engine_kind", self.engine_kind, KINDS)
        if self.off_policy_steps > 1:
            raise ValueError(
                f"stage.off_policy_steps={self.off_policy_steps} must be 0 or 1: older answers "
                "teach what the policy no longer does; try stage.off_policy_steps=1"
            )
        if self.off_policy_steps and not self.engines:
            raise ValueError(
                f"stage.off_policy_steps={self.off_policy_steps} is for rollout engines, which "
                "write while workers learn, and stage.engines=0; add stage.engines=1"
            )
        if self.engine_kind == OURS:
            return
        if not self.engines:
            raise ValueError(
                f"stage.engine_kind={self.engine_kind} is what rollout engines are, and "
                "stage.engines=0; add stage.engines=1"
            )
        if self.engine_python is None:
            raise ValueError(
                f"stage.engine_kind={self.engine_kind} lives in a Python environment of its own; "
                "add stage.engine_python=FOLDER/bin/python, after python -m venv FOLDER && "
                "FOLDER/bin/pip install vllm"
            )
