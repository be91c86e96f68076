"""A small process that outlives a killed driver for a moment, to clear up after its private Ray.

Ray's server processes die with their driver, what those have started a while later, and nobody
removes the temporary folder. Run as `python guard.py FOLDER PID...` with a pipe from the driver
as its input, which ends when the driver does.
"""

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
    for process in alive:
        try:
            process.kill()  # psutil compares start times, so never a newcomer with the same pid
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=2)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], [int(pid) for pid in sys.argv[2:]])
