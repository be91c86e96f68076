"""Our loader beside the ones people use: one run, every contender in turn, median and range.

    python tests/benchmarks/loader.py [--only ours,litdata] [--part hot,cold] [--rounds 3]
                                      [--hot-size 256] [--cold-size 1024]

The libraries need an environment of their own with `pip install -e '.[bench]'`, because they hold
back numpy and transformers; what isn't installed is named and left out. Parts:
- hot: tokens per second of batches (64, 1025) int64 from a set in the page cache. "mixed" is how
  far apart neighbours in a batch lie in the set, 1 for an even shuffle, 0 for reading in order.
- first: the same of a process's first epoch, from opening on: blocks are compared with their hashes
  and pages are mapped, which `hot` has behind it.
- cold: the same after the pages of the set were dropped, from opening until a quarter of it was
  used, and bytes read from the device per byte used. Random reads bring each page to the page cache
  once, so their ratio is at most set / used here; of a set larger than the memory it is far worse.
- resume: from opening to the first batch, 0, 50 and 95 % into an epoch; size of the saved state.
- crash: windows repeated or missing in an epoch after SIGKILL between two checkpoints, and after
  the number of ranks or of loader workers changed 2 -> 4 -> 3; and how many batches hold the same
  windows as those of an epoch that was not interrupted.
- tokenize: our pipeline, files to checked documents; our command, Enter to published shards; and
  `tokenizers` alone, texts in memory.
- memory: of our readers over several epochs, beside the bound that we state.
"ours" is what a user gets for a set of this size, which is mapped; "ours buffered" is how sets are
read that are not local or larger than a quarter of the memory. Everything is written to one
temporary folder (TMPDIR says where; it needs 8 GB) and removed.
"""

import argparse
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.loader_bench import Bench, Settings
from tests.benchmarks.loader_crash import crash
from tests.benchmarks.loader_libraries import CONTENDERS, is_installed
from tests.benchmarks.loader_memory import memory
from tests.benchmarks.loader_rates import cold, first, hot
from tests.benchmarks.loader_resume import resume
from tests.benchmarks.loader_tokenize import tokenize
from tests.benchmarks.runs import scratch

PARTS = {
    "hot": hot, "first": first, "resume": resume, "crash": crash, "tokenize": tokenize,
    "cold": cold, "memory": memory,
}  # fmt: skip


def main() -> None:
    """Run the parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="contenders, comma-separated", default=",".join(CONTENDERS))
    parser.add_argument("--part", help=",".join(PARTS), default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hot-size", type=int, default=256, help="MiB of the set of `hot`")
    parser.add_argument("--cold-size", type=int, default=1024, help="MiB, of `cold` and `memory`")
    parser.add_argument("--resume-size", type=int, default=64, help="MiB of the set of `resume`")
    parser.add_argument("--hot-seconds", type=float, default=1, help="of one measurement")
    parser.add_argument("--cold-seconds", type=float, default=4, help="most, of one measurement")
    parser.add_argument("--tokenize-mb", type=int, default=16, help="MB of text")
    options = parser.parse_args()
    names, parts = options.only.split(","), options.part.split(",")
    for values, known in ((names, list(CONTENDERS)), (parts, list(PARTS))):
        for value in set(values) - set(known):
            parser.error(f"{value} is not one of {', '.join(known)}")
    for name in list(names):
        if not is_installed(CONTENDERS[name]):
            print(f"{name}: not installed: pip install -e '.[bench]'")
            names.remove(name)
    settings = Settings(
        options.rounds, options.hot_size, options.cold_size, options.resume_size,
        options.hot_seconds, options.cold_seconds, options.tokenize_mb,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # after clearing up
    with scratch() as folder:
        bench = Bench(folder, names, settings)
        for part in parts:
            begun = time.perf_counter()
            PARTS[part](bench)
            print(f"  ({part} took {time.perf_counter() - begun:.0f} s)", flush=True)
    for what, failure in bench.failures.items():
        print(f"{what}: {failure}")


if __name__ == "__main__":
    main()
