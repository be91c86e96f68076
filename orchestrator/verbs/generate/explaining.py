"""One text, and how each of its tokens came about, step by step."""

from collections.abc import Collection, Sequence
from dataclasses import asdict

from data import Tokenizer
from models.decoding import Sampling, explain, row_seeds
from models.language import LanguageModel

SHOWN = 5  # likeliest tokens of a choice


def explain_and_print(
    model: LanguageModel,
    tokenizer: Tokenizer,
    row: Sequence[int],
    room: int,
    sampling: Sampling,
    stops: Collection[int],
    seed_of_run: int,
) -> None:
    """Write one text, and show how each of its tokens came about."""

    def shown(token: int) -> str:
        return repr(tokenizer.decode([token]))

    (seed,) = row_seeds(seed_of_run, 1)
    V = len(model.head_weight)
    for place in range(room):
        choice = explain(model, row, sampling, seed=seed, place=place, stop_tokens=stops)
        print(f"text so far: {tokenizer.decode(row[1:])!r}, {len(row)} tokens with its start")
        print(
            f"1. vector: the model turns them into {len(choice.vector)} numbers, of length "
            f"{float(choice.vector.norm()):.3f}"
        )
        print(f"2. similarity: its dot product with each of the {V:,} output vectors; the highest:")
        print("   token             number   dot product   cosine   softmax   chance")
        likeliest = choice.similarities.topk(min(SHOWN, V)).indices.tolist()
        for token in dict.fromkeys((*likeliest, choice.token)):  # the one chosen in any case
            print(
                f"   {shown(token):16.16}  {token:6}   {float(choice.similarities[token]):11.3f} "
                f"{float(choice.cosines[token]):8.3f}  {float(choice.likelihoods[token]):8.4f} "
                f"{float(choice.chances[token]):8.4f}"
            )
        print("3. softmax: e^similarity, divided by the sum over all tokens")
        allowed = int((choice.chances > 0).sum())
        if choice.uniform is None:
            print("4. chance: temperature 0 takes the likeliest")
        else:
            print(f"4. chance: after {_changes(sampling)}, {allowed:,} of {V:,} tokens are left")
            low, high = choice.stretch
            print(
                f"5. draw: all chances end to end; {choice.uniform:.6f} falls between {low:.6f} "
                f"and {high:.6f}"
            )
        print(f"-> {shown(choice.token)}\n")
        if choice.token in stops:
            break
        row = [*row, choice.token]
    print(tokenizer.decode(row[1:]))


def _changes(sampling: Sampling) -> str:
    """What is done to the probabilities, in order."""
    done = {name: value for name, value in asdict(sampling).items() if value is not None}
    if sampling.repetition_penalty == 1:
        del done["repetition_penalty"]
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in done.items())
