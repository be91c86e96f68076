"""What can be known of a store without mlflow: whether it will take a run, and what is wrong.

The driver asks before the start, in seconds; the mirror asks when sending has failed, to tell a
server that refuses, one that hangs and one that is down apart.
"""

import base64
import json
import os
import sqlite3
import urllib.error
import urllib.request
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

from data.addresses import public
from orchestrator.record.mlflow.mirror import State
from orchestrator.record.mlflow.sqlite import sqlite_path, sqlite_url

BEFORE_START_SECONDS = 3.0
UNKNOWN, FORBIDDEN = 401, 403
CREDENTIALS = "~/.mlflow/credentials"  # where MLflow's own client looks, too
LOGIN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or write mlflow_tracking_username "
    f"and mlflow_tracking_password below [mlflow] in {CREDENTIALS}, or set MLFLOW_TRACKING_TOKEN"
)


def check_store(state: State) -> None:
    """Refuse, before a job starts, a store that can never take it; one that is away is no reason.

    Raises:
        ValueError: the experiment is deleted, or what is there is no store of MLflow.
    """
    if database := sqlite_path(state.tracking_uri):
        stage = _stage_in_file(database, state.experiment)
    elif state.tracking_uri.startswith("http"):
        stage = _stage_on_server(state)
    else:
        return
    if stage == "deleted":
        name = state.experiment
        raise ValueError(
            f"the MLflow experiment {name} at {public(state.tracking_uri)} is deleted; name "
            f"another with tracking.experiment=NAME (or MLFLOW_EXPERIMENT_NAME), or restore it in "
            "the MLflow page"
        )


def trouble(state: State, error: Exception) -> str:
    """Why the store did not take what was sent, in one sentence, by asking it once more."""
    where = public(state.tracking_uri)
    said = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    if not state.tracking_uri.startswith("http"):
        return f"MLflow's store {where} can't be written to: {said}"
    seconds = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"))
    try:
        status, _ = _ask(state, seconds)
    except TimeoutError:
        return f"the MLflow server {where} hangs: it has not answered for {seconds:g} s"
    except OSError as away:
        reason = getattr(away, "reason", away)
        return f"the MLflow server {where} is down: {getattr(reason, 'strerror', None) or reason}"
    user, header = _credentials(urlsplit(state.tracking_uri))
    who = "who names no user" if header is None else f"user {user}" if user else "the token"
    if status == UNKNOWN:
        wrong = ", or the password is wrong" if user else ""
        return f"the MLflow server {where} does not let in {who}{wrong} ({status}); {LOGIN}"
    if status == FORBIDDEN:
        return (
            f"the MLflow server {where} does not let {who} read experiment {state.experiment} "
            f"({status}); ask its administrator for the permission, or name another experiment "
            "with tracking.experiment=NAME"
        )
    return f"the MLflow server {where} answers, but did not take the record: {said}"


def _stage_in_file(database: Path, experiment: str) -> str | None:
    """Lifecycle stage of an experiment. None: there is none, or nobody can tell now."""
    if not database.exists() or database.stat().st_size == 0:
        return None
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=1)) as store:
            query = "SELECT lifecycle_stage FROM experiments WHERE name = ?"
            found = store.execute(query, [experiment]).fetchone()
    except sqlite3.OperationalError:  # locked, or still without tables
        return None
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"tracking.uri={sqlite_url(database)} is no database: {error}; name another file, or "
            "move this one away"
        ) from None
    return str(found[0]) if found else None


def _stage_on_server(state: State) -> str | None:
    """Lifecycle stage of an experiment. None: there is none, or the server can't tell now."""
    try:
        status, answer = _ask(state, BEFORE_START_SECONDS)
    except OSError:
        return None
    if status == 200 and "experiment" in answer:
        return str(answer["experiment"].get("lifecycle_stage"))
    if status in (200, 404) and "error_code" not in answer:
        raise ValueError(
            f"tracking.uri (or MLFLOW_TRACKING_URI)={public(state.tracking_uri)} answers, but "
            "not as an MLflow server does; give the address that `mlflow server` has printed"
        )
    return None


def _ask(state: State, seconds: float) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the server's answer when asked for the experiment.

    Raises:
        TimeoutError: it took the connection and did not answer.
        OSError: there was no connection.
    """
    address = urlsplit(state.tracking_uri)
    place = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl().rstrip("/")
    name = quote(state.experiment, safe="")
    request = urllib.request.Request(
        f"{place}/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}"
    )
    if header := _credentials(address)[1]:
        request.add_header("Authorization", header)
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    except HTTPException as error:  # whoever listens there does not speak HTTP
        raise ConnectionError(f"{type(error).__name__}: {error}") from None
    found: Any = None
    with suppress(ValueError):
        found = json.loads(body)
    return status, found if isinstance(found, dict) else {}


def _credentials(address: SplitResult) -> tuple[str | None, str | None]:
    """User, and the header by which MLflow's own client says who it is, by the same rules.

    The address goes before the environment, that before the file. None: nobody is named; a token
    has no user.
    """
    file, names = ConfigParser(), ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    user, password = (os.environ.get(name) for name in names)
    with suppress(OSError, ConfigError, RuntimeError):  # RuntimeError: a user without a home
        file.read(Path(CREDENTIALS).expanduser())
        user = user or file.get("mlflow", names[0].lower(), fallback=None)
        password = password or file.get("mlflow", names[1].lower(), fallback=None)
    if address.username and address.password:
        user, password = unquote(address.username), unquote(address.password)
    if user and password:
        return user, f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return None, f"Bearer {token}" if token else None
