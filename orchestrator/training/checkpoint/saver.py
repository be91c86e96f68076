"""Asynchronous saves: a step waits for a copy in host memory at most, and seldom for that.

1. `save` names the state of this rank and lets a thread begin to copy it. The next forward and
   backward pass do not change it; `before_update` waits until the copy is whole. So the copy costs
   no step any time, unless it takes longer than the passes (CheckFreq, Mohan et al., FAST 2021).
2. The thread writes the copy as `writing.save` writes live state: hashed on its way, flushed, the
   manifest last, renamed. The ranks agree through a process group that no step uses; one rank's
   disk keeps no other rank's steps waiting.
3. `poll` and `wait` tell what was published, or raise what went wrong.

One save is under way at a time. The copy is as large as what the rank saves, and is used again.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from orchestrator.record.checkpoints.manifest import Checkpoint
from orchestrator.record.fencing import Fence
from orchestrator.training import distributed
from orchestrator.training.checkpoint.writing import SavedRole, save
from orchestrator.training.state import Slice

FAILING_S = 15.0  # how long an error of this rank, which nobody knows of yet, waits for a save


@dataclass(frozen=True)
class Published:
    """A checkpoint that was published, and what it took."""

    checkpoint: Checkpoint
    stall_s: float
    """Seconds that training stood still for it on this rank."""
    write_s: float
    """Seconds from the call of `save` to its publication."""


@dataclass
class _UnderWay:
    """The save at hand."""

    result: Future[Checkpoint]
    copied: Future[None]
    """Done when the live state may change."""
    begun: float
    stall_s: float = 0.0


class Saver:
    """Publishes the checkpoints of a run. Every rank has one, and calls every method but `poll`.

    A context manager: what is under way when it ends is finished; if an error ends it, for
    `FAILING_S` at most. Of a process that has no memory left not even a new thread may begin, and
    Python waits for that one for ever.
    """

    def __init__(
        self,
        root: Path,
        fence: Fence | None = None,
        *,
        asynchronous: bool = True,
        before: Callable[[], None] = lambda: None,
        after: Callable[[Checkpoint], None] = lambda done: None,
    ) -> None:
        """Nothing is under way.

        Args:
            root: the `checkpoints/` folder, which all ranks see.
            fence: the attempt that saves. None: nobody else can be writing there.
            asynchronous: False: `save` returns when all is done, and no copy is made.
            before: called in the thread before anything is written.
            after: called in the thread, on rank 0, with what was published.
        """
        self._root, self._fence, self._asynchronous = root, fence, asynchronous
        self._before, self._after = before, after
        self._group = distributed.background_group() if asynchronous else None
        self._threads = ThreadPoolExecutor(1, "saver")
        self._copies: dict[tuple[str, int, str], Tensor] = {}
        self._under_way: _UnderWay | None = None

    def save(
        self,
        step: int,
        roles: Mapping[str, SavedRole],
        tokenizer: Path | None,
        facts: Mapping[str, Any],
    ) -> None:
        """Begin to publish the checkpoint of this step; `wait` for the one before first.

        The arguments are those of `writing.save`.
        """
        assert self._under_way is None  # the caller has waited for it
        begun = time.monotonic()
        copied: Future[None] = Future()
        live = (
            {name: list(role.state()) for name, role in roles.items()}
            if self._asynchronous
            else None
        )
        ready = _ready(live.values()) if live is not None else None

        def work() -> Checkpoint:
            saved = dict(roles)
            try:
                for name, slices in (live or {}).items():
                    copy = self._copy(name, slices, ready)
                    saved[name] = replace(saved[name], state=partial(iter, copy))
            finally:
                copied.set_result(None)
            self._before()
            done = save(self._root, step, saved, tokenizer, facts, self._fence, self._group)
            if distributed.rank() == 0:
                self._after(done)
            return done

        self._under_way = _UnderWay(self._threads.submit(work), copied, begun)
        if not self._asynchronous:
            self._under_way.result.exception()  # raised by `wait`
        self._under_way.stall_s = time.monotonic() - begun

    def before_update(self) -> None:
        """Return when the weights and the optimizer's state may change."""
        if self._under_way is not None and not self._under_way.copied.done():
            begun = time.monotonic()
            self._under_way.copied.result()
            self._under_way.stall_s += time.monotonic() - begun

    def poll(self) -> Published | None:
        """What was published since the last call; None: nothing. Never waits.

        Raises:
            Exception: why a checkpoint could not be saved, as `writing.save` has it.
        """
        done = self._under_way is not None and self._under_way.result.done()
        return self.wait() if done else None

    def wait(self) -> Published | None:
        """As `poll`, once nothing is under way any more."""
        own, self._under_way = self._under_way, None
        if own is None:
            return None
        done = own.result.result()
        return Published(done, own.stall_s, time.monotonic() - own.begun)

    def __enter__(self) -> Self:
        """The saver itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish what is under way; if it fails, that is told unless another error is."""
        own, limit_s = self._under_way, None if error is None else FAILING_S
        stuck = own is not None and bool(wait([own.result], limit_s).not_done)
        self._threads.shutdown(wait=not stuck)
        if error is None:
            self.wait()
        distributed.leave(self._group)

    def _copy(self, role: str, slices: Iterable[Slice], ready: Any) -> list[Slice]:
        """The same slices in memory of their own, on the CPU."""
        copies = []
        with _on_stream(ready):
            for number, own in enumerate(slices):
                tensors = {
                    key: self._room(role, number, key, tensor).copy_(tensor, non_blocking=True)
                    for key, tensor in own.tensors.items()
                }
                copies.append(replace(own, tensors=tensors))
        return copies

    def _room(self, role: str, number: int, key: str, tensor: Tensor) -> Tensor:
        """Memory for a copy: that of the save before, or new."""
        place = role, number, key
        known = self._copies.get(place)
        if known is None or known.shape != tensor.shape:
            known = torch.empty(
                tensor.shape, dtype=torch.float32, device="cpu", pin_memory=tensor.is_cuda
            )
            self._copies[place] = known
        return known


def _ready(live: Iterable[Iterable[Slice]]) -> Any:
    """On a GPU: an event of its stream, when all that was computed until now is in its memory."""
    tensors = (t for slices in live for own in slices for t in own.tensors.values())
    if not any(tensor.is_cuda for tensor in tensors):
        return None
    return torch.cuda.current_stream().record_event()


@contextmanager
def _on_stream(ready: Any) -> Iterator[None]:
    """Copy on a stream of its own, once `ready` has come; the copies are whole after the block."""
    if ready is None:
        yield
        return
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_event(ready)
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()
