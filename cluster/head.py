"""The head process of Ray, without which calls hang and Ray ends this process after a minute."""

from __future__ import annotations

import time
from types import ModuleType

from cluster.failure import WorkerFailed
from cluster.host.network import takes_connections

LOOK_EVERY_S = 2.0
LOOKS_OF_A_PRIVATE_RAY = 3  # there is no network between us that might come back
LOOKS_OF_A_CLUSTER = 8


def head_answers(ray: ModuleType) -> bool:
    """Whether the head process takes connections."""
    host, port = _address(ray)
    return takes_connections(host, port)


def node_answers(ray: ModuleType, node: str) -> bool:
    """Whether the raylet of a node takes connections; the node is told by its Ray id."""
    if not head_answers(ray):  # which knows where it is
        return True
    for known in ray.nodes():
        if known["NodeID"] == node:
            here = known["NodeManagerAddress"], known["NodeManagerPort"]
            return bool(known["Alive"]) and takes_connections(*here)
    return False


class HeadWatch:
    """Looks now and then, when it is asked, whether the head process is there."""

    def __init__(self, ray: ModuleType, *, private: bool) -> None:
        """It is there now."""
        self._ray, self._looked_at = ray, time.monotonic()
        self._looks = LOOKS_OF_A_PRIVATE_RAY if private else LOOKS_OF_A_CLUSTER
        self._failed = 0  # looks, one after the other

    def check(self) -> None:
        """Raise WorkerFailed if the last looks have all found nothing."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        self._failed = 0 if head_answers(self._ray) else self._failed + 1
        if self._failed >= self._looks:
            host, port = _address(self._ray)
            raise WorkerFailed(
                rank=None,
                host=host,
                cause="lost",
                error_type="",
                message="lost the head process of Ray, which takes no connections any more at "
                f"{host}:{port}",
            )


def _address(ray: ModuleType) -> tuple[str, int]:
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host.strip("[]"), int(port)
