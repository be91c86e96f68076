"""Part `tokenize` of loader.py: our pipeline, and `tokenizers` alone."""

import itertools
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.loader_bench import Bench
from tests.benchmarks.runs import spread


def make_texts(folder: Path, megabytes: int, files: int) -> int:
    """Write JSON lines of different texts and a tokenizer of them; returns the bytes of text."""
    from data.config import SourceConfig
    from data.sources import read_records
    from data.sources.inputs import InputUnit
    from data.tokenizer import Tokenizer

    source = SourceConfig(source="python_docs")
    corpus = [record.texts[0] for record in read_records(source, InputUnit(()))]
    Tokenizer.train(corpus, 4096).save(folder / "tokenizer.json")
    (folder / "texts").mkdir()
    total = 0
    for number in range(files):
        with (folder / "texts" / f"{number:03d}.jsonl").open("w", encoding="utf-8") as out:
            for copy in itertools.count():
                if total >= megabytes * 1e6 * (number + 1) / files:
                    break
                text = f"{number} {copy}\n{corpus[copy % len(corpus)]}"
                total += len(text.encode())
                out.write(json.dumps({"text": text}) + "\n")
    return total


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


def _start_encoder(path: str, started: Any) -> None:
    from data.preparation.tokenize import encoder_of

    encoder_of(path)
    started.wait()


def measure_tokenize(folder: Path, processes: int) -> float:
    """Seconds for all texts; without processes of ours, those of the library."""
    return our_tokenization(folder, processes) if processes else library_tokenization(folder)


def tokenize(bench: Bench) -> None:
    """MB of text per second."""
    cores, folder = len(os.sched_getaffinity(0)), bench.folder / "tokenize"
    folder.mkdir()
    megabytes = bench.settings.tokenize_mb
    size = bench.measure(make_texts, folder=folder, megabytes=megabytes, files=4 * cores) / 1e6
    print(f"tokenize: MB/s of {size:.0f} MB of text on {cores} cores, {os.cpu_count()} present")
    ways = {  # processes of ours, threads in each
        "tokenizers, encode_batch_fast": (0, cores),
        "ours, a process per core": (cores, 1),
        "ours, one process": (1, cores),
    }
    found: dict[str, list[float]] = {}
    for _ in range(bench.settings.rounds):
        for name, (processes, threads) in ways.items():
            threading = {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
            running = bench.start(measure_tokenize, threading, folder=folder, processes=processes)
            found.setdefault(name, []).append(size / bench.finish(running))
    alone = next(iter(found.values()))
    for name, values in found.items():
        ratios = [own / other for own, other in zip(values, alone, strict=True)]
        print(f"  {name:32}{spread(values):28} / tokenizers {spread(ratios)}")
