"""Sentences whose French pronoun takes the gender of a noun."""

import random

from data.sources.pronoun_pairs import FEMININE, MASCULINE, PHRASES, noun_pairs, sentence_pair


def test_pronoun_participle_and_adjective_agree_with_the_noun():
    draw = random.Random(0)
    found = [sentence_pair(draw) for _ in range(400)]
    assert {pair.key for pair in found} == {f"pronoun {n}" for n in [*MASCULINE, *FEMININE]}
    by_hand = {
        "the pizza came out of the oven and it was delicious": (
            "la pizza est sortie du four et elle était délicieuse"
        ),
        "the tree fell off the table as it was old": (
            "l'arbre est tombé de la table car il était vieux"
        ),
        "the orange stays in the garden but it seems white": (
            "l'orange reste dans le jardin mais elle semble blanche"
        ),
    }
    every = {pair.source: pair.target for pair in (sentence_pair(draw) for _ in range(30_000))}
    assert {source: every[source] for source in by_hand} == by_hand


def test_each_noun_is_told_with_articles_that_tell_its_gender():
    told = {pair.source: pair.target for pair in noun_pairs()}
    assert all(pair.key is None for pair in noun_pairs())
    assert len(told) == 3 * len(PHRASES) * len([*MASCULINE, *FEMININE])
    assert told["without this egg"] == "sans cet œuf"
    assert told["the egg"] == "l'œuf"
    assert told["an egg"] == "un œuf"
    assert told["this tree"] == "cet arbre"
    assert told["this orange"] == "cette orange"
    assert told["a pizza"] == "une pizza"
