"""What word vectors say: nearest words, analogies, and files for the TensorBoard projector.

V words, D numbers per vector.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.files import write_text_atomic
from orchestrator.stages.pooling import Vectors, unit
from orchestrator.stages.result import Table

Question = tuple[str, str, str, str]
SHOWN = 6  # nearest words of a word
EXAMPLES, FREQUENT, LETTERS = 8, 5, 4  # every fifth of the most frequent words of so many letters

BUILT_IN = """\
: plural nouns
method methods class classes
class classes function functions
function functions argument arguments
argument arguments object objects
object objects module modules
module modules string strings
string strings value values
value values exception exceptions
exception exceptions type types
type types method methods
: third person
return returns raise raises
raise raises call calls
call calls take takes
take takes specify specifies
use uses return returns
: past participles
return returned raise raised
raise raised call called
call called define defined
define defined use used
use used return returned
"""
"""Questions in the format of questions-words.txt (Mikolov et al. 2013)."""


def read_questions(path: str | None) -> dict[str, list[Question]]:
    """Questions by section: `a b c d` asks for d, which is to c as b is to a.

    Raises:
        ValueError: the file is missing, or a line has another form.
    """
    if path is not None and not Path(path).is_file():
        raise ValueError(
            f"stage.analogies={path} is no file; give one in the questions-words format, or null"
        )
    text = BUILT_IN if path is None else Path(path).read_text(encoding="utf-8")
    found: dict[str, list[Question]] = defaultdict(list)
    section = "questions"
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(":"):
            section = line[1:].strip()
        elif line.strip():
            parts = line.lower().split()
            if len(parts) != 4:
                raise ValueError(
                    f"stage.analogies={path}: line {number} has {len(parts)} words, and a question "
                    "has four, as `king queen man woman`; sections begin with a colon"
                )
            found[section].append((parts[0], parts[1], parts[2], parts[3]))
    return dict(found)


def nearest(
    vectors: Vectors, query: Vectors, but: Sequence[int], count: int
) -> list[tuple[int, float]]:
    """Numbers and cosines of the vectors (V, D), of length 1, that are nearest to a query (D,)."""
    cosines = vectors @ unit(query)
    cosines[[*but]] = -np.inf
    order = np.argsort(-cosines, kind="stable")[:count]
    return [(int(place), float(cosines[place])) for place in order if np.isfinite(cosines[place])]


def nearest_table(words: Sequence[str], vectors: Vectors, asked: Sequence[str] | None) -> Table:
    """The nearest words of some, or of some frequent ones, with their cosines."""
    if asked is None:
        content = [word for word in words if len(word) >= LETTERS]
        asked = content[: FREQUENT * EXAMPLES : FREQUENT]
    number, units = {word: place for place, word in enumerate(words)}, unit(vectors)
    rows = []
    for word in asked:
        own = number[word]
        found = nearest(units, units[own], [own], SHOWN)
        rows.append((word, ", ".join(f"{words[n]} {cosine:.2f}" for n, cosine in found)))
    return Table("nearest", ("word", "nearest, by cosine"), tuple(rows))


def analogies(
    words: Sequence[str], vectors: Vectors, questions: dict[str, list[Question]]
) -> dict[str, tuple[int, int, int]]:
    """Of each section: answered rightly, asked, and left out for a word that has no vector.

    The answer is the word whose vector is nearest to b - a + c, all of length 1, other than those
    three (3CosAdd; Mikolov et al. 2013).
    """
    number, units = {word: place for place, word in enumerate(words)}, unit(vectors)
    found = {}
    for section, asked in questions.items():
        right = unknown = 0
        for question in asked:
            if any(word not in number for word in question):
                unknown += 1
                continue
            a, b, c, d = (number[word] for word in question)
            ((answer, _),) = nearest(units, units[b] - units[a] + units[c], (a, b, c), 1)
            right += answer == d
        found[section] = right, len(asked) - unknown, unknown
    return found


def analogies_table(found: dict[str, tuple[int, int, int]], words: int) -> Table:
    """How many questions were answered, beside a guess."""
    rows = [
        (
            section,
            f"{right} of {asked}" + (f", {unknown} with unknown words" if unknown else ""),
            f"{right / asked:.0%}" if asked else "-",
            f"{1 / max(words - 3, 1):.2%}",
        )
        for section, (right, asked, unknown) in found.items()
    ]
    return Table("analogies", ("a is to b as c is to", "right", "share", "by chance"), tuple(rows))


def write_projector(folder: Path, words: Sequence[str], vectors: Vectors) -> list[Path]:
    """vectors.tsv and metadata.tsv, as https://projector.tensorflow.org loads them."""
    folder.mkdir(exist_ok=True)
    lines = ("\t".join(f"{x:.6g}" for x in own) for own in vectors)
    write_text_atomic(folder / "vectors.tsv", "".join(f"{line}\n" for line in lines))
    write_text_atomic(folder / "metadata.tsv", "".join(f"{word}\n" for word in words))
    return [folder / "vectors.tsv", folder / "metadata.tsv"]
