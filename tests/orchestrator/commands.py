"""Whole jobs as a user types them: a process in a folder of its own, its screen and its record."""

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from orchestrator.record.lines import read

ROOT = Path(__file__).parents[2]
STEPS = 12
TINY = [
    *("data=text", "tokenizer.vocab_size=300", "data.sequence_length=32"),
    *("model.layers=2", "model.width=32", "model.heads=2", "model.max_positions=32"),
    *("model.dropout=0.1", "stage.global_batch_size=8", "stage.micro_batch_size=4"),
    *("optim.warmup_steps=3", "stage.sample_tokens=8", "engine.precision=fp32"),
    *(f"stage.steps={STEPS}", "stage.evaluate_every=6", "stage.checkpoint_every=5"),
]
RUN = [sys.executable, "-m", "orchestrator", "run"]
NOISE = ("Warning", "WARNING", "INFO", "Traceback", "deprecated", "DeepSpeed ops", "raylet")


class Job:
    """One command in a folder of its own, in a process group as under a terminal.

    `columns` puts a real one under it, as wide as that.
    """

    def __init__(
        self, folder, corpus, *overrides, command=RUN, own=TINY, columns=None, **environment
    ):
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self._output = (folder / "screen.txt").open("wb")
        self._reader, output = None, self._output.fileno()
        if columns is not None:
            environment = {"COLUMNS": str(columns), "TERM": "xterm", **environment}
            driver, output = pty.openpty()
            self._reader = threading.Thread(target=self._read, args=(driver,))
        environment = {"HOME": str(self.home), "PYTHONPATH": str(ROOT), **environment}
        unwanted = ("XDG_CACHE_HOME", "MPLCONFIGDIR", "RAY_AUTH_MODE", "MLFLOW_DISABLE_TELEMETRY")
        inherited = {k: v for k, v in os.environ.items() if k not in unwanted}
        self.process = subprocess.Popen(
            [*command, *own, *([f"data.path={corpus}"] if own else ()), *overrides],
            cwd=folder,
            env=inherited | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        if self._reader is not None:
            os.close(output)
            self._reader.start()

    def _read(self, terminal):
        with suppress(OSError):  # all who could write have ended
            while shown := os.read(terminal, 4096):
                self._output.write(shown)
        os.close(terminal)

    def wait(self, seconds=150):
        """The exit code."""
        try:
            return self.process.wait(seconds)
        finally:
            self.kill()
            if self._reader is not None:
                self._reader.join(10)
            self._output.close()

    def kill(self):
        """End a command that did not end by itself, with all that it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for pid, _ in self.left_overs()[0]:
                os.kill(pid, signal.SIGKILL)

    def interrupt(self):
        """Ctrl-C: a terminal sends it to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def until(self, found, seconds=120):
        """Wait until `found()` is true of the running job."""
        deadline = time.monotonic() + seconds
        while not (answer := found()):
            assert self.process.poll() is None, self.screen
            assert time.monotonic() < deadline, self.screen
            time.sleep(0.05)
        return answer

    @property
    def screen(self):
        return (self.folder / "screen.txt").read_text()

    @property
    def run(self):
        """The newest run folder."""
        return (self.folder / "outputs" / "latest").resolve()

    @property
    def result(self):
        return json.loads((self.run / "result.json").read_text())

    def events(self, kind):
        lines, _ = read(self.run / "events.jsonl")
        return [line for line in lines if line["event"] == kind]

    def workers(self):
        """What is known of each worker, once they have started."""
        admitted = self.events("admitted") if self.run.is_dir() else []
        return admitted[-1]["workers"] if admitted else []

    def metric(self, name="train/loss"):
        """The journal's value of each step."""
        lines, _ = read(self.run / "metrics.jsonl")
        return {line["step"]: line["metrics"][name] for line in lines if name in line["metrics"]}

    def steps_done(self):
        return len(self.metric()) if (self.run / "metrics.jsonl").is_file() else 0

    def mlflow_run(self):
        """Status and metrics of the run in the store, read without mlflow."""
        with sqlite3.connect(self.folder / "outputs" / "mlflow.db") as store:
            run = self.result["mlflow_run_id"]
            (status,) = store.execute(
                "select status from runs where run_uuid = ?", [run]
            ).fetchone()
            rows = store.execute("select key, step, value from metrics where run_uuid = ?", [run])
            return status, {(key, step): value for key, step, value in rows}

    def listens(self):
        """Addresses at which the job's processes take connections."""
        driver = psutil.Process(self.process.pid)
        return {
            connection.laddr.ip.removeprefix("::ffff:")
            for process in (driver, *driver.children(recursive=True))
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }

    def left_overs(self):
        """Processes and temporary folders that outlived the command."""
        processes = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("HOME") == str(self.home)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                processes.append((process.pid, process.cmdline()))
        return processes, list(Path("/tmp").glob(f"orch-{self.process.pid}-*"))


def command_of(process):
    """The words of a process in one line; nothing of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def no_left_overs(job):
    deadline = time.monotonic() + 5
    while job.left_overs() != ([], []) and time.monotonic() < deadline:
        time.sleep(0.2)
    return job.left_overs() == ([], [])
