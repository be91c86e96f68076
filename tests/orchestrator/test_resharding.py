"""Any state goes through any two engines and comes out to the last bit, whatever its shapes are."""

from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from orchestrator.config import EngineConfig, OptimConfig
from orchestrator.training import checkpoint, distributed, engine
from orchestrator.training.checkpoint import SavedRole
from orchestrator.training.checkpoint.comparing import compare


@dataclass(frozen=True)
class Spec:
    """A role: its parameters, and what is peculiar to it."""

    shapes: tuple[tuple[int, ...], ...]
    tied: bool
    """Whether the first parameter has a second name."""
    trained: float
    """What part of it is: 0 of a frozen model, 0.5 where every second parameter is frozen."""

    @property
    def kept(self):
        """Tensors that a checkpoint holds of it: of each trained one, two moments more."""
        return sum(1 if self.is_frozen(number) else 3 for number in range(len(self.shapes)))

    def is_frozen(self, number):
        return number % 2 >= 2 * self.trained


class Model(nn.Module):
    def __init__(self, spec):
        super().__init__()
        for number, shape in enumerate(spec.shapes):
            own = nn.Parameter(torch.empty(shape), requires_grad=not spec.is_frozen(number))
            setattr(self, f"p{number}", own)
        if spec.tied:
            self.again = self.p0

    def reset_parameters(self):
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self):
        return sum((parameter**2).sum() for parameter in self.parameters())


def built(spec, stage, start, role):
    optim = None if not spec.trained else OptimConfig(learning_rate=0.1)
    name = "torch" if stage is None else "deepspeed"
    reader = None if start is None else checkpoint.open_role(start, role)
    return engine.build(
        lambda: Model(spec),
        EngineConfig(name=name, zero_stage=stage),
        optim,
        device=torch.device("cpu"),
        reader=reader,
        resumed_step=None if start is None else start.step,
    )


def carry(root, step, specs, stages, start):
    """Each role is made, or taken over from `start`; a step is taken before the first save."""
    saved = {}
    for role, spec in specs.items():
        own = built(spec, stages[role], start, role)
        if start is None and spec.trained:
            own.backward(own.forward() / distributed.world_size())
            own.step(0.1)
        saved[role] = SavedRole(own.state, None, "adamw" if spec.trained else None)
    return checkpoint.save(root, step, saved, None, {})


SHAPES = st.lists(
    st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4
)
SPECS = st.builds(Spec, SHAPES.map(tuple), st.booleans(), st.sampled_from([0, 0.5, 1]))
LAYOUTS = st.tuples(st.sampled_from([1, 2]), st.integers(0, 3), st.integers(0, 3))


@given(policy=SPECS, critic=SPECS, first=LAYOUTS, second=LAYOUTS)
@settings(
    max_examples=8,
    phases=[Phase.generate],  # each example builds engines: to shrink one would take minutes
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_one_set_of_engines_saved_another_saves_again_to_the_last_bit(
    one, two, tmp_path_factory, policy, critic, first, second
):
    worlds, specs = {1: one, 2: two}, {"policy": policy, "critic": critic}
    root, start = tmp_path_factory.mktemp("resharded"), None
    found = []
    for step, (ranks, *stages) in enumerate((first, second), 1):
        by_role = dict(zip(specs, stages, strict=True))
        start = worlds[ranks].run(carry, root, step, specs, by_role, start)[0]
        found.append(checkpoint.verify(start.path))
    differences = list(compare(*found))
    assert len(differences) == sum(spec.kept for spec in specs.values())
    assert [one.name for one in differences if one.absolute != 0.0] == []
