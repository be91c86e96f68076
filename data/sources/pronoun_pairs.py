"""English and French sentences whose pronoun takes the gender of a noun that stands before it.

English says "it" of all things, French "il" or "elle": whoever translates has to look the noun up.
Each noun is always told with its articles, which tell its gender, in short phrases; whether it is
trained on in a sentence is decided by its key, so that held-out sentences ask for what was never
seen together.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from data.sources.pair import Pair

KIND = "pronouns"


class Forms(NamedTuple):
    """A French word in both genders."""

    masculine: str
    feminine: str


def _words(lines: str) -> dict[str, str]:
    """A dictionary written as one: English and French, pair by pair."""
    return dict(pair.split() for pair in lines.replace("\n", ",").split(",") if pair.strip())


MASCULINE = _words("""
cake gâteau, bread pain, chicken poulet, cheese fromage, fish poisson, melon melon, egg œuf
book livre, hat chapeau, bag sac, coat manteau, scarf foulard, knife couteau, glass verre
pencil crayon, newspaper journal, basket panier, carpet tapis, bed lit, mirror miroir, piano piano
umbrella parapluie, tree arbre, boat bateau, bicycle vélo, train train, plane avion
""")
FEMININE = _words("""
pizza pizza, soup soupe, tart tarte, sauce sauce, apple pomme, orange orange, pear poire
cherry cerise, key clé, letter lettre, picture image, shirt chemise, dress robe, plate assiette
fork fourchette, spoon cuillère, cup tasse, bottle bouteille, pan casserole, lamp lampe
chair chaise, watch montre, suitcase valise, flower fleur, guitar guitare, doll poupée, ball balle
car voiture
""")
ADJECTIVES = {
    "delicious": Forms("délicieux", "délicieuse"),
    "small": Forms("petit", "petite"),
    "heavy": Forms("lourd", "lourde"),
    "green": Forms("vert", "verte"),
    "white": Forms("blanc", "blanche"),
    "beautiful": Forms("beau", "belle"),
    "old": Forms("vieux", "vieille"),
    "expensive": Forms("cher", "chère"),
    "perfect": Forms("parfait", "parfaite"),
    "round": Forms("rond", "ronde"),
}
FRAMES = {
    "the {} came out of the oven and it was {}": "{noun} est sorti{e} du four et {it} était {so}",
    "the {} fell off the table as it was {}": "{noun} est tombé{e} de la table car {it} était {so}",
    "the {} arrived from the village but it was {}": (
        "{noun} est arrivé{e} du village mais {it} était {so}"
    ),
    "the {} stands on the shelf and it seems {}": (
        "{noun} se trouve sur l'étagère et {it} semble {so}"
    ),
    "the {} does not fit into the box as it is {}": (
        "{noun} ne rentre pas dans la boîte car {it} est {so}"
    ),
    "the {} stays in the garden but it seems {}": (
        "{noun} reste dans le jardin mais {it} semble {so}"
    ),
}
"""Each names another noun, too, of either gender, which the pronoun does not mean. In the last
three no participle tells the gender before the pronoun does: the noun and its article alone do."""


PHRASES = {
    "here is {}": "voici {}",
    "I see {}": "je vois {}",
    "where is {}": "où est {}",
    "we want {}": "nous voulons {}",
    "with {}": "avec {}",
    "without {}": "sans {}",
    "under {}": "sous {}",
    "behind {}": "derrière {}",
    "{}": "{}",
}
"""What is said of a noun with an article, and never needs a pronoun."""


def noun_pairs() -> Iterator[Pair]:
    """Each noun with its articles; without a key, so that it is always trained on."""
    for number, nouns in enumerate((MASCULINE, FEMININE)):
        for english, french in nouns.items():
            indefinite, this = ("un", "une")[number], ("ce", "cette")[number]
            if number == 0 and _elides(french):
                this = "cet"
            article = "an" if english[0] in "aeiou" else "a"
            told = {
                f"the {english}": _definite(french, number),
                f"{article} {english}": f"{indefinite} {french}",
                f"this {english}": f"{this} {french}",
            }
            for source, target in PHRASES.items():
                for own, theirs in told.items():
                    yield Pair(source.format(own), target.format(theirs), KIND)


def sentence_pair(draw: random.Random) -> Pair:
    """A sentence about a noun, with a pronoun for it; all of a noun have one key."""
    number = draw.randrange(2)
    english, french = draw.choice(list((MASCULINE, FEMININE)[number].items()))
    adjective, forms = draw.choice(list(ADJECTIVES.items()))
    source, target = draw.choice(list(FRAMES.items()))
    said = target.format(
        noun=_definite(french, number),
        e=("", "e")[number],
        it=("il", "elle")[number],
        so=forms[number],
    )
    return Pair(source.format(english, adjective), said, KIND, f"pronoun {english}")


def _definite(french: str, number: int) -> str:
    """With its definite article."""
    return f"l'{french}" if _elides(french) else f"{('le', 'la')[number]} {french}"


def _elides(french: str) -> bool:
    """Whether an article loses its vowel before the word."""
    return french[0] in "aeiouéœ"
