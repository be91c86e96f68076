"""Keep secrets out of all that others may read: records, logs, the screen, MLflow.

A secret is the value of a setting or environment variable with a telling name, or a part of an
address (`data/addresses.py`); it is hidden wherever it turns up. This is a safety net, not a vault:
a secret that is in no address and has no telling name passes.
"""

import json
import logging
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from data.addresses import HIDDEN, hide, secrets_in
from data.files import read_json, write_text_atomic

KEPT = "secrets.json"
"""In a run folder, readable by its owner alone: secrets of the environment in config.yaml."""
SHORTEST = 8  # characters; a shorter secret would hit innocent words

# Words that make a name secret wherever they stand, and those that do so as the last word...
SECRET_WORDS = {
    "password",
    "passwd",
    "passphrase",
    "secret",
    "secrets",
    "credential",
    "credentials",
}
LAST_WORDS = {
    *("token", "tokens", "key", "keys", "apikey", "pwd", "pass", "auth", "authorization"),
    *("signature", "sig", "cookie", "jwt", "pat"),
}
# ... unless this stands before it: special tokens of a vocabulary, fields of a record.
HARMLESS_BEFORE = {
    *("pad", "eos", "bos", "unk", "mask", "sep", "cls", "end", "start", "stop", "special"),
    *("text", "prompt", "response", "chosen", "rejected", "label", "input", "output", "sort"),
}
ASSIGNMENT = re.compile(
    r"""(?<![\w.])([A-Za-z_][\w.\-]{0,100})(["']?\s*[=:]\s*["']?)([^\s"',;&{}\[\]`]+)"""
)
NUMBER = re.compile(r"[-+]?[\d._]+([eE][-+]?\d+)?|true|false|null|none", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a setting of this name holds a secret; numbers and null never count as one."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    words = [word.lower() for word in re.split(r"[^A-Za-z]+", spaced) if word]
    if not words:
        return False
    if SECRET_WORDS.intersection(words) or "access_key" in "_".join(words):
        return True
    return words[-1] in LAST_WORDS and not HARMLESS_BEFORE.intersection(words[-2:-1])


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted names; lists and empty mappings stay values."""
    if not isinstance(value, Mapping) or (not value and name):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{name}.{key}" if name else str(key)))
    return flat


class Redactor:
    """Hides the secrets of one config, and those of this process's environment, in any text."""

    def __init__(self, config: Mapping[str, Any], kept: Iterable[str] = ()) -> None:
        """Take the values to hide from `config`, the environment, and what a run folder kept."""
        # PWD, SSH_KEY and the like name a file.
        environment = ((n, v) for n, v in os.environ.items() if not os.path.lexists(v))
        self._of_environment = {*_secrets(environment), *kept}
        secrets = {*self._of_environment, *_secrets(_texts(config))}
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST}
        self._secrets = sorted(forms, key=len, reverse=True)

    @classmethod
    def of_run(cls, folder: Path, config: Mapping[str, Any]) -> "Redactor":
        """That of a run folder with this config, in whatever environment it is looked at."""
        path = folder / KEPT
        return cls(config, map(str, read_json(path)) if path.exists() else ())

    def keep(self, folder: Path, text: str) -> None:
        """Keep for `of_run` what `text` has of the environment, which others have not."""
        found = sorted(secret for secret in self._of_environment if secret in text)
        if found:
            write_text_atomic(folder / KEPT, json.dumps(found), mode=0o600)

    def known(self, text: str) -> str:
        """`text` without the secrets that are known, and those of addresses."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return hide(text)

    def holds(self, content: bytes) -> bool:
        """Whether a file's bytes hold a secret that is known."""
        return any(secret.encode() in content for secret in self._secrets)

    def text(self, text: str) -> str:
        """`text`, whoever wrote it: `name=secret` pairs are hidden, too."""
        return ASSIGNMENT.sub(self._assignment, self.known(text))

    def setting(self, name: str, value: str) -> str:
        """The value of a setting as it may be shown."""
        return HIDDEN if is_secret(name) and not NUMBER.fullmatch(value) else self.text(value)

    def settings(self, value: Any, name: str = "") -> Any:
        """Nested settings as they may be shown."""
        if isinstance(value, Mapping):
            return {key: self.settings(item, f"{name}.{key}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.settings(item, name) for item in value)
        return self.setting(name, value) if isinstance(value, str) else value

    def _assignment(self, match: "re.Match[str]") -> str:
        name, sign, value = match.groups()
        hidden = is_secret(name) and not NUMBER.fullmatch(value)
        return f"{name}{sign}{HIDDEN}" if hidden else match.group()


class RedactingStream:
    """A text stream that hides secrets in whatever is written to it."""

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        """Write to `stream`."""
        self._stream, self._redactor = stream, redactor

    def write(self, text: str) -> int:
        """Write `text` without secrets; returns its own length."""
        self._stream.write(self._redactor.text(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        """All else is that of the stream."""
        return getattr(self._stream, name)


class RedactingFormatter(logging.Formatter):
    """Log lines, tracebacks included, without secrets."""

    def __init__(self, form: str, redactor: Redactor) -> None:
        """`form` as of logging.Formatter."""
        super().__init__(form)
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The line or lines of one record."""
        return self._redactor.text(super().format(record))


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Name and value of every text in nested settings."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, name)
    elif isinstance(value, str):
        yield name, value


def _secrets(settings: Iterable[tuple[str, str]]) -> set[str]:
    found: set[str] = set()
    for name, value in settings:
        found |= secrets_in(value)
        if is_secret(name) and not NUMBER.fullmatch(value):
            found |= {value, *value.splitlines()}
    return {secret for secret in found if len(secret) >= SHORTEST}


def _forms(secret: str) -> set[str]:
    """How a text is written in JSON, YAML, a shell and an address."""
    quoted = {json.dumps(secret)[1:-1], secret.replace("'", "''"), shlex.quote(secret)}
    return {secret, *quoted, quote(secret, safe="")}
