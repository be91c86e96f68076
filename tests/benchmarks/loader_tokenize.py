"""Part `tokenize` of loader.py: our pipeline, our command, and `tokenizers` alone."""

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.loader_bench import Bench
from tests.benchmarks.runs import spread


def make_texts(folder: Path, megabytes: int, files: int) -> int:
    """Write JSON lines of different texts and a tokenizer for them; returns the bytes of text."""
    from data.config import SourceConfig
    from data.sources import read_records
    from data.sources.inputs import InputUnit
    from data.tokenizer import Tokenizer

    source = SourceConfig(source="python_docs")
    corpus = [record.texts[0] for record in read_records(source, InputUnit(()))]
    Tokenizer.train(corpus, 4096).save(folder / "tokenizer.json")
    (folder / "texts").mkdir()
    total, texts = 0, source_files()
    for number in range(files):
        with (folder / "texts" / f"{number:03d}.jsonl").open("w", encoding="utf-8") as out:
            while total < megabytes * 1e6 * (number + 1) / files:
                text = next(texts)
                total += len(text.encode())
                out.write(json.dumps({"text": text}) + "\n")
    return total


def source_files() -> Iterator[str]:
    """Parts of the source files of Python and of all that is installed, again and again.

    They are full of names: of different words they have more than prose.
    """
    for copy in itertools.count():
        for root in filter(os.path.isdir, sys.path):
            for path in sorted(Path(root).rglob("*.py")):
                text = path.read_text("utf-8", "replace").replace("\0", "")
                for start in range(0, len(text), 8192):
                    yield f"{copy} {path}\n{text[start : start + 8192]}"


def library_tokenization(folder: Path) -> float:
    """Seconds of `tokenizers` alone: texts in memory to token ids."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lines = [x for p in sorted((folder / "texts").iterdir()) for x in p.read_text().splitlines()]
    texts = [json.loads(line)["text"] for line in lines]
    begun = time.perf_counter()
    for first in range(0, len(texts), 256):
        tokenizer.encode_batch_fast(texts[first : first + 256], add_special_tokens=False)
    return time.perf_counter() - begun


def our_tokenization(folder: Path, processes: int) -> float:
    """Seconds of our units of work: files to checked documents on the disk."""
    from data.config import SourceConfig
    from data.preparation.tokenize import TokenizeTask, tokenize
    from data.sources import units_of

    path, made = str(folder / "tokenizer.json"), Path(tempfile.mkdtemp(dir=folder))
    config = SourceConfig(source="jsonl", path=str(folder / "texts"))
    tasks = [
        TokenizeTask(config, unit, str(made / str(number)), path, 2**64 // 20, None)
        for number, unit in enumerate(units_of(config))
    ]
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Barrier(processes + 1)
    with spawn.Pool(processes, _start_encoder, (path, started)) as pool:
        started.wait()
        begun = time.perf_counter()
        pool.map(tokenize, tasks, chunksize=1)
        return time.perf_counter() - begun


def whole_command(folder: Path, workers: int) -> float:
    """Seconds of `orchestrate data prepare`, from Enter to its end, with an empty cache."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = [
            *(sys.executable, "-m", "orchestrator", "data", "prepare", "data=jsonl"),
            f"data.path={folder / 'texts'}", "tokenizer=file",
            f"tokenizer.path={folder / 'tokenizer.json'}", "--workers", str(workers),
        ]  # fmt: skip
        environment = {**os.environ, "ORCHESTRATE_CACHE": cache}
        begun = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun


def _start_encoder(path: str, started: Any) -> None:
    from data.preparation.tokenize import encoder_of

    encoder_of(path)
    started.wait()


def tokenize(bench: Bench) -> None:
    """MB of text per second."""
    cores, folder = len(os.sched_getaffinity(0)), bench.folder / "tokenize"
    folder.mkdir()
    megabytes = bench.settings.tokenize_mb
    size = bench.measure(make_texts, folder=folder, megabytes=megabytes, files=4 * cores) / 1e6
    print(f"tokenize: MB/s of {size:.0f} MB of text on {cores} cores, {os.cpu_count()} present")
    ways: dict[str, tuple[Callable[..., float], int, dict[str, int]]] = {
        "tokenizers, encode_batch_fast": (library_tokenization, cores, {}),
        "our units, a process per core": (our_tokenization, 1, {"processes": cores}),
        "our units, one process": (our_tokenization, 1, {"processes": 1}),
        "data prepare, a worker per core": (whole_command, 1, {"workers": cores}),
        "data prepare, one worker": (whole_command, 1, {"workers": 1}),
    }
    found: dict[str, list[float]] = {}
    for _ in range(bench.settings.rounds):
        for name, (measure, threads, settings) in ways.items():
            threading = {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
            running = bench.start(measure, threading, folder=folder, **settings)
            found.setdefault(name, []).append(size / bench.finish(running))
    alone = next(iter(found.values()))
    for name, values in found.items():
        ratios = [own / other for own, other in zip(values, alone, strict=True)]
        print(f"  {name:32}{spread(values):28} / tokenizers {spread(ratios)}")
