"""One job that meets all at once, from the command line to the rows of the store.

A mixture, an outputs folder of odd characters, and secrets by every way in.
"""

import json
import os
from pathlib import Path

import pytest

from orchestrator.record.mlflow.description import Description
from tests.data.sites import Site
from tests.orchestrator.tracked import rows
from tests.orchestrator.typed import SMALL, typed

LINES = {"wiki": "the cat sat on mat {} and slept", "code": "def f{}(x): return x + {}"}
PLACE = "job%20one [é] 'x' #2"
SECRETS = {
    "user": "pAsSwOrD-0001",
    "X-Amz-Signature": "sIgNaTuRe-0002",
    "st": "nOtElLiNgNaMe-0003",
    "MY_SIGNATURE": "oF_tHe_EnViRoNmEnT-0004",
    "TEAM_TOKEN": "iN_a_PlAiN_sEtTiNg-0005",
    "MLFLOW_TRACKING_PASSWORD": "mLfLoW-0006",
    "HF_TOKEN": "hF-0007",
    "AWS_SECRET_ACCESS_KEY": "aWs/0008",
}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """The folder of the job, and all that it said."""
    site, folder = Site(), tmp_path_factory.mktemp("tracked")
    for name, text in LINES.items():
        records = (json.dumps({"text": text.format(i, i) * 3}) + "\n" for i in range(60))
        site.files[f"/{name}.jsonl"] = "".join(records).encode()
    host = site.url.removeprefix("http://")
    signed = f"X-Amz-Signature={SECRETS['X-Amz-Signature']}&st={SECRETS['st']}&page=2"
    addresses = {
        "wiki": f"http://bob:{SECRETS['user']}@{host}/wiki.jsonl?{signed}",
        "code": f"{site.url}/code.jsonl?x=${{oc.env:MY_SIGNATURE}}",
    }
    datasets = ", ".join(
        f"{name}: {{source: jsonl, path: '{address}', weight: 1}}"
        for name, address in addresses.items()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ORCHESTRATE_CACHE", str(folder / "cache"))
        patch.setenv("NO_PROXY", "127.0.0.1")
        for name in list(SECRETS)[3:]:
            patch.setenv(name, SECRETS[name])
        answer = typed(
            *("run", "data=mixture", f"data.datasets={{{datasets}}}", "tracking=mlflow"),
            *(word for word in SMALL if not word.startswith("tracking")),
            *("stage.steps=2", "tracking.system_metrics=false", f'outputs="{PLACE}"'),
            "tracking.name=of-${oc.env:TEAM_TOKEN}",
        )
    site.close()
    assert answer.code == 0, answer
    return folder, answer.out + answer.err


def test_the_metrics_of_a_checkpoint_are_tied_to_the_dataset_they_were_measured_on(tracked):
    run = Path(os.path.realpath(tracked[0] / PLACE / "latest"))
    assert json.loads((run / "mlflow.json").read_text())["refused"] == []
    database = tracked[0] / PLACE / "mlflow.db"
    tied = rows(
        database,
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
    shown = dict(rows(database, "SELECT key, value FROM tags"))
    assert shown["dataset.wiki.validation.fingerprint"].startswith(digests["wiki", "validation"])
    assert shown["dataset.code.train.fingerprint"].startswith(digests["code", "train"])


def test_a_secret_is_only_in_files_of_the_run_that_their_owner_alone_may_read(tracked):
    folder, screen = tracked
    assert [name for name, secret in SECRETS.items() if secret in screen] == []
    copies = folder / "cache" / "remote"  # of the data itself, by hashes of the addresses
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    found = {
        path.name: path.stat().st_mode & 0o077
        for path in files
        if path.parent.parent != copies or path.name == "about.json"
        if any(secret.encode() in path.read_bytes() for secret in SECRETS.values())
    }
    assert found == {"config.yaml": 0, "mlflow.json": 0, "secrets.json": 0}
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files if path.name not in found)


def test_a_secret_of_the_environment_stays_hidden_where_the_variable_is_not_set(tracked):
    assert not SECRETS.keys() & os.environ.keys()
    later = Description((tracked[0] / PLACE / "latest").resolve())
    assert later.params()["tracking.name"] == "of-[redacted]"
    assert later.params()["data.datasets.code.path"].endswith("/code.jsonl?x=[redacted]")


def test_the_store_lies_in_the_outputs_folder_whatever_its_name(tracked):
    assert {path.name for path in tracked[0].iterdir()} == {PLACE, "cache"}
    assert (tracked[0] / PLACE / "mlflow.db").stat().st_size
