"""How long a rank's own work takes, without its waits for other ranks."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class OwnWork:
    """Sums up the time of blocks in which a rank waits for nobody: reading data, forward passes.

    Not backward passes and the optimizer's step, in which DeepSpeed reduces and gathers; and under
    ZeRO 3 a forward pass gathers, too, so there only the data tells ranks apart.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is measured yet."""
        self._seconds = 0.0
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []  # on the GPU: of the begin and the end of each block

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Measure the block; on a GPU what it does there, too, without waiting for it."""
        begun = time.perf_counter()
        if self._cuda:
            self._mark()
        yield
        if self._cuda:
            self._mark()
        else:
            self._seconds += time.perf_counter() - begun

    def take(self) -> float:
        """Seconds since this was last called; after a step, when the device has done it all."""
        pairs = zip(self._marks[::2], self._marks[1::2], strict=True)
        on_gpu: float = sum(first.elapsed_time(last) for first, last in pairs)  # milliseconds
        seconds, self._seconds, self._marks = self._seconds + on_gpu / 1000, 0.0, []
        return seconds

    def _mark(self) -> None:
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)
