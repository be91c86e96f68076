"""Saved weights as the process that starts a job looks at them."""

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.record.checkpoints import MANIFEST, hold

if TYPE_CHECKING:
    from orchestrator.training.checkpoint import Weights

_verified: "dict[tuple[Path | str, str | None], Weights]" = {}


def verified_weights(
    path: str,
    role: str | None = None,
    setting: str = "model.weights",
    *,
    allow_pickle: bool = False,
) -> "Weights":
    """The weights that `model.weights` or `checkpoint` name, verified once per process.

    Those behind a URL are fetched; `setting` is whose value it is, for messages.

    A run folder and the checkpoint that was found in it are one: no byte is hashed again when the
    job has been told the checkpoint's own name. They are named by their own folder:
    `outputs/latest` will soon mean another run.

    Raises:
        ValueError: nothing valid is there, or not that role.
    """
    from orchestrator.training.checkpoint import located, open_weights

    place = located(path, allow_pickle=allow_pickle)
    if not isinstance(place, str) and not place.exists():
        raise ValueError(f"{setting}={path} does not exist; `orchestrate runs` lists the runs")
    asked = (place if isinstance(place, str) else place.resolve()), role
    if asked not in _verified:
        found = open_weights(place, role, setting=setting)
        if (found.path / MANIFEST).exists():  # an exported folder has none, and nobody deletes it
            hold(found.path)  # as long as this process, the driver, lives: its ranks open it
        tokenizer = None if found.tokenizer is None else found.tokenizer.resolve()
        found = found._replace(path=found.path.resolve(), tokenizer=tokenizer)
        for name in (role, found.role):
            _verified[asked[0], name] = _verified[found.path, name] = found
    return _verified[asked]
