"""What is an address, and what may be a secret in one: user and password, query and fragment.

The one place that knows it: settings, records, messages and names of files are shown by `hide`.
"""

import re
from urllib.parse import unquote_plus

HIDDEN = "[redacted]"

# Up to the last @ before the path; else, since a raw password may hold a slash, up to the last @.
# What looks like HOST:PORT/... is an address without a user.
_USER = r"[^\s/?#\"'<>]*|[^\s/?#\"'<>:]*:(?!\d+/)[^\s\"'<>]*"
_ADDRESS = re.compile(
    rf"(?P<scheme>\b[A-Za-z][\w+.-]*://)(?:(?P<user>{_USER})@)?(?P<rest>[^\s\"'<>]*)"
)
_CARRIED = re.compile(r"(?P<sign>[?&;#])(?P<name>[^=?&;#/]*)(?P<equals>=?)(?P<value>[^?&;#]*)")
# Of all that a query may carry, this tells nothing.
_PLAIN = re.compile(r"[-+]?\d{1,6}|true|false|null|", re.IGNORECASE)
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])")  # no word, which would turn up elsewhere


def is_url(path: str) -> bool:
    """Whether this is a URL rather than a path."""
    return "://" in path


def hide(text: str) -> str:
    """`text` with `[redacted]` in place of whatever may be a secret in the addresses in it.

    That is user and password, and the values of query and fragment but for small numbers and
    switches: nobody knows all the names that servers give to a signature.
    """
    return _ADDRESS.sub(_without_secrets, text) if "://" in text else text


def public(address: str) -> str:
    """One address without its secrets, so that it can be followed: no user, no query."""
    return re.sub(r"[?#].*", "", hide(address)).replace(f"{HIDDEN}@", "").rstrip("/")


def secrets_in(text: str) -> set[str]:
    """Passwords and signatures of the addresses in `text`, as they stand there and decoded."""
    found: set[str] = set()
    for address in _ADDRESS.finditer(text):
        user, _, password = (address["user"] or "").partition(":")
        parts = [p for p in _CARRIED.finditer(address["rest"]) if _holds(p)]
        carried = [part["value"] if part["equals"] else part["name"] for part in parts]
        found |= {password or user, *(value for value in carried if _RANDOM.match(value))}
    return {form for secret in found if secret for form in (secret, unquote_plus(secret))}


def _without_secrets(address: "re.Match[str]") -> str:
    user = f"{HIDDEN}@" if address["user"] else ""
    return address["scheme"] + user + _CARRIED.sub(_without_value, address["rest"])


def _without_value(part: "re.Match[str]") -> str:
    if not _holds(part):
        return part[0]
    name = f"{part['name']}=" if part["equals"] else ""
    return part["sign"] + name + HIDDEN


def _holds(part: "re.Match[str]") -> bool:
    """Whether a part of query or fragment has something to hide: ?NAME=VALUE, or ?VALUE alone."""
    if part["equals"]:
        return _PLAIN.fullmatch(part["value"]) is None
    return part["sign"] == "?" and _PLAIN.fullmatch(part["name"]) is None
