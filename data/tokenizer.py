"""Texts to token ids and back: a byte-level BPE trained on the corpus, plain bytes, or a file.

Every tokenizer here has one `end_of_text` id that no text can produce: the characters
"<|endoftext|>" inside a document are encoded like any others.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files import DataError, parse_json, read_json, write_text_atomic
from data.messages import check_choice, cut, listed, override
from data.within import within

END_OF_TEXT = "<|endoftext|>"
# Names of the end of a text in published tokenizers, the most particular first.
END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]")
MASK = "<mask>"
MASK_NAMES = (MASK, "[MASK]", "<|mask|>")  # in published tokenizers
KINDS = ("bpe", "bytes", "file")
SMALLEST_BPE = 257  # 256 bytes and end of text
USUAL_BPE = 4096
MOST_BYTES = 2**26  # of a tokenizer.json; the largest known has 2**25
MOST_TOKENS = 2**24  # the largest known has 2**18
CHOSEN = "end_of_text"  # marks the added token that a setting has chosen, for the library does not
ENDS = re.compile(r"end|eos|eot|</s>|stop", re.IGNORECASE)  # what such a token may be called
# A pattern in a tokenizer.json of others can take time that is exponential in the text; usual ones
# make a million characters a second.
PATIENCE_S, SLOWEST = 30.0, 50_000


@dataclass
class TokenizerConfig:
    """How text becomes tokens."""

    kind: str = "bpe"
    """bpe (byte pairs, trained on the job's own train split), bytes (a token is a byte), or file
    (the tokenizer.json of tokenizer.path)."""
    vocab_size: int | None = None
    """For kind=bpe: how many different tokens there are at most, the 256 bytes and end of text
    included; a text without so many pairs to merge yields fewer. null: 4096. The other kinds have
    a size of their own."""
    digits: bool = False
    """For kind=bpe: true: each digit is a token of its own, so that no number is unseen."""
    mask: bool = False
    """For kind=bpe: true: there is a token <mask> besides, which no text can produce; models that
    learn from masked tokens need one."""
    path: str | None = None
    """For kind=file: a tokenizer.json, as the tokenizers library writes it, or the folder it is
    in."""
    end_of_text: str | None = None
    """For kind=file: the special token that ends a text, where it is called otherwise than usual.
    null: the eos_token of the tokenizer_config.json beside it, else the first of the usual names
    that the file has."""

    def __post_init__(self) -> None:
        """Check every field; messages name the setting, its value and what would do."""
        check_choice("tokenizer.kind", self.kind, KINDS)
        if self.kind != "bpe" and self.vocab_size is not None:
            raise DataError(
                f"tokenizer.vocab_size={self.vocab_size} is for tokenizer.kind=bpe, which is "
                f"trained; tokenizer.kind={self.kind} has a size of its own; drop it, or try "
                "tokenizer=bpe"
            )
        if self.kind == "bpe":
            if self.vocab_size is None:
                self.vocab_size = USUAL_BPE
            special = 1 + self.mask
            if self.vocab_size < 256 + special:
                raise DataError(
                    f"tokenizer.vocab_size={self.vocab_size} must be at least {256 + special}: a "
                    f"byte-level BPE holds 256 bytes + {special} special token"
                    f"{'s' * self.mask}; for example 4096 (or "
                    "tokenizer.kind=bytes)"
                )
        for name in ("digits", "mask"):
            if self.kind != "bpe" and getattr(self, name):
                raise DataError(
                    f"tokenizer.{name}=true is for tokenizer.kind=bpe, which is trained, not for "
                    f"tokenizer.kind={self.kind}; drop it, or try tokenizer=bpe"
                )
        if self.kind == "file" and not self.path:
            raise DataError("tokenizer.kind=file needs tokenizer.path=FILE, a tokenizer.json")
        if self.kind != "file" and self.path is not None:
            raise DataError(
                f"tokenizer.path={self.path} is not read by tokenizer.kind={self.kind}; add "
                "tokenizer.kind=file or drop the path"
            )
        if self.kind != "file" and self.end_of_text is not None:
            raise DataError(
                f"tokenizer.end_of_text={cut(self.end_of_text)} is not read by tokenizer.kind="
                f"{self.kind}, which has one of its own; drop it"
            )


def vocab_size(config: TokenizerConfig) -> int:
    """The vocabulary the settings lead to, or that a text may fill; known before it is read."""
    if config.kind == "bytes":
        return SMALLEST_BPE
    if config.kind == "bpe":
        assert config.vocab_size is not None  # checked by the config
        return config.vocab_size
    return Tokenizer.of_file(config).vocab_size


class Tokenizer:
    """One tokenizer: `bpe` is the `tokenizers` object, None for plain bytes.

    Attributes:
        vocab_size: the largest id + 1, over all ids, added and reserved ones too.
        end_of_text: the id that ends each document.
        mask: the id that stands for a token that is to be told. None: there is none.
        start_of_text: the id that a text to be continued begins with: what the file itself puts
            first (as Llama's <s>), else the end of the text before.
        special: the ids of tokens that no text is encoded to, by their names.
        fingerprint: sha256 of the canonical JSON.
    """

    def __init__(self, content: Any, place: str, end_of_text: str | None = None) -> None:
        """Build from the JSON value of a tokenizer.

        Args:
            content: what its file holds.
            place: names it in errors.
            end_of_text: as the setting; it stays chosen in `json`.

        Raises:
            DataError: it is no tokenizer, or has no such token.
        """
        if not isinstance(content, dict):
            raise DataError(f"{place} is JSON but no tokenizer; it must be a tokenizer.json")
        # Padding and cutting belong to whoever makes batches: neither may change what a text is.
        content.update({"truncation": None, "padding": None} if "model" in content else {})
        _choose(content, place, end_of_text)
        self.json = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        self.fingerprint = hashlib.sha256(self.json.encode("utf-8")).hexdigest()
        self.bpe: Any = None
        self.mask: int | None = None
        self._place, self._has_patterns = place, '"Regex":' in self.json
        if content == BYTES:
            self.vocab_size, self.end_of_text, self.start_of_text = SMALLEST_BPE, 256, 256
            self.special = {END_OF_TEXT: 256}
            return
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        try:
            self.bpe = HuggingFaceTokenizer.from_str(self.json)
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                f"{place} is JSON but no tokenizer ({cut(str(error), 200)}); it must be a "
                "tokenizer.json of the tokenizers library"
            ) from None
        self.bpe.encode_special_tokens = True  # specials inside a text are plain text
        vocabulary = self.bpe.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise DataError(f"{place} holds a tokenizer without tokens")
        self.vocab_size = max(vocabulary.values()) + 1
        if self.vocab_size > MOST_TOKENS:
            raise DataError(
                f"{place} has a token with the id {self.vocab_size - 1:,}; ids below "
                f"{MOST_TOKENS:,} are read"
            )
        special = {
            t.content: i for i, t in self.bpe.get_added_tokens_decoder().items() if t.special
        }
        self.special = special
        chosen = [t["content"] for t in content.get("added_tokens") or () if t.get(CHOSEN)]
        names = [name for name in (*chosen, *END_NAMES) if name in special]
        if not names:
            near = sorted(special, key=lambda name: not ENDS.search(name))
            example = override("tokenizer.end_of_text", next(filter(ENDS.search, near), "NAME"))
            raise DataError(
                f"{place} has no end of text that is known: none of {', '.join(END_NAMES)} is a "
                f"special token of it (its special tokens: {listed(near)}); say which ends a "
                f"text: {example}"
            )
        self.end_of_text = special[names[0]]
        self.mask = next((special[n] for n in MASK_NAMES if n in special), None)
        first = self.bpe.encode("", add_special_tokens=True).ids[:1]
        self.start_of_text = first[0] if first else self.end_of_text

    @staticmethod
    def plain_bytes() -> "Tokenizer":
        """One token per UTF-8 byte, and end of text."""
        return Tokenizer(BYTES, "the bytes tokenizer")

    @staticmethod
    def train(
        texts: Iterable[str], vocab_size: int, *, digits: bool = False, mask: bool = False
    ) -> "Tokenizer":
        """A byte-level BPE (GPT-2's split into words) with `vocab_size` tokens.

        It has fewer where the texts have no more pairs to merge.

        Args:
            texts: to count pairs in.
            vocab_size: with the special tokens.
            digits: whether each digit stands alone.
            mask: whether there is a token for what is masked.
        """
        from tokenizers import Tokenizer as HuggingFaceTokenizer
        from tokenizers import decoders, models, pre_tokenizers, trainers

        bpe = HuggingFaceTokenizer(models.BPE())
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        alone = pre_tokenizers.Digits(individual_digits=True)
        bpe.pre_tokenizer = pre_tokenizers.Sequence([alone, words]) if digits else words
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            special_tokens=[END_OF_TEXT, *([MASK] if mask else [])],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        bpe.train_from_iterator(texts, trainer=trainer)
        return Tokenizer(parse_json(bpe.to_str()), "the trained tokenizer")

    @staticmethod
    def of_file(config: TokenizerConfig) -> "Tokenizer":
        """The tokenizer of kind=file: that of a file, or of a folder of a model."""
        path = Path(str(config.path)).expanduser()
        if path.is_dir():
            there = sorted(own.name for own in path.iterdir() if "token" in own.name)
            path /= "tokenizer.json"
            if not path.is_file():
                raise DataError(
                    f"tokenizer.path={config.path} is a folder without a tokenizer.json; of "
                    f"tokenizers it has: {listed(there)}"
                )
        return Tokenizer.load(path, config.end_of_text)

    @staticmethod
    def load(path: Path, end_of_text: str | None = None) -> "Tokenizer":
        """Read a tokenizer.json, of `save` or of the tokenizers library.

        Of a model's folder its tokenizer_config.json says what ends a text: the answers of a chat
        model end with another token than the texts that it was pretrained on.

        Raises:
            DataError: there is none, or none that can be used; names the file.
        """
        if not path.is_file():
            raise DataError(f"tokenizer.path={path}: there is no such file")
        try:
            content = read_json(path, MOST_BYTES)
        except DataError as error:
            raise DataError(f"{error}; it must be a tokenizer.json of tokenizers") from None
        return Tokenizer(content, str(path), end_of_text or _end_beside(path, content))

    def bounded(
        self, size: int, function: Callable[..., Any], *arguments: Any, **options: Any
    ) -> Any:
        """What a method of `bpe` returns, which a pattern of others must not hold for ever.

        Args:
            size: characters or tokens it is given, by which it has time.
            function: the method.
            *arguments: its own.
            **options: its own.

        Raises:
            DataError: it takes too long, or its library breaks down.
        """
        seconds = PATIENCE_S + size / SLOWEST
        try:
            if self._has_patterns:
                return within(seconds, function, *arguments, **options)
            return function(*arguments, **options)
        except TimeoutError:
            raise DataError(
                f"{self._place}: no answer for {size:,} characters or tokens in {seconds:.0f} s; a "
                "pattern (Regex) in it takes time that is exponential in the text; use another "
                "tokenizer"
            ) from None
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust; no Exception
                raise
            raise DataError(
                f"{self._place}: the tokenizers library breaks down in it "
                f"({cut(str(error), 200)}); use another tokenizer"
            ) from None

    def save(self, path: Path) -> None:
        """Write the canonical JSON, all at once."""
        write_text_atomic(path, self.json)

    @property
    def library_json(self) -> str:
        """As the tokenizers library reads it; plain bytes as a BPE without merges."""
        if self.bpe is not None:
            return self.json
        from tokenizers import AddedToken, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        # The library writes bytes as characters: these first, and others for the rest.
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in shown]
        names = {byte: chr(byte) for byte in shown}
        names |= {byte: chr(256 + number) for number, byte in enumerate(hidden)}
        vocabulary = {names[byte]: byte for byte in range(256)}
        plain = HuggingFaceTokenizer(models.BPE(vocab=vocabulary, merges=[]))
        plain.pre_tokenizer, plain.decoder = split, decoders.ByteLevel()
        plain.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
        return str(plain.to_str())

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without end of text."""
        if self.bpe is None:
            return list(text.encode("utf-8"))
        encode = self.bpe.encode_batch_fast  # of one text, since `encode` stops other threads
        [encoding] = self.bounded(len(text), encode, [text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; end of text shows as its name, broken UTF-8 as U+FFFD."""
        ids = [int(i) for i in ids]
        if self.bpe is not None:
            decode = self.bpe.decode_batch
            [text] = self.bounded(len(ids), decode, [ids], skip_special_tokens=False)
            return str(text)
        parts, start = [], 0
        for i, token in enumerate([*ids, self.end_of_text]):
            if token == self.end_of_text:
                parts.append(bytes(ids[start:i]).decode("utf-8", errors="replace"))
                start = i + 1
        return END_OF_TEXT.join(parts)


def _end_beside(path: Path, content: Any) -> str | None:
    """The special token that the tokenizer_config.json beside a tokenizer.json calls the end.

    None: there is no such file or token, or one is marked in the tokenizer.json itself.
    """
    beside = path.with_name("tokenizer_config.json")
    if not beside.is_file() or not isinstance(content, dict):
        return None
    said = read_json(beside, MOST_BYTES)
    end = said.get("eos_token") if isinstance(said, dict) else None
    end = end.get("content") if isinstance(end, dict) else end
    tokens = _added(content)
    marked = any(token.get(CHOSEN) for token in tokens)
    known = any(token.get("special") and token.get("content") == end for token in tokens)
    return end if known and not marked else None


def _added(content: dict[str, Any]) -> list[dict[str, Any]]:
    added = content.get("added_tokens")
    return [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []


def _choose(content: dict[str, Any], place: str, end_of_text: str | None) -> None:
    """Mark the token that the setting names as the end of a text.

    Raises:
        DataError: it is no special token.
    """
    if end_of_text is None:
        return
    tokens = _added(content)
    special = [str(t.get("content")) for t in tokens if t.get("special")]
    if end_of_text not in special:
        raise DataError(
            f"tokenizer.end_of_text={cut(end_of_text)} is no special token of {place}; these are: "
            f"{listed(sorted(special, key=lambda name: not ENDS.search(name)))}"
        )
    for token in tokens:
        token[CHOSEN] = token.get("content") == end_of_text


BYTES: dict[str, Any] = {"kind": "bytes", "version": 1}


def load_or_train(config: TokenizerConfig, texts: Callable[[], Iterator[str]]) -> Tokenizer:
    """The tokenizer of the settings; `texts` gives the train documents when it must be trained."""
    if config.kind == "bytes":
        return Tokenizer.plain_bytes()
    if config.kind == "file":
        return Tokenizer.of_file(config)
    return Tokenizer.train(texts(), vocab_size(config), digits=config.digits, mask=config.mask)
