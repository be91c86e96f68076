"""URLs in settings and messages, and what a failed request means to the user."""

import errno
import re
from pathlib import Path
from urllib.parse import unquote

from data.addresses import hide
from data.files import DataError, cache_root
from data.messages import cut


def is_pattern(url: str) -> bool:
    """Whether it stands for all files that fit; in http only * does (a ? begins a query there)."""
    http = url.lower().startswith(("http://", "https://"))
    return re.search(r"\*" if http else r"[*?\[]", url) is not None


def local_path(url: str) -> Path:
    """The path of a file:// URL."""
    return Path(unquote(url.removeprefix("file://")))


def cause_of(error: BaseException) -> BaseException:
    """What went wrong; fsspec calls every failure of an http server FileNotFoundError."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def may_pass(error: BaseException) -> bool:
    """Whether a second attempt could end otherwise."""
    if status := _status(error):
        return status >= 500 or status in (408, 429)
    # A server that did not answer in time was waited for; of a download that stalled the caller
    # makes another error.
    lasting = (FileNotFoundError, PermissionError, NotImplementedError, TimeoutError)
    names = ("NoCredentialsError", "ConnectTimeoutError")  # of botocore
    return not (isinstance(error, lasting) or is_own_disk(error) or type(error).__name__ in names)


def failure(url: str, error: BaseException, attempts: int) -> DataError:
    """The error that a user sees: what was asked, what happened, what to do."""
    asked = f"data.path={hide(url)}"
    reason = hide(first_line(error).replace(url, hide(url)))
    if is_own_disk(error):
        return DataError(
            f"the cache {cache_root()} can't be written ({reason}); make room, or set "
            "ORCHESTRATE_CACHE=DIR"
        )
    if isinstance(error, FileNotFoundError) or _status(error) in (404, 410):
        return DataError(f"{asked}: there is no such file or folder; check the URL")
    if is_refused(error):
        public = "; for a public bucket set FSSPEC_S3_ANON=true" if url.startswith("s3") else ""
        return DataError(f"{asked}: access refused ({reason}); {credentials(url)}{public}")
    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return DataError(
        f"{asked}: not fetched in {times} ({reason}); check the address and the "
        "network and start again, or bring the file here and set data.path=FILE"
    )


def is_refused(error: BaseException) -> bool:
    """Whether the server wants other credentials, or any."""
    known = type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError")
    return known or isinstance(error, PermissionError) or _status(error) in (401, 403)


def credentials(url: str) -> str:
    """What to do where a server wants other credentials."""
    if url.startswith("s3"):
        return "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return "check that your credentials allow it"


def _status(error: BaseException) -> int | None:
    """Of an answer over http."""
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def is_own_disk(error: BaseException) -> bool:
    """Whether this machine's disk, not the server, is what failed."""
    if not isinstance(error, OSError):
        return False
    if error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
        return True
    return str(error.filename or "").startswith(str(cache_root()))


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut short, or its kind if it has none."""
    text = str(error).strip()
    return cut(text.splitlines()[0], 200) if text else type(error).__name__
