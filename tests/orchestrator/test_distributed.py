"""Reductions over two real ranks, and who a process is without any."""

import pytest
import torch

from orchestrator.training import distributed

CPU = torch.device("cpu")


def reductions():
    rank = distributed.rank()
    sums = distributed.sum_over_ranks([1.5 + rank, 2.0**53 * (1 - rank), rank], CPU)
    gathered = distributed.gather_objects([rank] * (3 * rank))
    nothing = distributed.gather_objects([])
    text = distributed.broadcast_object(f"Grüße von {rank}")
    return sums, gathered, nothing, text


def test_sums_gathers_and_broadcasts_agree_on_every_rank(two):
    for sums, gathered, nothing, text in two.run(reductions):
        assert sums == [4.0, 2.0**53, 1.0]
        assert gathered == [[], [1, 1, 1]]
        assert nothing == [[], []]
        assert text == "Grüße von 0"


def test_a_world_of_one_gives_back_what_it_got(one):
    (answer,) = one.run(reductions)
    assert answer == ([1.5, 2.0**53, 0.0], [[]], [[]], "Grüße von 0")


def test_without_environment_a_process_is_rank_0_of_1(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.device_of("cpu") == CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_with_what_torch_sees():
    with pytest.raises(RuntimeError, match=r"GPU 0 was asked for.*sees 0.*orchestrate doctor"):
        distributed.device_of("cuda")
