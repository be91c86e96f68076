import pytest
import torch
from torch.nn import functional

from models import projection
from models.projection import project

SHAPES = [((2, 3), 8, 40), ((1, 1), 40, 8), ((7,), 5, 11), ((3, 17), 13, 5), ((2, 5), 8, 9)]


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_projection_and_its_gradients_are_those_of_torch(
    rows, inputs, outputs, bias, autocast, monkeypatch
):
    """Both add products up in fp32 and round once."""
    monkeypatch.setattr(projection, "MULTIPLIES_BF16", True)
    monkeypatch.setattr(projection, "TRANSPOSED_FROM", 2)
    dtype = torch.float32 if autocast else torch.bfloat16
    draw = torch.Generator().manual_seed(0)
    shapes = [(*rows, inputs), (outputs, inputs), *([(outputs,)] if bias else [])]
    tensors = [torch.randn(s, generator=draw).to(dtype).requires_grad_() for s in shapes]
    seen = torch.randn(*rows, outputs, generator=draw).bfloat16()
    found = []
    for function in (project, functional.linear):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = function(*(tensors if bias else [*tensors, None]))
        found.append([y, *torch.autograd.grad(y, tensors, seen)])
    turned = found[0][0].grad_fn.name() == "_ProjectedBackward"
    assert turned == (2 * min(inputs, outputs) <= max(inputs, outputs))
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.is_contiguous()
        torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=0.02)


def test_what_is_not_trained_gets_no_gradient():
    x = torch.randn(3, 600).bfloat16()
    weight = torch.randn(256, 600).bfloat16().requires_grad_()
    y = project(x, weight, None)
    y.sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad, x.sum(0).expand(256, 600), rtol=2**-6, atol=0.02)
    weight.requires_grad_(False)
    x.requires_grad_()
    project(x, weight, None).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, 600), rtol=2**-5, atol=0.2)
