"""`orchestrate label ACTION`: people compare answers, or rate them, on a page.

serve   show the items of FILE.jsonl on a page, one link for each labeller, until Ctrl-C. A row has
        "prompt" and "answers", one to rate or several to compare; "gold", the place of the best or
        the rating, where it is known: every labeller gets these, among the others
report  how far the labellers agree, with each other and with what is known
export  what they said of the others as JSONL for stage=dpo and stage=reward: chosen and rejected by
        most votes, or answers with their mean rating
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from getpass import getuser
from ipaddress import ip_address
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING
from urllib.parse import quote

from cluster.database import has_password
from data.messages import counted
from orchestrator.stages.asking.items import Item, exported, read_items
from orchestrator.stages.result import interval
from orchestrator.terminal import columns, say

if TYPE_CHECKING:
    from orchestrator.verbs.label.store import Judgement, Store

STORE = Path("outputs/labels.db")
LONGEST_NAME = 64


def main(argv: Sequence[str]) -> int:
    """Carry out an action; returns the exit code.

    Raises:
        ValueError: the file holds no items, the database does not answer, or a name is none.
    """
    options = parser().parse_args(argv)
    items = _checked(options) if options.action == "serve" else []
    url = address(options.store, options.action == "serve")
    from orchestrator.verbs.label.store import Store

    with closing(Store(url)) as store:
        if options.action == "serve":
            return _serve(store, items, options)
        return _report(store) if options.action == "report" else _export(store, options)


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate label",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = new.add_subparsers(dest="action", required=True, metavar="ACTION")
    serve = actions.add_parser("serve", help="the page")
    serve.add_argument("file", type=Path, metavar="FILE.jsonl", help="what to judge")
    serve.add_argument(
        "--labeller", action="append", metavar="NAME", help="who judges; again for more [you]"
    )
    serve.add_argument(
        "--overlap", type=int, default=1, metavar="N", help="labellers of each item [%(default)s]"
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at [%(default)s]")
    serve.add_argument("--port", type=int, help="[5050, or any that is free]")
    report = actions.add_parser("report", help="agreement of the labellers")
    export = actions.add_parser("export", help="preferences or ratings for a job")
    export.add_argument("file", type=Path, metavar="FILE.jsonl", help="where to")
    export.add_argument(
        "--least-known",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="leave out labellers who got less than this of the known items right [%(default)s]",
    )
    for action in (serve, report, export):
        action.add_argument(
            "--store", default=str(STORE), metavar="FILE|URL", help="the labels [%(default)s]"
        )
    return new


def address(store: str, make: bool) -> str:
    """The URL of a database by its file or URL.

    Raises:
        ValueError: it holds a password, or there is no such file and none is to be made.
    """
    if "://" in store:
        if has_password(store):
            raise ValueError(
                "--store with a password shows it to everybody who lists processes; put it into "
                "~/.pgpass (host:port:database:user:password, chmod 600), not into the URL"
            )
        return store
    path = Path(store).expanduser().resolve()
    if make:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise ValueError(
            f"--store={store} is not there; begin with: orchestrate label serve FILE.jsonl"
        )
    return f"sqlite:///{path}"


def _checked(options: argparse.Namespace) -> list[Item]:
    """The items to serve; nothing is made before the request is known to be good."""
    if options.overlap < 1:
        raise ValueError(f"--overlap={options.overlap} must be at least 1; try --overlap=2")
    for name in options.labeller or ():
        if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(f"--labeller={name!r} is no name; use up to {LONGEST_NAME} letters")
    return read_items(options.file)


def _serve(store: "Store", items: Sequence[Item], options: argparse.Namespace) -> int:
    from orchestrator.verbs.label.service import Desk, serve
    from orchestrator.verbs.ui import choose_port

    names = list(dict.fromkeys(options.labeller or [getuser()]))
    kinds = {item.second is None for item in (*items, *store.all()[0])}
    if len(kinds) > 1:
        raise ValueError(
            f"{options.store} holds the other kind (answers to rate, or to compare) than "
            f"{options.file}; name another with --store"
        )
    new = store.add(items)
    try:
        port = choose_port(options.host, options.port, usual=5050)
    except OSError as error:
        raise ValueError(
            f"--port={options.port} on --host={options.host} can't be used: {error.strerror}; "
            "leave --port out to take a free one"
        ) from None
    say(f"{counted(len(items), 'item')}, {new:,} of them new; labels in {options.store}")
    if not _is_loopback(options.host):
        say("this page is reached from other machines, and its texts and links are not encrypted")
    for name in names:
        link = f"http://{options.host}:{port}/#{quote(name)}:{store.token(name)}"
        print(f"{name}: {link}", flush=True)
    serve(Desk(store, options.overlap), options.host, port)
    say(f"how far they agree: orchestrate label report --store {options.store}")
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _report(store: "Store") -> int:
    from orchestrator.verbs.label.agreement import report

    items, judgements = store.all()
    found = report(items, judgements)
    rows = [("labeller", "judged", "passed over", "s each", "known ones right", "left chosen")]
    for one in found.labellers:
        rows.append(
            (
                one.name,
                f"{one.judged:,}",
                f"{one.passed_over:,}",
                f"{one.seconds:.1f}",
                _share(one.right, one.known),
                _share(one.left, one.decided),
            )
        )
    for line in columns(rows):
        say(line)
    judged = len({one.item for one in judgements if one.value is not None})
    say(f"{judged:,} of {counted(len(items), 'item')} judged, {found.several:,} by two or more")
    if found.same is not None:
        alpha = "-" if found.alpha is None else f"{found.alpha:.3f}"
        say(f"two of them say the same in {found.same:.1%}; Krippendorff's alpha {alpha}")
    return 0


def _share(part: int, of: int) -> str:
    """A share with its interval by Wilson 1927."""
    if not of:
        return "-"
    low, high = interval(part, of)
    return f"{part / of:.0%} ({low:.0%} to {high:.0%}) of {of:,}"


def _export(store: "Store", options: argparse.Namespace) -> int:
    items, judgements = store.all()
    good = _trusted(items, judgements, options.least_known)
    votes: dict[str, list[float]] = defaultdict(list)
    for one in judgements:
        if one.value is not None and one.labeller in good:
            votes[one.item].append(one.value)
    judged = [(item, votes[item.id]) for item in items if item.id in votes and item.gold is None]
    rows = list(exported(judged))
    if not rows:
        raise ValueError(
            f"{options.store} has no judgement to export; see: orchestrate label report"
        )
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    options.file.write_text(text, encoding="utf-8")
    say(f"{counted(len(rows), 'row')} in {options.file}")
    if left := len(judged) - len(rows):
        say(f"left out: {counted(left, 'item')} of which neither answer has more votes", sys.stderr)
    stage = "dpo" if "chosen" in rows[0] else "reward stage.loss=squared_error"
    say(f"next: orchestrate run stage={stage} stage.data={options.file} model.weights=RUN")
    return 0


def _trusted(
    items: Sequence[Item], judgements: Sequence["Judgement"], least: float
) -> frozenset[str]:
    """Labellers who got at least this share of the known items right; without any, they count."""
    gold = {item.id: item.gold for item in items if item.gold is not None}
    right: dict[str, list[bool]] = {one.labeller: [] for one in judgements}
    for one in judgements:
        if one.item in gold and one.value is not None:
            right[one.labeller].append(one.value == gold[one.item])
    return frozenset(name for name, own in right.items() if not own or mean(own) >= least)
