"""From settings to something to train on: documents -> split -> tokenizer -> shards, once.

The result stands in the cache under a hash of everything it depends on:
    data/keys/KEY.json     what the sources looked like from outside -> which set that is
    data/sets/SET/         train/, validation/, tokenizer.json, prepared.json; published by rename
    data/tokenizers/       trained tokenizers, by train text and settings
Any number of processes may call `prepare` at once: one works, the others wait and open.
"""

import hashlib
import json
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.baselines import baselines
from data.files import (
    DataError,
    cache_root,
    lock,
    publish,
    sha256_file,
    write_text_atomic,
)
from data.python_docs import BUILDER_VERSION
from data.shards import FORMAT_VERSION, Manifest, ShardSet, write_shards
from data.sources import DataConfig, documents, files_of
from data.tokenizer import Tokenizer, TokenizerConfig, build, encode_documents

PREPARE_VERSION = 1  # raise it when the same text and settings lead to other shards
Fact = int | str | float


@dataclass(frozen=True)
class Prepared:
    """A corpus that is ready: tokenizer, shards, and what is known about them."""

    tokenizer: Tokenizer
    tokenizer_path: Path
    train: ShardSet
    validation: ShardSet
    fingerprint: str
    """sha256 that stands for both splits and the tokenizer."""
    baselines: dict[str, float]
    """Bits per byte on the validation text of n-grams and compressors."""
    facts: dict[str, Fact]
    """Counts of documents, bytes and tokens, for the record."""


@dataclass
class _Corpus:
    """The documents of both splits, and counts of what was left out."""

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    fingerprint: str = ""
    train_fingerprint: str = ""
    duplicates: int = 0
    empty: int = 0


def _quiet(line: str) -> None:
    pass


def prepare(
    data: DataConfig, tokenizer: TokenizerConfig, say: Callable[[str], None] = _quiet
) -> Prepared:
    """The corpus of the settings: from the cache, or read, split, tokenized and stored now.

    Args:
        data: which text.
        tokenizer: how it becomes tokens.
        say: gets a line per stage of the work; nothing is said when the cache has it.

    Raises:
        DataError: the text can't be used as asked, or the cache is damaged.
    """
    root = cache_root() / "data"
    key = _outside_key(data, tokenizer)
    key_file = root / "keys" / f"{key}.json"
    if folder := _known(root, key_file):
        return _open(folder)
    try:
        with lock(root / "keys" / f"{key}.lock"):
            if not (folder := _known(root, key_file)):
                say(f"reading {data.source}{' ' + data.path if data.path else ''}")
                corpus = _collect(data)
                if _outside_key(data, tokenizer) != key:
                    raise DataError(f"data.path={data.path} changed while it was read; start again")
                folder = _build(root, data, tokenizer, corpus, say)
                write_text_atomic(key_file, json.dumps({"set": folder.name}))
    except OSError as error:  # read-only or full disk; sources name their own files
        raise DataError(
            f"the cache {root} can't be written ({error}); make room, or set ORCHESTRATE_CACHE=DIR"
        ) from error
    return _open(folder)


