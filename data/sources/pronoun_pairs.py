"""English and French sentences whose pronoun takes the gender of a noun that stands before it.

English says "it" of all things, French "il" or "elle": whoever translates has to look the noun up.
Each noun is always told with its articles, which tell its gender; whether it is trained on in a
sentence is decided by its key, so that held-out sentences ask for what was never seen together.
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
    "the {} came out of the oven and it was {}": "{} est sorti{} du four et {} était {}",
    "the {} fell off the table as it was {}": "{} est tombé{} de la table car {} était {}",
    "the {} arrived from the village but it was {}": "{} est arrivé{} du village mais {} était {}",
    "the {} stayed in the kitchen as it was {}": "{} est resté{} dans la cuisine car {} était {}",
}
"""Each names another noun, too, of either gender, which the pronoun does not mean."""


def noun_pairs() -> Iterator[Pair]:
    """Each noun with its articles; without a key, so that it is always trained on."""
    for number, nouns in enumerate((MASCULINE, FEMININE)):
        for english, french in nouns.items():
            indefinite, this = ("un", "une")[number], ("ce", "cette")[number]
            if number == 0 and _elides(french):
                this = "cet"
            article = "an" if english[0] in "aeiou" else "a"
            yield Pair(f"the {english}", _definite(french, number), KIND)
            yield Pair(f"{article} {english}", f"{indefinite} {french}", KIND)
            yield Pair(f"this {english}", f"{this} {french}", KIND)


def sentence_pair(draw: random.Random) -> Pair:
    """A sentence about a noun, with a pronoun for it; all of a noun have one key."""
    number = draw.randrange(2)
    english, french = draw.choice(list((MASCULINE, FEMININE)[number].items()))
    adjective, forms = draw.choice(list(ADJECTIVES.items()))
    source, target = draw.choice(list(FRAMES.items()))
    said = target.format(
        _definite(french, number), ("", "e")[number], ("il", "elle")[number], forms[number]
    )
    return Pair(source.format(english, adjective), said, KIND, f"pronoun {english}")


def _definite(french: str, number: int) -> str:
    """With its definite article."""
    return f"l'{french}" if _elides(french) else f"{('le', 'la')[number]} {french}"


def _elides(french: str) -> bool:
    """Whether an article loses its vowel before the word."""
    return french[0] in "aeiouéœ"
