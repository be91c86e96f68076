"""Where this program's packages are imported from, whatever else has their names.

Training projects have folders called models and data, in the current folder and on PYTHONPATH. A
place that would hide ours is moved behind ours; workers of Ray get this search path, too.
"""

import sys
from pathlib import Path

OURS = ("cluster", "conf", "data", "models")
HOME = Path(__file__).parents[1]


def import_ours_first() -> None:
    """Move what hides our packages behind the place that this module was imported from."""
    hiding = [place for place in sys.path if _hides(Path(place))]
    if hiding:
        others = [place for place in sys.path if place not in (*hiding, str(HOME))]
        sys.path[:] = [*others, str(HOME), *hiding]


def _hides(place: Path) -> bool:
    """Whether a folder of the search path has something of one of our names."""
    try:
        here = place.resolve()
        return here != HOME and any(
            (here / name).is_dir() or (here / f"{name}.py").is_file() for name in OURS
        )
    except OSError:
        return False
