import pytest
import torch
from torch import nn

from models import build
from models.configs import LSTMConfig, RNNConfig, WindowConfig
from models.decoding import Sampling, generate
from models.dropout import keyed
from models.recurrent import stepping
from models.recurrent.lstm import LSTMLayer
from models.recurrent.rnn import RNNLayer

CONFIGS = [
    RNNConfig(vocab_size=31, layers=2, width=24, init_std=0.5),
    LSTMConfig(vocab_size=31, layers=2, width=24, init_std=0.5, tied_embedding=False),
    WindowConfig(vocab_size=31, window=4, width=8, hidden=20, init_std=0.5),
    WindowConfig(vocab_size=31, window=1, width=8, hidden=20, init_std=0.5),
]
NAMES = ["rnn", "lstm", "window", "window of 1"]
RAGGED = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [3, 3], [1]]


def torchs(layer):
    """torch.nn's own module with the same weights; its gates stand in the order i, f, g, o."""
    units, inputs = layer.state_weight.shape[1], layer.input_weight.shape[1]
    kind = nn.LSTM if isinstance(layer, LSTMLayer) else nn.RNN
    theirs = kind(inputs, units, batch_first=True).to(layer.bias.dtype)
    order = torch.arange(len(layer.bias))
    if kind is nn.LSTM:
        order = order.view(4, units)[[0, 1, 3, 2]].flatten()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(layer.input_weight[order])
        theirs.weight_hh_l0.copy_(layer.state_weight[order])
        theirs.bias_ih_l0.copy_(layer.bias[order])
        theirs.bias_hh_l0.zero_()
    return theirs, order


@pytest.mark.parametrize("kind", [RNNLayer, LSTMLayer])
@pytest.mark.parametrize("T", [3, 40])
def test_outputs_state_and_gradients_are_those_of_torch(kind, T):
    torch.manual_seed(0)
    layer = kind(5, 7).double()
    nn.init.normal_(layer.bias)
    theirs, order = torchs(layer)
    x, by_out = torch.randn(3, T, 5).double(), torch.randn(3, T, 7).double()
    found = []
    for each in (layer, theirs):
        own = x.clone().requires_grad_()
        out, state = each(own, None, None) if each is layer else each(own)
        out.backward(by_out)
        found.append((out, state, own.grad))
    (out, state, dx), (their_out, their_state, their_dx) = found
    theirs_too = their_state if isinstance(their_state, tuple) else (their_state,)
    torch.testing.assert_close(out, their_out)
    torch.testing.assert_close(state, tuple(part[0] for part in theirs_too))
    torch.testing.assert_close(dx, their_dx)
    torch.testing.assert_close(layer.input_weight.grad[order], theirs.weight_ih_l0.grad)
    torch.testing.assert_close(layer.state_weight.grad[order], theirs.weight_hh_l0.grad)
    torch.testing.assert_close(layer.bias.grad[order], theirs.bias_ih_l0.grad)


@pytest.mark.parametrize("kind", [RNNLayer, LSTMLayer])
@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_with_sorted_weights_is_fp32_but_for_rounding(kind, autocast):
    torch.manual_seed(0)
    layer, x = kind(32, 48), torch.randn(4, 60, 32)
    exact = layer(x, None, None)[0]
    exact.sum().backward()
    gradients = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    if not autocast:
        layer, x = layer.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rounded = layer(x, None, None)[0]
    assert rounded.dtype == torch.bfloat16
    rounded.float().sum().backward()
    assert (rounded - exact).abs().max() < 0.05
    for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
        assert parameter.grad.dtype == parameter.dtype
        assert (parameter.grad.float() - gradient).norm() < 0.05 * gradient.norm()


def test_all_steps_at_once_are_the_steps_one_by_one():
    torch.manual_seed(0)
    layer = LSTMLayer(5, 7)
    nn.init.normal_(layer.bias)
    x, by_out = torch.randn(3, 40, 5), torch.randn(3, 40, 7)
    before = layer(torch.randn(3, 2, 5), None, None)[1]
    found = []
    for keep in (None, torch.ones(40, 3, dtype=torch.bool)):  # which forgets nothing
        layer.zero_grad()
        own = x.clone().requires_grad_()
        out, state = layer(own, before, keep)
        out.backward(by_out)
        found.append((out, state, own.grad, [p.grad.clone() for p in layer.parameters()]))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_a_gradient_that_was_taken_can_not_be_taken_again():
    out, _ = LSTMLayer(2, 3)(torch.randn(1, 4, 2), None, None)
    out.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_a_change_of_a_token_changes_nothing_before_it_and_what_is_after_it_as_far_as_seen(config):
    torch.manual_seed(0)
    model = build(config)
    tokens = torch.randint(31, (2, 20))
    other = tokens.clone()
    other[:, 9] = (other[:, 9] + 1) % 31
    changed = (model(tokens) != model(other)).any(2)
    sees = config.window if isinstance(config, WindowConfig) else 20
    expected = [9 <= t < 9 + sees for t in range(20)]
    assert changed.tolist() == [expected] * 2


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_each_document_of_a_row_gets_the_losses_and_gradients_that_it_gets_alone(config):
    torch.manual_seed(0)
    model = build(config).double()
    tokens, targets = torch.randint(31, (2, 22)), torch.randint(31, (2, 22))
    lengths = ((5, 1, 16), (9, 10, 3))
    documents = torch.stack([torch.arange(3).repeat_interleave(torch.tensor(n)) for n in lengths])
    together = model(tokens, documents=documents, targets=targets)
    together.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for row, own in enumerate(lengths):
        start = 0
        for length in own:
            part = slice(start, start + length)
            alone = model(tokens[row : row + 1, part], targets=targets[row : row + 1, part])
            torch.testing.assert_close(together[row : row + 1, part], alone)
            alone.sum().backward()
            start += length
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_rows_of_any_lengths_are_continued_as_by_a_loop_without_a_cache(config):
    torch.manual_seed(0)
    model = build(config)
    together = generate(model, RAGGED, 30, Sampling(temperature=0), logprobs=True)
    for number, prompt in enumerate(RAGGED):
        text = list(prompt)
        with torch.no_grad():
            for _ in range(30):
                text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
            likely = model(torch.tensor([text]))[0].log_softmax(-1)
        new = torch.tensor(text[len(prompt) :])
        assert together.tokens[number].tolist() == new.tolist()
        expected = likely[len(prompt) - 1 : -1].gather(1, new[:, None])[:, 0]
        torch.testing.assert_close(together.logprobs[number], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_what_is_kept_of_a_text_does_not_grow_with_it(config):
    model = build(config)
    cache, sizes = model.new_cache(100), []
    for length in (3, 50):
        model.hidden(torch.randint(31, (2, length)), cache)
        sizes.append([part.shape for state in cache.states for part in state])
    assert sizes[0] == sizes[1]
    assert cache.length == 53


def test_dropout_belongs_to_the_sample():
    torch.manual_seed(0)
    model = build(LSTMConfig(vocab_size=31, layers=2, width=24, dropout=0.3))
    tokens, found = torch.randint(31, (3, 9)), []
    for rows in ([0, 1, 2], [2]):
        with keyed(torch.tensor(rows)):
            found.append(model(tokens[rows])[-1])
    torch.testing.assert_close(*found)
    assert not torch.equal(found[1], model.eval()(tokens)[-1])


def test_few_steps_sort_no_weights(monkeypatch):
    monkeypatch.setattr(stepping, "sorted_sum", None)
    layer = RNNLayer(8, 8).bfloat16()
    layer(torch.randn(1, 4, 8).bfloat16(), None, None)
