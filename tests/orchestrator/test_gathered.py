"""What DeepSpeed holds of a model under ZeRO 3 beside its shards, against what a plan says."""

from dataclasses import replace

import pytest
import torch

from data import DataConfig
from models.configs import GPTConfig
from orchestrator.config import EngineConfig, JobConfig, OptimConfig, ResourcesConfig, RoleConfig
from orchestrator.plan.memory import memory_of
from orchestrator.plan.working import working_of
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.stages.stage import RoleOutline, Work
from orchestrator.training import engine

MODEL = GPTConfig(vocab_size=300, max_positions=16, layers=4, width=384, heads=6)


def held(model, settings):
    """Of a rank: parameters that are whole after forward passes, a look before the last one; bytes
    of the bucket of gradients, as far as they fill it, and of those that stay behind a step.
    """
    built = engine.build(model, settings, OptimConfig(), device=torch.device("cpu"))
    tokens, whole = torch.arange(16)[None], []
    for look in (False, False, False, True):
        if look:
            with torch.no_grad():
                built.forward(tokens)
        loss = built.forward(tokens).float().logsumexp(-1).mean()
        found = [p.ds_numel for p in built.model.parameters() if p.ds_status.name == "AVAILABLE"]
        whole.append(sum(found))
        built.backward(loss)
        built.step(1e-3)
    inner = built._optimizer
    (bucket,) = (own.buffer for own in inner.ipg_buckets.values() if own.buffer is not None)
    shards = [group.grad for group in inner.fp32_partitioned_groups_flat if group.grad is not None]
    filled = min(bucket.numel(), sum(p.ds_numel for p in built.model.parameters()))
    return whole, filled * bucket.element_size(), sum(grad.nbytes for grad in shards)


@pytest.mark.parametrize("offload", [False, True])
def test_zero_3_gathers_a_small_model_whole_and_keeps_a_bucket_of_gradients(two, offload):
    settings = EngineConfig(zero_stage=3, precision="bf16", offload_optimizer=offload)
    role = RoleOutline.of(RoleConfig(MODEL, settings, OptimConfig()))
    job = JobConfig(
        stage=PretrainConfig(global_batch_size=2),
        model=MODEL,
        data=DataConfig(sequence_length=16),
        engine=settings,
        resources=ResourcesConfig(workers=2),
    )
    told = {
        working_of(replace(role, work=work), job, 16, 1).gathered
        for work in (Work(), Work(looks=1))
    }
    for whole, filled, gradients in two.run(held, MODEL, settings):
        first, *known = whole
        assert first <= 2 * role.largest_layer < role.parameters
        assert known == [role.parameters] * 3
        copied = 2 * role.parameters  # by gloo
        assert told == {2 * role.parameters + copied}
        expected = filled + gradients
        assert memory_of(role, 2).buffers == pytest.approx(expected, rel=1e-3)
        assert (gradients > 0) == offload
