import numpy as np
import torch
from torch.nn import functional

from data import Batch
from models.configs import LSTMConfig
from orchestrator.config import EngineConfig
from orchestrator.record.positions import binned
from orchestrator.stages.language.objective import next_token
from orchestrator.stages.language.positions import LossByPosition
from orchestrator.training.engine import build as build_engine
from orchestrator.training.loop import evaluating

MODEL = LSTMConfig(vocab_size=11, width=8, init_std=0.5)


def test_sums_by_place_are_those_of_a_loop_and_add_up_to_the_loss():
    engine = build_engine(
        MODEL, EngineConfig(name="torch", precision="fp32"), None, device=torch.device("cpu")
    )
    rng = np.random.default_rng(0)
    tokens, mask = rng.integers(11, size=(3, 7)), rng.random((3, 6)) < 0.8
    documents = np.array([[0] * 6, [0, 0, 1, 1, 1, 1], [0, 1, 2, 2, 2, 3]], dtype=np.int32)
    places = {"all": LossByPosition(6, engine.device), "apart": LossByPosition(6, engine.device)}
    for name, apart in (("all", None), ("apart", documents)):
        batch = Batch(tokens, mask, np.arange(3), apart)
        with evaluating(engine):
            summed = places[name].objective(engine, batch)
            torch.testing.assert_close(summed.loss.float(), next_token(engine, batch).loss)
            logits = engine.forward(
                torch.from_numpy(tokens[:, :-1]),
                documents=None if apart is None else torch.from_numpy(apart),
            )
        losses = functional.cross_entropy(
            logits.transpose(1, 2), torch.from_numpy(tokens[:, 1:]), reduction="none"
        )
        expected = np.zeros((2, 6))
        for row, place in zip(*np.nonzero(mask), strict=True):
            start = 0 if apart is None else list(apart[row]).index(apart[row, place])
            expected[:, place - start] += float(losses[row, place]), 1
        np.testing.assert_allclose(places[name].over_ranks(), expected, rtol=1e-5)


def test_bins_are_means_over_tokens(tmp_path):
    (tmp_path / "a.csv").write_text("tokens_seen,tokens,loss\n1,5,3\n2,5,2\n3,1,1.5\n4,3,0.5\n")
    assert binned(tmp_path / "a.csv") == ([1.0, 2.0, 3.75], [3.0, 2.0, 0.75])
