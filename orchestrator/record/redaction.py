"""Keep secrets out of what leaves the machine: settings, commands, logs.

A setting is taken for a secret by its name; its value is then hidden wherever it turns up. This is
a safety net, not a vault: a secret that is not in the config and has no telling name passes.
"""

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "[redacted]"

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
LAST_WORDS = {"token", "tokens", "key", "keys", "apikey", "pwd", "auth", "authorization"}
# ... unless this stands before it: special tokens of a vocabulary, fields of a record.
HARMLESS_BEFORE = {
    *("pad", "eos", "bos", "unk", "mask", "sep", "cls", "end", "start", "stop", "special"),
    *("text", "prompt", "response", "chosen", "rejected", "label", "input", "output", "sort"),
}
URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@\"']+(?=@)")
ASSIGNMENT = re.compile(
    r"""(?<![\w.])([A-Za-z_][\w.\-]{0,100})(["']?\s*[=:]\s*["']?)([^\s"',;&{}\[\]`]+)"""
)
NUMBER = re.compile(r"[-+]?[\d._]+([eE][-+]?\d+)?|true|false|null|none", re.IGNORECASE)


def redact_url(text: str) -> str:
    """Hide user and password of each URL in `text`."""
    return URL_CREDENTIALS.sub(HIDDEN, text)


def public_url(url: str) -> str:
    """The URL without user and password, so that it can be shown and followed."""
    return redact_url(url).replace(f"{HIDDEN}@", "").rstrip("/")


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
    """Hides the secrets of one config in any text."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Take the values to hide from `config`; short ones would hit innocent words."""
        secrets = {
            str(value)
            for name, value in flatten(config).items()
            if is_secret(name) and isinstance(value, str) and len(value) >= 8
        }
        self._secrets = sorted(secrets, key=len, reverse=True)

    def setting(self, name: str, value: str) -> str:
        """The value of a setting as it may be shown."""
        return HIDDEN if is_secret(name) and not NUMBER.fullmatch(value) else self.text(value)

    def text(self, text: str) -> str:
        """`text` without the config's secrets, credentials in URLs, and `name=secret` pairs."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return ASSIGNMENT.sub(self._assignment, redact_url(text))

    def _assignment(self, match: "re.Match[str]") -> str:
        name, sign, value = match.groups()
        hide = is_secret(name) and not NUMBER.fullmatch(value)
        return f"{name}{sign}{HIDDEN}" if hide else match.group()
