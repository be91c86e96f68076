"""Texts to token ids and back: a byte-level BPE trained on the corpus, plain bytes, or a file.

Every tokenizer here has one `end_of_text` id that no text can produce: the characters
"<|endoftext|>" inside a document are encoded like any others.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files import DataError, write_text_atomic
from data.messages import check_choice

END_OF_TEXT = "<|endoftext|>"
# Names of the end of a text in published tokenizers, the most particular first.
END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]")
KINDS = ("bpe", "bytes", "file")
SMALLEST_BPE = 257  # 256 bytes and end of text
USUAL_BPE = 4096


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
    path: str | None = None
    """For kind=file: a tokenizer.json, as the tokenizers library writes it."""

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
            if self.vocab_size < SMALLEST_BPE:
                raise DataError(
                    f"tokenizer.vocab_size={self.vocab_size} must be at least {SMALLEST_BPE}: a "
                    "byte-level BPE holds 256 bytes + 1 special token; for example 4096 (or "
                    "tokenizer.kind=bytes)"
                )
        if self.kind == "file" and not self.path:
            raise DataError("tokenizer.kind=file needs tokenizer.path=FILE, a tokenizer.json")
        if self.kind != "file" and self.path is not None:
            raise DataError(
                f"tokenizer.path={self.path} is not read by tokenizer.kind={self.kind}; add "
                "tokenizer.kind=file or drop the path"
            )


def vocab_size(config: TokenizerConfig) -> int:
    """The vocabulary the settings lead to, or that a text may fill; known before it is read."""
    if config.kind == "bytes":
        return SMALLEST_BPE
    if config.kind == "bpe":
        assert config.vocab_size is not None  # checked by the config
        return config.vocab_size
    return Tokenizer.load(Path(str(config.path)).expanduser()).vocab_size


class Tokenizer:
    """One tokenizer: `bpe` is the `tokenizers` object, None for plain bytes.

    Attributes:
        vocab_size: the largest id + 1, over all ids, added and reserved ones too.
        end_of_text: the id that ends each document.
        fingerprint: sha256 of the canonical JSON.
    """

    def __init__(self, text: str, place: str) -> None:
        """Build from the JSON text of a tokenizer; `place` names it in errors."""
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{place} is not JSON ({error}); it must be a tokenizer.json of tokenizers"
            ) from None
        if not isinstance(content, dict):
            raise DataError(f"{place} is JSON but no tokenizer; it must be a tokenizer.json")
        # Padding and cutting belong to whoever makes batches: neither may change what a text is.
        content.update({"truncation": None, "padding": None} if "model" in content else {})
        self.json = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        self.fingerprint = hashlib.sha256(self.json.encode("utf-8")).hexdigest()
        self.bpe: Any = None
        if content == BYTES:
            self.vocab_size, self.end_of_text = SMALLEST_BPE, 256
            return
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        try:
            self.bpe = HuggingFaceTokenizer.from_str(self.json)
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                f"{place} is JSON but no tokenizer ({error}); it must be a tokenizer.json of the "
                "tokenizers library"
            ) from None
        self.bpe.encode_special_tokens = True  # specials inside a text are plain text
        vocabulary = self.bpe.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise DataError(f"{place} holds a tokenizer without tokens")
        self.vocab_size = max(vocabulary.values()) + 1
        special = {
            t.content: i for i, t in self.bpe.get_added_tokens_decoder().items() if t.special
        }
        names = [name for name in END_NAMES if name in special]
        if not names:
            raise DataError(
                f"{place} has no end-of-text token: none of {', '.join(END_NAMES)} is a special "
                f"token of it (its special tokens: {', '.join(special) or 'none'}); add one"
            )
        self.end_of_text = special[names[0]]

    @staticmethod
    def plain_bytes() -> "Tokenizer":
        """One token per UTF-8 byte, and end of text."""
        return Tokenizer(json.dumps(BYTES), "the bytes tokenizer")

    @staticmethod
    def train(texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """A byte-level BPE (GPT-2's split into words) with `vocab_size` tokens.

        It has fewer where the texts have no more pairs to merge.
        """
        from tokenizers import Tokenizer as HuggingFaceTokenizer
        from tokenizers import decoders, models, pre_tokenizers, trainers

        bpe = HuggingFaceTokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        bpe.train_from_iterator(texts, trainer=trainer)
        return Tokenizer(bpe.to_str(), "the trained tokenizer")

    @staticmethod
    def load(path: Path) -> "Tokenizer":
        """Read a tokenizer.json, of `save` or of the tokenizers library."""
        if not path.is_file():
            raise DataError(f"tokenizer.path={path}: there is no such file")
        try:
            return Tokenizer(path.read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError:
            raise DataError(f"{path} is not a tokenizer.json: it is not UTF-8 text") from None

    def save(self, path: Path) -> None:
        """Write the canonical JSON, all at once."""
        write_text_atomic(path, self.json)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without end of text."""
        if self.bpe is None:
            return list(text.encode("utf-8"))
        ids: list[int] = self.bpe.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; end of text shows as its name, broken UTF-8 as U+FFFD."""
        ids = [int(i) for i in ids]
        if self.bpe is not None:
            text: str = self.bpe.decode(ids, skip_special_tokens=False)
            return text
        parts, start = [], 0
        for i, token in enumerate([*ids, self.end_of_text]):
            if token == self.end_of_text:
                parts.append(bytes(ids[start:i]).decode("utf-8", errors="replace"))
                start = i + 1
        return END_OF_TEXT.join(parts)


BYTES: dict[str, Any] = {"kind": "bytes", "version": 1}


def load_or_train(config: TokenizerConfig, texts: Callable[[], Iterator[str]]) -> Tokenizer:
    """The tokenizer of the settings; `texts` gives the train documents when it must be trained."""
    if config.kind == "bytes":
        return Tokenizer.plain_bytes()
    if config.kind == "file":
        return Tokenizer.load(Path(str(config.path)).expanduser())
    return Tokenizer.train(texts(), vocab_size(config))
