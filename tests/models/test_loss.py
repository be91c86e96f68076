import math
import weakref
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import models
from models import loss as loss_module
from models.configs import GPTConfig
from models.cost import token_loss_bytes
from models.loss import summed_loss, token_grades, token_losses, token_scores

SHAPES = [(3, 5, 8, 7), (1, 1, 4, 2), (2, 17, 6, 33)]  # B, T, D, V


def case(B, T, D, V, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, T, D, generator=draw).to(dtype).requires_grad_()
    head = torch.randn(V, D, generator=draw).to(dtype).requires_grad_()
    targets = torch.randint(V, (B, T), generator=draw)
    mask = torch.rand(B, T, generator=draw) < 0.6
    return hidden, head, targets, mask


@pytest.fixture(params=[(1, 1, 1), (4, 3, 5), (10**6, 2, 1), (10**6, 10**6, 64)], ids=str)
def chunks(request, monkeypatch):
    """Sets how many tokens' logits of a vocabulary V are held and softened at once, or all, and
    what V is rounded up to."""
    held, softened, multiple = request.param

    def choose(V):
        monkeypatch.setattr(loss_module, "LOGITS_BYTES", {"cpu": held * 4 * V})
        monkeypatch.setattr(loss_module, "SOFTMAX_BYTES", {"cpu": softened * 4 * V})
        monkeypatch.setattr(loss_module, "ALIGNED_TO", {"cpu": multiple})

    return choose


def test_a_target_is_graded_by_its_loss_and_by_whether_it_is_the_likeliest(chunks):
    for shape in SHAPES:
        hidden, head, targets, mask = case(*shape)
        chunks(shape[-1])
        logits = hidden @ head.T
        likeliest = logits.argmax(-1)
        targets = torch.where(torch.arange(targets.shape[1]) % 2 == 0, likeliest, targets)
        losses, right = token_grades(hidden, head, targets, mask)
        wanted = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        torch.testing.assert_close(losses, wanted * mask)
        assert torch.equal(right > 0, (likeliest == targets) & mask)
        assert (token_grades(hidden, head, targets, mask & False) == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("which", [None, "some", "few", "none"])
def test_log_probability_and_entropy_are_those_of_the_whole_distribution(
    chunks, temperature, which
):
    for shape in SHAPES:
        hidden, head, targets, mask = case(*shape)
        chunks(shape[-1])
        mask = {
            None: torch.ones_like(mask), "some": mask, "few": mask & (targets == 0),
            "none": mask & False,
        }[which]  # fmt: skip
        found = token_scores(hidden, head, targets, temperature, None if which is None else mask)
        likely = torch.softmax(hidden @ head.T / temperature, -1)
        logprobs = likely.gather(-1, targets[..., None])[..., 0].log()
        entropy = torch.distributions.Categorical(likely).entropy()
        logprobs, entropy = logprobs * mask, entropy * mask
        assert torch.allclose(found, torch.stack([logprobs, entropy], -1), atol=1e-5)
        weights = torch.randn(found.shape)
        ours = torch.autograd.grad((found * weights).sum(), [hidden, head], retain_graph=True)
        plain = (logprobs * weights[..., 0] + entropy * weights[..., 1]).sum()
        for one, other in zip(ours, torch.autograd.grad(plain, [hidden, head]), strict=True):
            assert torch.allclose(one, other, atol=1e-4)


def test_the_loss_of_a_token_is_minus_the_log_of_its_probability(chunks):
    hidden, head, targets, mask = case(3, 5, 8, 7)
    chunks(7)
    losses, total = token_losses(hidden, head, targets).detach(), 0.0
    for b in range(3):
        for t in range(5):
            scores = (head.double() @ hidden[b, t].double()).tolist()
            normaliser = math.log(math.fsum(math.exp(score) for score in scores))
            expected = normaliser - scores[int(targets[b, t])]
            assert float(losses[b, t]) == pytest.approx(expected, rel=1e-5)
            total += expected if mask[b, t] else 0.0
    assert float(summed_loss(hidden, head, targets, mask).detach()) == pytest.approx(
        total, rel=1e-6
    )


def whole(hidden, head, targets, mask):
    """The same sum from whole logits, as torch differentiates it."""
    logits = F.linear(hidden, head).float()
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return torch.where(mask.flatten(), losses, 0.0).sum()


def test_with_bias_and_smoothed_labels_it_is_torchs_own_loss(chunks):
    hidden, head, targets, mask = case(3, 5, 8, 7)
    chunks(7)
    bias = torch.linspace(-2, 2, 7, requires_grad=True)
    ours = summed_loss(hidden, head, targets, mask, bias=bias, label_smoothing=0.1)
    logits = F.linear(hidden, head, bias)[mask]
    torchs = F.cross_entropy(logits, targets[mask], reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(ours, torchs)
    for one, other in zip(
        *(torch.autograd.grad(loss, (hidden, head, bias)) for loss in (ours, torchs)), strict=True
    ):
        torch.testing.assert_close(one, other)


def chunked(hidden, head, targets, mask):
    return torch.where(mask, token_losses(hidden, head, targets), 0.0).sum()


def selected(hidden, head, targets, mask):
    losses = token_losses(hidden, head, targets, mask)
    assert not losses[~mask].any()
    return losses.sum()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "autocast"])
