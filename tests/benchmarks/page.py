"""How long MLflow's page of runs takes to open, with a thousand runs in it.

    python tests/benchmarks/page.py                   # 1,000 runs, 3 rounds
    python tests/benchmarks/page.py --pictures DIR    # and what it looks like, as PNGs

One real job is run, and its rows in the store are copied under other ids and with other results:
each run has all the params, tags and metrics that a run has. Then the server of `orchestrate ui` is
started, and a new browser, with nothing in its cache, opens the link that `ui` prints: the time is
that from the address to the table with its rows. Without a browser it is that of the server's
answer to the question for the first hundred runs, best first.
"""

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import time
import urllib.request
import uuid
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from orchestrator.verbs.ui import answers, choose_port, find_store, serve
from tests.benchmarks.runs import run_job, scratch, spread
from tests.browser import browser, installed

JOB = ("experiment=small", "stage=classify", "stage.steps=60", "resources=inline")
TABLES = ("tags", "params", "latest_metrics", "metrics")
METRIC = "result/validation/accuracy"
ROWS = "document.querySelectorAll('.ag-center-cols-container .ag-row').length >= 10"


def main() -> None:
    """Print seconds, median and range."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    with scratch() as folder, tempfile.TemporaryFile() as output:
        outputs = folder / "outputs"
        run_job(outputs, *JOB)
        multiply(outputs / "mlflow.db", options.runs)
        uri, page = find_store(outputs, None)
        port = choose_port("127.0.0.1", None)
        base = f"http://127.0.0.1:{port}"
        with serve(uri, "127.0.0.1", port, output) as server:
            assert answers(base, server)
            taken = []
            for number in range(options.rounds):
                picture = options.pictures and options.pictures / f"runs-{number}.png"
                seen = opened(f"{base}{page}", picture) if installed() else asked(base)
                taken.append(seen)
        print(f"the page of {options.runs} runs: {spread(taken)} s")
        print("seen in a browser" if installed() else "no browser here: the server's answer alone")


def multiply(database: Path, runs: int) -> None:
    """Copy the only run of a store until there are so many, each with another result."""
    draw = random.Random(0)
    with closing(sqlite3.connect(database)) as store, store:
        (run,) = store.execute("SELECT run_uuid FROM runs").fetchone()
        for _ in range(runs - 1):
            new = uuid.UUID(int=draw.getrandbits(128)).hex
            for table in ("runs", *TABLES):
                names = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
                taken = ", ".join("?" if name == "run_uuid" else name for name in names)
                store.execute(
                    f"INSERT INTO {table} ({', '.join(names)}) "
                    f"SELECT {taken} FROM {table} WHERE run_uuid = ?",
                    (new, run),
                )
            result = "UPDATE latest_metrics SET value = ? WHERE run_uuid = ? AND key = ?"
            store.execute(result, (draw.random(), new, METRIC))


def opened(link: str, picture: Path | None) -> float:
    """Seconds from the address to the table with its rows, in a new browser."""
    with browser() as page:
        begun = time.monotonic()
        page.open(link)
        page.until(ROWS)
        taken = time.monotonic() - begun
        if picture is not None:
            picture.parent.mkdir(parents=True, exist_ok=True)
            page.picture(picture)
    return taken


def asked(base: str) -> float:
    """Seconds until the server has answered with the best hundred runs."""
    question = {
        "experiment_ids": ["0"],
        "order_by": [f"metrics.`{METRIC}` DESC"],
        "max_results": 100,
    }
    request = urllib.request.Request(
        f"{base}/ajax-api/2.0/mlflow/runs/search",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    begun = time.monotonic()
    with urllib.request.urlopen(request) as answer:
        assert len(json.load(answer)["runs"]) == 100
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
