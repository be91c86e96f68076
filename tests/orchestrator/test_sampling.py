"""Texts by weights in training: those that the usual sampler writes, on any rank and engine."""

from data import Tokenizer
from models.decoding import generate, row_seeds
from orchestrator.stages.language.sampling import SAMPLING, sample_in_training
from orchestrator.training import distributed
from tests.orchestrator import tiny

PROMPTS = ("\x01\x02", "\x05", "")
NEW, MOST = 12, 13


def written(names):
    """Of each engine: several prompts at once, and one alone beside the usual sampler's text."""
    tokenizer, answer = Tokenizer.plain_bytes(), {}
    for name in names:
        config = tiny.job(name, distributed.world_size())
        config.model.vocab_size, config.model.init_std = tokenizer.vocab_size, 0.3
        trainer = tiny.build(config)
        trainer.model.train()
        room = {"new_tokens": NEW, "most_tokens": MOST, "seed": 3}
        together = sample_in_training(trainer, tokenizer, PROMPTS, **room)
        alone = sample_in_training(trainer, tokenizer, PROMPTS[:1], **room)
        assert trainer.model.training
        usual = None
        if name == "torch":
            row = [tokenizer.end_of_text, *tokenizer.encode(PROMPTS[0])]
            made = generate(
                trainer.model,
                [row],
                min(NEW, MOST - len(row)),
                SAMPLING,
                seeds=row_seeds(3, 1),
                stop_tokens=(tokenizer.end_of_text,),
            )
            written_row = [*row, *made.rows()[0]]
            usual = tokenizer.decode([t for t in written_row if t != tokenizer.end_of_text])
        answer[name] = together, alone, usual
    return answer


def test_every_rank_and_engine_writes_what_the_usual_sampler_writes(one, two):
    (alone,) = one.run(written, ("torch",))
    texts, single, usual = alone["torch"]
    assert single == [usual]
    assert len(set(texts)) == len(PROMPTS)
    for text, prompt in zip(texts, PROMPTS, strict=True):
        assert text.startswith(prompt)
        assert text != prompt
    for rank in two.run(written, ("zero3",)):
        for found in rank.values():
            assert found == (texts, single, None)