@pytest.mark.parametrize("loss", [summed_loss, chunked, selected])
def test_loss_and_gradients_are_those_of_whole_logits(loss, precision, shape, chunks):
    *tensors, targets, mask = case(*shape, torch.bfloat16 if precision == "bf16" else torch.float32)
    chunks(shape[-1])
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else nullcontext()
    found = []
    for function in (loss, whole):
        with autocast:
            total = function(*tensors, targets, mask)
        assert total.dtype == torch.float32
        found.append([total.detach(), *torch.autograd.grad(total * 3, tensors)])
    tolerance = {"rtol": 1e-6, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.02, "atol": 0.1}
    for ours, expected in zip(*found, strict=True):
        assert ours.dtype == expected.dtype
        torch.testing.assert_close(ours, expected, **tolerance)


@pytest.mark.parametrize("trained", [0, 1])
def test_a_frozen_head_or_body_gets_no_gradient_and_the_other_its_own(trained):
    *tensors, targets, mask = case(2, 17, 6, 33)
    tensors[1 - trained].requires_grad_(False)
    summed_loss(*tensors, targets, mask).backward()
    (expected,) = torch.autograd.grad(whole(*tensors, targets, mask), tensors[trained])
    torch.testing.assert_close(tensors[trained].grad, expected)
    assert tensors[1 - trained].grad is None


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_nothing_behind_the_mask_changes_the_loss_or_reaches_a_gradient(poison):
    hidden, head, targets, mask = case(3, 5, 8, 7)
    other_targets = torch.where(mask, targets, (targets + 1) % 7)
    spoiled = hidden.detach().clone()
    spoiled[~mask] = poison
    expected = summed_loss(hidden, head, targets, mask)
    assert summed_loss(spoiled, head, other_targets, mask) == expected
    (gradient,) = torch.autograd.grad(expected, hidden)
    assert bool((gradient[~mask] == 0).all())


def test_a_fully_masked_batch_costs_nothing_and_has_a_zero_gradient():
    hidden, head, targets, mask = case(3, 5, 8, 7)
    loss = summed_loss(hidden, head, targets, torch.zeros_like(mask))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not hidden.grad.any()
    assert not head.grad.any()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
def test_compiled_it_has_the_same_gradients():
    *tensors, targets, mask = case(2, 17, 6, 33)
    found = [
        torch.autograd.grad(loss(*tensors, targets, mask), tensors)
        for loss in (summed_loss, torch.compile(summed_loss, backend="eager", fullgraph=True))
    ]
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_gradient_is_used_once():
    hidden, head, targets, mask = case(3, 5, 8, 7)
    loss = summed_loss(hidden, head, targets, mask)
    loss.backward()
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had that was made."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


class Held(TorchDispatchMode):
    """Remembers the most bytes that were held at once of what was made since."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor.untyped_storage())
        return made

    def note(self, storage):
        if storage.data_ptr() in self.seen:
            return
        self.seen.add(storage.data_ptr())
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.forget, storage.data_ptr(), storage.nbytes())

    def forget(self, place, size):
        self.seen.discard(place)
        self.now -= size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_of_tokens_hold_as_many_bytes_as_the_formula_says(dtype):
    hidden, head, targets, _ = case(2, 64, 8, 1024, dtype)
    number = dtype.itemsize

    def most(make, learns=True):
        with Held() as held, torch.set_grad_enabled(learns):
            found = make()
            if learns:
                found.sum().backward()
        return held.most

    for kind, make, learns in (
        ("losses", lambda: token_losses(hidden, head, targets), True),
        ("scores", lambda: token_scores(hidden, head, targets, 0.7), True),
        ("looks", lambda: token_scores(hidden, head, targets, 0.7), False),
    ):
        told = token_loss_bytes(128, 1024, number, "cpu", kind)
        assert most(make, learns) == pytest.approx(told, rel=0.05), kind


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_gives_losses_instead_of_logits_which_are_never_whole(tied, monkeypatch):
    B, T, V = 4, 32, 301
    config = GPTConfig(layers=1, width=16, heads=2, max_positions=T, tied_embedding=tied)
    config.vocab_size = V
    torch.manual_seed(0)
    model = models.build(config)
    monkeypatch.setattr(loss_module, "LOGITS_BYTES", {"cpu": 4 * 10 * V})
    tokens, targets = torch.randint(V, (2, B, T))
    mask = torch.rand(B, T) < 0.7
    losses = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="none")
    expected = (losses * mask.flatten()).sum()
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    with Largest() as largest:
        loss = model(tokens, targets=targets, loss_mask=mask)
        loss.backward()
    assert largest.numbers < B * T * V / 2
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close([each.grad for each in model.parameters()], list(gradients))
    torch.testing.assert_close(model(tokens, targets=targets).flatten(), losses)
