"""KL estimates against sums over all tokens, and the controller."""

import pytest
import torch

from orchestrator.training.kl import ESTIMATORS, KLController, kl_estimate

REFERENCE = torch.tensor([0.5, -0.3, 0.1])


def both(logits):
    return logits.log_softmax(0), REFERENCE.log_softmax(0)


def exact(ours, theirs):
    return (ours.exp() * (ours - theirs)).sum()


def gradient(of, at):
    """Of a function of the logits of a policy over three tokens."""
    logits = at.clone().requires_grad_()
    (found,) = torch.autograd.grad(of(logits), logits)
    return found


def expected_gradient(how, at):
    """Mean over all tokens, as likely as the policy says, of the gradient of their estimate."""
    likely = at.softmax(0)
    rows = [gradient(lambda x, t=t: kl_estimate(*both(x), how)[t], at) for t in range(3)]
    return sum(p * row for p, row in zip(likely, rows, strict=True))


def test_k1_and_k3_are_unbiased_and_all_are_0_where_policy_and_reference_agree():
    ours, theirs = both(torch.tensor([1.2, 0.4, -0.7]))
    for how in ESTIMATORS:
        mean = (ours.exp() * kl_estimate(ours, theirs, how)).sum()
        assert how == "k2" or mean.item() == pytest.approx(exact(ours, theirs).item(), abs=1e-6)
        assert not kl_estimate(theirs, theirs, how).any()
        assert how == "k1" or (kl_estimate(ours, theirs, how) >= 0).all()
    assert kl_estimate(torch.tensor(-300.0), torch.tensor(0.0), "k3").isfinite()


def test_the_gradient_of_k2_is_that_of_the_exact_kl_and_of_k1_nothing():
    at = torch.tensor([1.2, 0.4, -0.7])
    true = gradient(lambda x: exact(*both(x)), at)
    reverse = gradient(lambda x: exact(*both(x)[::-1]), at)
    assert torch.allclose(expected_gradient("k2", at), true, atol=1e-6)
    assert torch.allclose(expected_gradient("k1", at), torch.zeros(3), atol=1e-6)
    assert torch.allclose(expected_gradient("k3", at), reverse, atol=1e-6)


@pytest.mark.parametrize("how", ["k2", "k3"])
def test_a_step_down_the_estimate_lowers_the_exact_kl(how):
    at = torch.tensor([1.2, 0.4, -0.7])
    after = at - 0.1 * expected_gradient(how, at)
    assert exact(*both(after)) < exact(*both(at))


def test_the_coefficient_rises_above_the_target_falls_below_it_and_stays_when_fixed():
    steered = KLController(0.1, target=6.0, horizon=100)
    steered.update(60.0, 50)  # an error of 9 counts as 0.2
    assert steered.coefficient == pytest.approx(0.1 * 1.1)
    steered.update(5.4, 50)
    assert steered.coefficient == pytest.approx(0.1 * 1.1 * 0.95)
    fixed = KLController(0.1)
    fixed.update(60.0, 50)
    assert fixed.coefficient == 0.1
