"""A mixture with tracking on, from the command line to the rows of the store."""

import json
import os
from pathlib import Path

from tests.orchestrator.tracked import rows
from tests.orchestrator.typed import SMALL, typed

LINES = {"wiki": "the cat sat on mat {} and slept", "code": "def f{}(x): return x + {}"}


def test_the_metrics_of_a_checkpoint_are_tied_to_the_dataset_they_were_measured_on(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, text in LINES.items():
        records = (json.dumps({"text": text.format(i, i) * 3}) + "\n" for i in range(60))
        Path(f"{name}.jsonl").write_text("".join(records))
    datasets = ", ".join(f"{n}: {{source: jsonl, path: {n}.jsonl, weight: 1}}" for n in LINES)
    answer = typed(
        *("run", "data=mixture", f"data.datasets={{{datasets}}}", "tracking=mlflow"),
        *(word for word in SMALL if not word.startswith("tracking")),
        *("stage.steps=2", "tracking.system_metrics=false"),
    )
    assert answer.code == 0, answer
    run = Path(os.path.realpath("outputs/latest"))
    assert json.loads((run / "mlflow.json").read_text())["refused"] == []
    tied = rows(
        "outputs/mlflow.db",
        "SELECT DISTINCT metric_name, dataset_name, dataset_digest FROM logged_model_metrics",
    )
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    digests = {
        (e["name"], e["split"]): e["fingerprint"][:36] for e in events if e["event"] == "dataset"
    }
    assert {row for row in tied if row[0].endswith("bits_per_byte")} == {
        ("validation/wiki/bits_per_byte", "wiki/validation", digests["wiki", "validation"]),
        ("validation/code/bits_per_byte", "code/validation", digests["code", "validation"]),
        ("validation/bits_per_byte", None, None),
    }
    assert {row for row in tied if row[0] == "validation/loss"} == {("validation/loss", None, None)}
    shown = dict(rows("outputs/mlflow.db", "SELECT key, value FROM tags"))
    assert shown["dataset.wiki.validation.fingerprint"].startswith(digests["wiki", "validation"])
    assert shown["dataset.code.train.fingerprint"].startswith(digests["code", "train"])
