"""A small process that outlives a killed driver for a moment, to clear up after its private Ray.

Ray's server processes die with their driver, what those have started a while later, and nobody
removes the temporary folder; a worker that was being started at that time makes it anew, ten
seconds later. Run as `python guard.py FOLDER PID...` with a pipe from the driver as its input,
which ends when the driver does.
"""

import os
import shutil
import sys

import psutil


def main(folder: str, pids: list[int]) -> None:
    """Wait for the driver's end, then end the processes and remove the folder."""
    watched = []
    for pid in pids:
        try:
            watched.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    sys.stdin.read()
    _, alive = psutil.wait_procs(watched, timeout=0.5)
    _end(alive)
    _end(_naming(folder))  # after the servers, which start no more of them
    shutil.rmtree(folder, ignore_errors=True)


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()  # psutil compares start times, so never a newcomer with the same pid
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=2)


def _naming(folder: str) -> list[psutil.Process]:
    """All other processes with the folder in their command line, as Ray starts its workers."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid != os.getpid()
        and any(f"{folder}/" in part for part in process.info["cmdline"] or ())
    ]


if __name__ == "__main__":
    main(sys.argv[1], [int(pid) for pid in sys.argv[2:]])
