"""What an hour of hardware costs, from a table that anybody can edit."""

import math
from pathlib import Path

import yaml

import conf

OURS = Path(conf.__file__).parent / "prices.yaml"


def read(file: Path | None) -> dict[str, float]:
    """Dollars an hour by name: a GPU of training/gpus.py, or `cpu core`.

    Args:
        file: the table, YAML. None: the one in conf/.

    Raises:
        ValueError: there is no such file, or a price is no number that can be paid.
    """
    path = file or OURS
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = str(getattr(error, "strerror", None) or error).splitlines()[0]
        raise ValueError(f"prices={path}: {said}; it must be YAML such as {OURS}") from None
    if not isinstance(table, dict):
        raise ValueError(f"prices={path} must have lines such as H100: 3.00, as {OURS} has")
    for name, price in table.items():
        number = isinstance(price, int | float) and not isinstance(price, bool)
        if not number or not 0 <= price < math.inf:
            raise ValueError(
                f"prices={path}: the price of {name} is {price!r}; it must be a number of dollars "
                "an hour, 0 or more"
            )
    return {str(name): float(price) for name, price in table.items()}