def _hash(*parts: Any) -> str:
    """Hex hash of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _outside_key(data: DataConfig, tokenizer: TokenizerConfig) -> str:
    """Changes whenever the sources may have changed, without reading the text."""
    if data.source == "python_docs":
        state: list[Any] = [sys.version, sysconfig.get_paths()["stdlib"], BUILDER_VERSION]
    else:
        state = []
        for file in files_of(data):
            stat = file.stat()
            state.append([str(file.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
    settings = [data.source, data.path, data.split, data.text_column, data.validation_fraction]
    return _hash(PREPARE_VERSION, state, settings, _tokenizer_settings(tokenizer))[:32]


def _tokenizer_settings(tokenizer: TokenizerConfig) -> list[Any]:
    if tokenizer.kind == "file":
        path = Path(str(tokenizer.path)).expanduser()
        if not path.is_file():
            raise DataError(f"tokenizer.path={path}: there is no such file")
        return ["file", sha256_file(path)]
    if tokenizer.kind == "bytes":
        return ["bytes"]
    return ["bpe", tokenizer.vocab_size, version("tokenizers")]


def _known(root: Path, key_file: Path) -> Path | None:
    """The set a key stands for, if it is still there."""
    try:
        folder: Path = root / "sets" / json.loads(key_file.read_text(encoding="utf-8"))["set"]
    except (OSError, ValueError, KeyError):
        return None  # only a pointer: the work finds the same set again
    return folder if folder.is_dir() else None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def _collect(data: DataConfig) -> _Corpus:
    """Read all documents; drop repeats and empty ones; split by hash.

    A document is in validation when its hash, read as a fraction, is below the one asked for; so
    neither the order nor the other documents matter. So that no split is empty, the lowest hash
    is always in validation and the highest always in train.
    """
    corpus = _Corpus()
    texts: dict[bytes, str] = {}
    for text in documents(data):
        if not text.strip():
            corpus.empty += 1
            continue
        digest = _digest(text)
        if digest in texts:
            corpus.duplicates += 1
        else:
            texts[digest] = text
    where = f"data.source={data.source}" + (f" data.path={data.path}" if data.path else "")
    if not texts:
        raise DataError(f"{where}: there is no text in it ({corpus.empty} empty documents)")
    if len(texts) < 2:
        raise DataError(
            f"{where}: only one document ({len(next(iter(texts.values())))} characters); training "
            "and validation need one each; bring more text"
        )
    lowest, highest = min(texts), max(texts)
    limit = int(data.validation_fraction * 2**64)
    train: list[bytes] = []
    for digest, text in texts.items():
        below = int.from_bytes(digest[:8], "big") < limit
        if digest == lowest or (below and digest != highest):
            corpus.validation.append(text)
        else:
            corpus.train.append(text)
            train.append(digest)
    corpus.fingerprint = hashlib.sha256(b"".join(texts)).hexdigest()
    corpus.train_fingerprint = hashlib.sha256(b"".join(train)).hexdigest()
    return corpus


def _build(
    root: Path,
    data: DataConfig,
    settings: TokenizerConfig,
    corpus: _Corpus,
    say: Callable[[str], None],
) -> Path:
    """Make the set of a corpus, unless another key led to it before; returns its folder."""
    recipe = {
        "content": corpus.fingerprint,
        "validation_fraction": data.validation_fraction,
        "tokenizer": _tokenizer_settings(settings),
        "prepare_version": PREPARE_VERSION,
        "format_version": FORMAT_VERSION,
    }
    folder = root / "sets" / _hash(recipe)[:32]
    with lock(folder.with_suffix(".lock")):
        if folder.is_dir():
            return folder
        partial = folder.with_suffix(".partial")
        if partial.exists():
            shutil.rmtree(partial)  # of a process that was killed: nobody else holds the lock
        tokenizer = _tokenizer(root, settings, corpus, say)
        facts: dict[str, Fact] = {
            "source": data.source,
            "content_fingerprint": corpus.fingerprint,
            "documents": len(corpus.train) + len(corpus.validation),
            "duplicates_dropped": corpus.duplicates,
            "empty_dropped": corpus.empty,
            "vocab_size": tokenizer.vocab_size,
        }
        tokenizer.save(partial / "tokenizer.json")
        manifests = {}
        for name, texts in (("train", corpus.train), ("validation", corpus.validation)):
            manifests[name] = manifest = _shards(partial / name, name, texts, tokenizer, recipe)
            facts |= {
                f"{name}_documents": manifest.documents,
                f"{name}_bytes": manifest.bytes,
                f"{name}_tokens": manifest.tokens,
                f"{name}_fingerprint": manifest.fingerprint,
            }
            say(
                f"{name}: {manifest.documents:,} documents, {manifest.bytes:,} bytes, "
                f"{manifest.tokens:,} tokens"
            )
        result = {
            "fingerprint": _hash(*(m.fingerprint for m in manifests.values())),
            "baselines": baselines(_utf8(corpus.train), _utf8(corpus.validation)),
            "facts": facts,
        }
        write_text_atomic(partial / "prepared.json", json.dumps(result, indent=1))
        publish(partial, folder)
    return folder


def _utf8(texts: Iterable[str]) -> bytes:
    return b"".join(text.encode("utf-8") for text in texts)


def _tokenizer(
    root: Path, settings: TokenizerConfig, corpus: _Corpus, say: Callable[[str], None]
) -> Tokenizer:
    if settings.kind != "bpe":
        return build(settings, lambda: iter(corpus.train))
    name = _hash(corpus.train_fingerprint, _tokenizer_settings(settings))[:32]
    path = root / "tokenizers" / f"{name}.json"
    if path.is_file():
        return Tokenizer.load(path)
    say(
        f"training a tokenizer of {settings.vocab_size:,} tokens on {len(corpus.train):,} documents"
    )
    tokenizer = build(settings, lambda: iter(corpus.train))
    tokenizer.save(path)
    return tokenizer


def _shards(
    folder: Path, name: str, texts: list[str], tokenizer: Tokenizer, recipe: dict[str, Any]
) -> Manifest:
    return write_shards(
        folder,
        encode_documents(tokenizer, texts),
        name=name,
        text_bytes=sum(len(text.encode("utf-8")) for text in texts),
        max_id=tokenizer.vocab_size - 1,
        end_of_text=tokenizer.end_of_text,
        tokenizer=tokenizer.fingerprint,
        settings=recipe,
    )


def _open(folder: Path) -> Prepared:
    """Open a published set; DataError when its parts don't belong together."""
    remedy = f"delete {folder} and start again"
    try:
        result = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
        try:
            tokenizer = Tokenizer.load(folder / "tokenizer.json")
        except DataError as error:
            raise DataError(f"{error}; {remedy}") from None
        splits = [ShardSet.open(folder / name) for name in ("train", "validation")]
        fingerprint = result["fingerprint"]
        if fingerprint != _hash(*(split.fingerprint for split in splits)):
            raise DataError(f"{folder / 'prepared.json'} belongs to other shards; {remedy}")
        for split in splits:
            if split.manifest.tokenizer != tokenizer.fingerprint:
                raise DataError(f"{folder / 'tokenizer.json'} is not the shards' own; {remedy}")
        return Prepared(
            tokenizer,
            folder / "tokenizer.json",
            splits[0],
            splits[1],
            fingerprint,
            result["baselines"],
            result["facts"],
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: the prepared data is damaged ({error}); {remedy}") from error
