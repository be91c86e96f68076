"""What MLflow shows of a run folder: its params, tags, description and files, without secrets.

Reads the run folder and knows nothing of MLflow but its reserved names.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from data.files import read_json
from orchestrator.record import predictions
from orchestrator.record.lines import EVENTS, METRICS, last_line, read
from orchestrator.record.mlflow.mirror import State
from orchestrator.record.mlflow.naming import run_name
from orchestrator.record.reading import CONFIG, lies_in, read_settings, read_yaml
from orchestrator.record.redaction import Redactor, flatten
from orchestrator.record.runs import Run
from orchestrator.record.story.telling import happened, story_text

RERUN = "rerun.json"
"""Which run a run repeats, and whether the same came out."""
FIGURES = "figures"
"""In the run folder, and among the artifacts."""
PICTURE = "loss.png"
SAMPLES = "samples.txt"
RECORDS = (
    *("overrides.yaml", "code.json", "code.diff", "result.json", SAMPLES, RERUN),
    *(EVENTS, METRICS),
)
SIZES = ("documents", "examples", "bytes", "tokens")
MOST = 5  # lines of how a run that repeats another differs
SAMPLE_CHARACTERS = 600
STORY = "story.txt"
OWN_LOG = "tracking.log"  # grows while it would be uploaded
START_BYTES = 1 << 20  # of the events, in which stand those of before the first step


class Description:
    """A run folder as texts for MLflow."""

    def __init__(self, folder: Path) -> None:
        """Read config.yaml; the other files may still be missing."""
        self.folder = folder
        path = folder / CONFIG
        self.config: dict[str, Any] = read_settings(path) if path.exists() else {}
        self.redactor = Redactor.of_run(folder, self.config)
        stage = self.config.get("stage", "job")
        self.stage = str(stage.get("name", "job") if isinstance(stage, dict) else stage)

    @property
    def name(self) -> str:
        """Of the run, by what it is."""
        command = self._command()
        try:
            words = shlex.split(command)
        except ValueError:  # a redacted one may have lost a quote
            words = command.split()
        name = run_name(self.stage, self._start(), self._typed(), words)
        return self.redactor.text(name)

    @property
    def kind(self) -> str:
        """Stage, models and data of the run: what the trials of a sweep have in common."""
        return self.redactor.text(run_name(self.stage, self._start(), (), ()))

    @property
    def score(self) -> dict[str, Any] | None:
        """The metric that ranks runs of this stage, and whether lower is better, if any does."""
        found = next((e for e in self._start() if e["event"] == "started"), {})
        return found.get("score")

    @property
    def keeps_best(self) -> bool:
        """Whether the run gives its best weights, not its last ones."""
        stage = self.config.get("stage")
        return isinstance(stage, dict) and bool(stage.get("keep_best"))

    @property
    def trained_on(self) -> str | None:
        """What the steps of the run count, tokens or examples. None: it trains nothing."""
        stage = self.config.get("stage")
        if not isinstance(stage, dict) or "steps" not in stage:
            return None
        of_tokens = any(e["event"] == "dataset" and "tokens" in e for e in self._start())
        return "tokens" if of_tokens else "examples"

    @property
    def code(self) -> dict[str, Any]:
        """code.json; empty while it is missing."""
        return _load(self.folder / "code.json")

    @property
    def result(self) -> dict[str, Any]:
        """result.json; empty while it is missing."""
        return _load(self.folder / "result.json")

    def params(self) -> dict[str, str]:
        """The resolved config, dotted names."""
        return self._texts(flatten(self.config))

    def tags(self) -> dict[str, str]:
        """Where the run comes from."""
        code = self.code
        return self._texts(
            {
                "stage": self.stage,
                "command": self._command(),
                "run": self.folder.name,
                "host": code.get("host"),
                "devices": code.get("devices"),
                "dirty": code.get("dirty"),
                "folder": str(self.folder),
                "mlflow.source.name": _without_folders(self._command()),
                "mlflow.source.type": "LOCAL",
                "mlflow.source.git.commit": code.get("commit"),
                "mlflow.note.content": self.note(None, {}),
            },
            skip_missing=True,
        )

    def final_tags(
        self, status: str, lineage: dict[str, str], run_id: str | None = None
    ) -> dict[str, str]:
        """How the run ended."""
        result = self.result
        kinds = ("attempts", "checkpoint", "best", "reason", "error")
        facts = {name: result.get(name) for name in kinds}
        again = {f"rerun.{name}": self.rerun.get(name) for name in ("of", "same")}
        if rerun := self.rerun:
            of = str(rerun.get("of")).rpartition("-")[2]
            again["mlflow.runName"] = f"rerun of {of}: {self.kind}"
        note = self.note(status, lineage, run_id)
        return self._texts(
            {"status": status, **facts, **again, "mlflow.note.content": note}, skip_missing=True
        )

    def note(self, status: str | None, lineage: dict[str, str], run_id: str | None = None) -> str:
        """The description above a run, Markdown: the result, what differs, then all the rest.

        `status` None: the run goes on. `run_id` is that of MLflow, whose page shows pictures by it.
        """
        result = self.result if status else {}
        metrics = result.get("metrics", {})
        host = f"on `{self.code.get('host', 'unknown host')}`"
        head = f"**{self._headline(metrics)}** {self.stage} {host}: {status or 'running'}"
        typed = " ".join(f"`{word}`" for word in self._typed())
        text = [head.removeprefix("**** ")]
        error = result.get("error")
        own = State.load(self.folder)
        if own is not None and own.view is not None:
            text[0] += f". [All runs, best first]({own.ranking.removeprefix('/')})"
        if (self.folder / predictions.FILE).is_file():
            predicted = predictions.Prediction.load(self.folder)
            text += ["", f"**Prediction** {self._link(str(predicted.folder))}: {predicted.said}"]
        if error:
            said = error.get("message", error) if isinstance(error, dict) else error
            text += ["", f"**Error** {_readable(said)}"]
        text += ["", f"**Differs from the defaults** {typed or 'in nothing'}"]
        if status and run_id and (self.folder / FIGURES / PICTURE).is_file():
            text += ["", picture(run_id, f"{FIGURES}/{PICTURE}")]
        text += _part("Result", self._facts(result))
        text += _part("Data", [*self._datasets(), *_fingerprints(lineage)])
        text += _part("Again", self._again(result))
        text += _part("What happened", happened(Run(self.folder)))
        return self.redactor.text("\n".join([*text, *self._samples()]))

    def _facts(self, result: dict[str, Any]) -> list[str]:
        """What was measured, of held-out data first, and what it took."""
        metrics = sorted(
            result.get("metrics", {}).items(), key=lambda pair: pair[0].startswith("train/")
        )
        best = result.get("best")
        facts = {
            **dict(metrics),
            "best step": best.get("step") if isinstance(best, dict) else None,
            "steps": result.get("steps"),
            "tokens per second": result.get("tokens_per_second"),
            "seconds": result.get("wall_s"),
        }
        return [f"{name}: {_readable(value)}" for name, value in facts.items() if value is not None]

    def _datasets(self) -> Iterator[str]:
        for event in self._start():
            if event["event"] == "dataset":
                sizes = [
                    f"{event[own]:,} {own}" for own in SIZES if isinstance(event.get(own), int)
                ]
                yield f"{event['name']} {event.get('split', 'train')}: {', '.join(sizes)}"

    def _again(self, result: dict[str, Any]) -> Iterator[str]:
        """How to make the same, where it lies, and which run it repeats."""
        commit = self.code.get("commit")
        yield f"`orchestrate rerun {shlex.quote(self.folder.name.rpartition('-')[2])}`"
        if command := self._command():
            yield f"typed: `{command}`"
        if commit:
            changes = " with uncommitted changes" if self.code.get("dirty") else ""
            yield f"commit: `{commit[:12]}`{changes}"
        yield f"folder: `{self.folder}`"
        if result.get("checkpoint"):
            yield f"checkpoint: `{result['checkpoint']}`"
        if rerun := self.rerun:
            same = "the same came out" if rerun.get("same") else "not the same came out"
            yield f"rerun of {self._link(str(rerun.get('of')))}: {same}"
            yield from (f"differs: {_readable(line)}" for line in rerun.get("differs", ())[:MOST])

    @property
    def rerun(self) -> dict[str, Any]:
        """Which run this one repeats, and whether the same came out; empty if it repeats none."""
        return _load(self.folder / RERUN)

    def _link(self, of: str) -> str:
        """The run of another folder of these outputs, as a link where MLflow has it."""
        state = State.load(self.folder.parents[1] / of)
        if state is None or state.run_id is None:
            return f"`{of}`"
        return f"[{of}]({state.page.removeprefix('/')})"

    def _samples(self) -> list[str]:
        """The beginning of what the model wrote."""
        path = self.folder / SAMPLES
        if not path.is_file() or not lies_in(self.folder, path):
            return []
        with path.open(encoding="utf-8", errors="replace") as file:
            begun = file.read(SAMPLE_CHARACTERS).rstrip().replace("```", "")
        return ["", "**Samples**", "", "```", begun, "```"] if begun else []

    def _headline(self, metrics: dict[str, float]) -> str:
        """The result in a line, with what it is to be compared with; empty while there is none."""
        name = (self.score or {}).get("metric", "")
        if name not in metrics:
            return ""
        split, _, measured = name.rpartition("/")
        found = next((e for e in self._start() if e["event"] == "baselines"), {})
        others = sorted(found.get(measured, {}).items(), key=lambda pair: float(pair[1]))
        beside = ", ".join(f"{other} {float(value):.3f}" for other, value in others)
        own = f"{float(metrics[name]):.3f} {split} {measured.replace('_', ' ')}"
        return f"{own} ({beside})." if beside else f"{own}."

    def _start(self) -> list[dict[str, Any]]:
        """The first events, in which stands what the driver knows before the first step."""
        return read(self.folder / EVENTS, max_bytes=START_BYTES)[0]

    def _typed(self) -> list[str]:
        """The overrides, without secrets."""
        path = self.folder / "overrides.yaml"
        words = read_yaml(path) if path.exists() else []
        return [self.redactor.text(str(word)) for word in words] if isinstance(words, list) else []

    def copy_records(self, target: Path) -> None:
        """Copy the records and logs of the run to `target`, and its story, secrets taken out."""
        story = self.redactor.text(story_text(Run(self.folder)))
        (target / STORY).write_text(story, encoding="utf-8")
        shown = yaml.safe_dump(self.redactor.settings(self.config), sort_keys=False)
        (target / CONFIG).write_text(shown, encoding="utf-8")
        paths = [self.folder / name for name in RECORDS]
        paths += sorted((self.folder / "logs").rglob("*"))
        for path in paths:
            if path.is_file() and path.name != OWN_LOG and lies_in(self.folder, path):
                copy = target / path.relative_to(self.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                with (
                    path.open(encoding="utf-8", errors="replace") as lines,
                    copy.open("w", encoding="utf-8") as out,
                ):
                    out.writelines(self.redactor.text(line) for line in lines)

    def first_time(self) -> int:
        """When the run began, milliseconds since 1970: its first event."""
        events, _ = read(self.folder / EVENTS, max_bytes=1)
        return int(events[0]["time_ms"] if events else self.folder.stat().st_mtime * 1000)

    def last_time(self) -> int:
        """When the last line of the journal was written, milliseconds since 1970."""
        times = [self.first_time()]
        for name in (EVENTS, METRICS):
            last = last_line(self.folder / name)
            times += [int(last["time_ms"])] if last else []
        return max(times)

    def _command(self) -> str:
        command = self.code.get("command", "")
        return " ".join(command) if isinstance(command, list) else str(command)

    def _texts(self, values: dict[str, Any], skip_missing: bool = False) -> dict[str, str]:
        return {
            name: self.redactor.setting(name, v if isinstance(v, str) else json.dumps(v))
            for name, v in values.items()
            if not skip_missing or v not in (None, "")
        }


def picture(run_id: str, path: str) -> str:
    """An artifact of a run as an image in Markdown, for MLflow's own page."""
    return f"![{path}](get-artifact?path={quote(path, safe='')}&run_uuid={run_id})"


def _part(heading: str, lines: Iterable[str]) -> list[str]:
    """A heading and its lines; nothing without any."""
    found = [f"- {line}" for line in lines]
    return ["", f"**{heading}**", "", *found] if found else []


def _fingerprints(lineage: dict[str, str]) -> Iterator[str]:
    yield from (f"{name}: `{fingerprint}`" for name, fingerprint in lineage.items())


def _load(path: Path) -> dict[str, Any]:
    found = read_json(path) if path.exists() else {}
    return found if isinstance(found, dict) else {}


def _without_folders(command: str) -> str:
    """A command with the last part of each path: the UI shows only what follows the last `/`."""
    return re.sub(r"[^\s='\"]*/(?=[^\s/'\"])", "", command).replace("/", "")


def _readable(value: Any) -> str:
    """A number short enough to read, any text on one line."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.5g}" if isinstance(value, float) else " ".join(str(value).split())
