from copy import deepcopy

import pytest
import torch
from torch import nn

from models.norms import RMSNorm

SHAPES = [(1, 1, 5), (3, 7, 24), (2, 1, 192), (9, 33)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_norm_and_its_gradients_are_those_of_torch(shape, dtype):
    """As near to float64 as torch's own."""
    torch.manual_seed(0)
    own, torchs = (kind(shape[-1], eps=1e-5).to(dtype) for kind in (RMSNorm, nn.RMSNorm))
    nn.init.normal_(own.weight)
    torchs.load_state_dict(own.state_dict())
    x, seen = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    found = []
    for norm, y in ((own, x), (torchs, x), (deepcopy(torchs).double(), x.double())):
        y = y.clone().requires_grad_()
        normed = norm(y)
        found.append(
            [normed, *torch.autograd.grad(normed, [y, norm.weight], seen.to(normed.dtype))]
        )
        assert normed.dtype == y.dtype
    assert found[0][0].grad_fn.name() == "_NormedBackward"
    for ours, theirs, true in zip(*found, strict=True):
        assert (ours - true).norm() <= 1.5 * (theirs - true).norm() + 1e-6 * true.norm()
    with torch.no_grad():
        torch.testing.assert_close(own(x), found[0][0])


def test_a_row_of_zeros_has_a_finite_gradient():
    norm, x = RMSNorm(8, eps=1e-5), torch.zeros(2, 8, requires_grad=True)
    norm(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2, 8), 1e-5**-0.5))
