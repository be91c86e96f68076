"""What there is on this machine or on a cluster, and whether a job fits it."""

import os
import re
import shutil
import socket
from collections.abc import Iterable, Sequence
from functools import cache

from cluster.inline import given_world_size
from cluster.inventory import devices
from cluster.nodes import Devices
from cluster.placement import GangRefused, Placement, refuse_what_never_fits
from orchestrator.config import EngineConfig, ResourcesConfig

CONNECT_SECONDS = 5
_told: dict[str | None, Devices] = {}


def tell(address: str, devices: Devices) -> None:
    """What a Ray cluster has, by who knows it, before anybody asks: nobody has to connect to it."""
    _told[address] = devices


@cache
def available(address: str | None) -> Devices:
    """What there is on this machine, or on the Ray cluster at `address`; looked up once.

    Raises:
        ValueError: no cluster answers at the address.
    """
    if address in _told:
        return _told[address]
    try:
        # Ray itself would try for minutes, and fill the screen, where nobody listens.
        if address is not None and (place := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)):
            socket.create_connection((place[1], int(place[2])), CONNECT_SECONDS).close()
        return devices(address)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"resources.address (or RAY_ADDRESS)={address}: no Ray cluster answers there "
            f"({str(error).splitlines()[0]}); unset it to run on this machine, "
            "or add resources.address=null where a run that is resumed has it"
        ) from error


def placement_of(resources: ResourcesConfig, sizes: Sequence[int], beside: int = 0) -> Placement:
    """What a gang asks for, in one of these sizes, the largest first, and processes beside it."""
    return Placement(
        sizes[0],
        resources.cpus_per_worker,
        resources.gpus_per_worker,
        resources.address,
        tuple(sizes[1:]),
        beside,
    )


def check_fits(resources: ResourcesConfig, sizes: Sequence[int] = (), beside: int = 0) -> Devices:
    """What there is for the job. Raises GangRefused if the job can never run on it.

    Args:
        resources: what the job asks for.
        sizes: numbers of workers that would do, the largest first; none: the most it may have.
        beside: processes with as much each that its workers start.
    """
    inline = resources.launcher == "inline"
    here = available(None if inline else resources.address)
    if not inline:
        placement = placement_of(resources, sizes or [resources.most], beside)
        where = "this machine" if resources.address is None else here.where
        try:
            refuse_what_never_fits(placement, here.rooms, where, here.note)
        except GangRefused as error:
            raise GangRefused(f"{error}; resources=auto takes what is there") from None
        return here
    world_size = given_world_size() or 1
    if resources.workers != world_size:
        raise GangRefused(
            f"resources.workers={resources.workers} must be {world_size} with "
            f"resources.launcher=inline, which is {world_size} process(es) here; try "
            f"resources.workers={world_size}, or torchrun --nproc-per-node={resources.workers} "
            "-m orchestrator run"
        )
    if resources.gpus_per_worker * ranks_here() > here.gpus:
        note = f" ({here.note})" if here.note else ""
        raise GangRefused(
            f"resources.gpus_per_worker=1 needs {ranks_here()} GPU(s) on this machine, which has "
            f"{here.gpus}; try resources.gpus_per_worker=0{note}"
        )
    return here


def check_compiler(resources: ResourcesConfig, engines: Iterable[EngineConfig]) -> None:
    """Raise ValueError if an engine compiles and this machine, where it would, has no compiler."""
    if resources.address is not None or not any(engine.compile for engine in engines):
        return
    # What torch.compile looks for: inductor a C++ compiler, triton one for C.
    variable, names = ("CC", ("gcc", "clang")) if resources.gpus_per_worker else ("CXX", ("g++",))
    if not any(map(shutil.which, (os.environ.get(variable) or names[0], *names))):
        raise ValueError(
            f"engine.compile=true needs a compiler, and this machine has no {' or '.join(names)}; "
            f"install it (apt-get install {names[0]}), name another in the variable {variable}, "
            "or set engine.compile=false"
        )


def ranks_here() -> int:
    """Processes of torchrun on this host, this one among them; 1 without torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if given_world_size() else 1
