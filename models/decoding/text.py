"""Tokens to pieces of text as they come, without half characters and up to a stop string."""

from collections.abc import Callable, Sequence

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what bytes decode to that are no character, or not yet one


class TextStream:
    """The text of one row, token by token.

    A piece is handed out once it can no longer change: a character may take several tokens, and a
    stop string may begin in one token and end in another.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        """`decode` turns tokens into text; `stops` are strings before which the text ends.

        Raises:
            ValueError: a stop string is empty.
        """
        if "" in stops:
            raise ValueError("a stop string is empty; every text would end before it begins")
        self.decode, self.stops = decode, stops
        self.stopped = False
        self._tokens: list[int] = []
        self._settled = 0  # tokens whose text is out of question
        self._shown = 0  # characters of the text of the others that were handed on
        self._held = ""  # text that may be the beginning of a stop string

    def push(self, token: int) -> str:
        """Add a token; return the piece of text that is certain now, often none."""
        self._tokens.append(token)
        text = self.decode(self._tokens[self._settled :])
        if text.endswith(BROKEN):  # perhaps the beginning of a character
            return ""
        piece = text[self._shown :]
        # The next token is decoded together with this one: a tokenizer may drop the space before
        # a first token.
        self._settled = len(self._tokens) - 1
        self._shown = len(self.decode(self._tokens[self._settled :]))
        return self._passed(piece)

    def finish(self) -> str:
        """The rest, at the end of the tokens."""
        if self.stopped:
            return ""
        piece = self._passed(self.decode(self._tokens[self._settled :])[self._shown :])
        piece, self._held = piece + self._held, ""
        return piece

    def _passed(self, piece: str) -> str:
        """What may be handed out of the text held back and a new piece."""
        text = self._held + piece
        ends = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        held = max(
            (n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])),
            default=0,
        )
        self._held = text[len(text) - held :]
        return text[: len(text) - held]
