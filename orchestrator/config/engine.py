"""What carries out forward, backward and step."""

from dataclasses import dataclass

from orchestrator.config.checks import check_choice

PRECISIONS = ("fp32", "bf16")
BUCKET = 50_000_000
"""Elements of the buffers in which gradients are reduced and weights gathered: 200 MB in fp32.
DeepSpeed's own 500 million would be most of the memory of a model of a billion parameters."""
SUB_GROUP = 100_000_000
"""ZeRO 3: elements of the parts in which a rank makes and updates its fp32 weights; temporary
memory is that of one part."""


PREFETCHED = 50_000_000
"""ZeRO 3: elements of the layers that DeepSpeed gathers ahead (its stage3_prefetch_bucket_size)."""
REUSED = 1_000_000_000
"""ZeRO 3: elements on the way from a use of a layer to the next, up to which it stays gathered (its
stage3_max_reuse_distance)."""


@dataclass
class EngineConfig:
    """What carries out forward, backward and step: plain PyTorch or DeepSpeed ZeRO."""

    name: str = "deepspeed"
    """torch (one process) or deepspeed."""
    zero_stage: int | None = None
    """deepspeed: what is sharded over ranks; 0 nothing, 1 optimizer state, 2 and gradients,
    3 and parameters (Rajbhandari et al. 2020). None: 1; and for torch, which shards nothing."""
    offload_optimizer: bool = False
    """deepspeed, stages 1 to 3: optimizer state lives in host memory."""
    offload_parameters: bool = False
    """deepspeed, stage 3: parameters live in host memory between uses."""
    precision: str = "fp32"
    """fp32, or bf16 for matrix products with fp32 master weights. Under DeepSpeed gradients are
    added up in bf16, too: over hundreds of micro-batches a step they lose some tenths of a
    percent, which engine=torch, adding in fp32, does not."""
    activation_checkpointing: bool = False
    """Keep only the input of each block and compute the rest again in the backward pass."""
    compile: bool = False
    """torch.compile the model; needs a C++ compiler on a CPU."""

    def __post_init__(self) -> None:
        """Check choices and the offload rules of ZeRO."""
        check_choice("engine.name", self.name, ("torch", "deepspeed"))
        check_choice("engine.precision", self.precision, PRECISIONS)
        if self.name == "torch" and self.zero_stage is not None:
            raise ValueError(
                f"engine.zero_stage={self.zero_stage} is not for engine.name=torch, which shards "
                f"nothing; leave it out, or try engine=zero{self.zero_stage}"
            )
        if self.name == "deepspeed" and self.zero_stage is None:
            self.zero_stage = 1
        if not 0 <= self.sharding_stage <= 3:
            raise ValueError(f"engine.zero_stage={self.zero_stage} must be 0, 1, 2 or 3")
        if self.offload_parameters and self.sharding_stage != 3:
            raise ValueError(
                "engine.offload_parameters=true needs ZeRO 3; try engine=zero3_offload"
            )
        if self.offload_optimizer and self.sharding_stage == 0:
            raise ValueError(
                "engine.offload_optimizer=true needs ZeRO 1 to 3; try engine=zero2_offload"
            )

    def unread(self, *, trained: bool) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        if trained:
            return {}
        found = {
            "activation_checkpointing": "it is for a backward pass, and nothing is trained",
            "offload_optimizer": "it is for an optimizer, and nothing is trained",
        }
        if self.sharding_stage != 3:
            found["zero_stage"] = (
                "a model that is not trained is whole on every worker, but under engine=zero3"
            )
        return found

    @property
    def sharding_stage(self) -> int:
        """The ZeRO stage; 0 where every worker holds everything."""
        return self.zero_stage or 0
