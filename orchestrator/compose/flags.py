"""The flags that stand among overrides; they are those of a Hydra app."""

import argparse
from collections.abc import Sequence
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Leave the exit to whoever asked."""
        raise ValueError(f"{message}; `orchestrate run --help` lists flags")


def parser() -> argparse.ArgumentParser:
    """The flags, and overrides in any order with them."""
    new = _Parser(prog="orchestrate run", add_help=False, allow_abbrev=False, usage="")
    new.add_argument("overrides", nargs="*", help=argparse.SUPPRESS)
    new.add_argument("--help", "-h", action="store_true", help="groups, flags and every setting")
    new.add_argument("--multirun", "-m", action="store_true", help="a job for each of the values")
    new.add_argument("--cfg", "-c", choices=["job"], help="show the config; start nothing")
    new.add_argument("--resolve", action="store_true", help="with --cfg: values are filled in")
    new.add_argument("--package", "-p", metavar="NAME", help="with --cfg: one section alone")
    new.add_argument(
        "--info", "-i", choices=["defaults", "defaults-tree"], help="which files a config is of"
    )
    new.add_argument("--config-dir", "-cd", metavar="FOLDER", help="of your own YAML: model=mine")
    new.add_argument(
        "--config-name", "-cn", metavar="NAME", default="config", help="a YAML read first [config]"
    )
    return new


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags, and the overrides in the order they were typed. Raises ValueError."""
    flags = parser().parse_intermixed_args(list(arguments))
    for name in ("resolve", "package"):
        if getattr(flags, name) and not flags.cfg:
            raise ValueError(f"--{name} is of --cfg job; add it, or leave --{name} out")
    return flags
