"""Prompts exchanged for further ones, on one rank and on two."""

import numpy as np
import torch

from orchestrator.stages.rollouts.resampling import exchanged, sources_of
from orchestrator.stages.rollouts.updating import Asked, over_all
from orchestrator.training import distributed
from orchestrator.training.rollout import as_rollout, step_ids

END = 99


def asked(numbers):
    """Answers of unlike lengths, each of its number as a token."""
    written = [[n] * (1 + n % 4) + [END] * (n % 2) for n in numbers.tolist()]
    rollout = as_rollout(
        [[5] * (1 + n % 3) for n in numbers.tolist()],
        [(tokens, [-float(tokens[0])] * len(tokens)) for tokens in written],
        END,
        torch.device("cpu"),
    )
    pairs = [(f"q{n}", f"a{n}") for n in numbers]
    return Asked(numbers, pairs, rollout, [str(n) for n in numbers])


def told(found):
    """All that there is of each answer, without filling."""
    own = found.rollout
    rows = range(len(found.ids))
    parts = [(own.tokens[n, 1:][own.mask[n]], own.sampled[n][own.mask[n]]) for n in rows]
    written = [(tokens.tolist(), sampled.tolist()) for tokens, sampled in parts]
    return list(zip(found.ids, found.prompts, found.texts, written, own.ended, strict=True))


def gathered():
    """A number of each answer of a step, over all ranks: its place, squared."""
    places = step_ids(1, 16, 2, 2, distributed.rank(), distributed.world_size())
    values = torch.from_numpy(places**2).float()
    return over_all(places, values).tolist()


def exchange():
    """Groups 1 and 3 of a step of four for what differs of the next prompts, their 0th and 2nd."""
    places = step_ids(1, 16, 2, 2, distributed.rank(), distributed.world_size())
    uneven, further = (
        torch.tensor(own) for own in ([True, False, True, False], [True, False, True, True])
    )
    sources = sources_of(uneven, further, copies=4)
    found = exchanged(asked(places), asked(places + 16), places, sources, END)
    return list(zip(places.tolist(), told(found), strict=True))


def test_an_exchanged_group_comes_whole_and_to_its_place_however_many_ranks_there_are(two):
    alone = exchange()
    numbers = np.array([*range(4), *range(16, 20), *range(8, 12), *range(24, 28)])
    assert alone == list(enumerate(told(asked(numbers))))
    ranks = two.run(exchange)
    assert [len(own) for own in ranks] == [8, 8]
    assert sorted((one for own in ranks for one in own), key=lambda one: one[0]) == alone
    squares = [float(place**2) for place in range(16)]  # groups are whole, whoever has answered
    assert gathered() == squares
    assert two.run(gathered) == [squares, squares]


def test_where_further_prompts_teach_too_little_groups_of_one_reward_stay():
    none, second = torch.tensor([False, False]), torch.tensor([False, True])
    assert sources_of(second, none, copies=2) == {}
    assert sources_of(none, second, copies=2) == {0: 2, 1: 3}
