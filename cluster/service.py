"""A service: replicas of an object with state, each in a process of its own.

    with service(Engine, settings, placement, log_folder=logs) as engines:
        engines.broadcast(Engine.load, weights)  # to every replica, and to each successor
        engines.replicas[0].generate(prompts)  # an ordinary call
        engines.call_any(Engine.generate, prompts)  # by a replica that is free
        engines.map(Engine.generate, batches)  # each by whichever is free; results in order
        engines.call_all(Engine.statistics)

1. Each replica is an actor of its own: there is no world, and none waits for another.
2. One call at a time per replica. Any number of threads may call.
3. A replica that died, or whose object raised `Gone`, is built again at its next call, and gets
   what was broadcast last. The call that died with it is made again, so a method should do no harm
   when it is done twice.
4. However it ends, the replicas are gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from cluster.answers import pickled
from cluster.connection.session import Session, ray_session
from cluster.placement import Placement, refuse_what_never_fits
from cluster.replica import Died, Gone, Replica, ServiceFailed, end_replicas

__all__ = ["Gone", "Joined", "Placement", "Service", "ServiceFailed", "ray_session", "service"]

ATTEMPTS = 3
END_LIMIT_S = 5.0

T = TypeVar("T")
P = ParamSpec("P")
Argument = TypeVar("Argument")
Result = TypeVar("Result")


class Joined:
    """Ray as a process finds it that Ray has started: it is connected."""

    def wait(self, *interrupts: threading.Event) -> ModuleType:
        """The ray module."""
        import ray

        module: ModuleType = ray
        return module

    def check(self) -> None:
        """Nothing: without Ray this process ends."""


@contextmanager
def service(
    factory: Callable[[Any, int], T],
    payload: Any,
    placement: Placement,
    *,
    log_folder: Path,
    env: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
    stop: threading.Event | None = None,
    session: Session | Joined | None = None,
    attempts: int = ATTEMPTS,
) -> Iterator[Service[T]]:
    """A service whose replicas are all built.

    Replica K writes to log_folder/replica-K.log.

    Args:
        factory: `factory(payload, index)` makes the object; importable in the workers.
        payload: anything that pickles.
        placement: how many replicas, with what, where.
        log_folder: on a file system that all hosts share, if there are several hosts.
        env: more environment variables for the replicas.
        say: gets a line for each replica that died.
        stop: set it, and calls under way raise KeyboardInterrupt.
        session: a `ray_session` already begun, or `Joined` in a process that Ray itself has started
            (a worker of a gang has a service of its own so, which ends with it); None starts one
            and ends it.
        attempts: how many replicas a call may end before it is given up.

    Raises:
        GangRefused: the cluster can never hold these replicas.
        ServiceFailed: a replica died while it was built, again and again.
        Exception: what the factory raised.
    """
    with ExitStack() as stack:
        stop = stop or threading.Event()
        session = session or stack.enter_context(ray_session(placement, log_folder=log_folder))
        ray = session.wait(stop)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        refuse_what_never_fits(placement, nodes, f"the Ray cluster of {len(nodes)} node(s)")
        work, folder = pickled((factory, payload)), log_folder.absolute()
        running: Service[T] = Service(
            ray, work, placement, folder, dict(env or {}), say, stop, attempts, session.check
        )
        stack.callback(running.end)
        running.start()
        yield running


class Service(Generic[T]):
    """The driver's side; `service` makes and ends it."""

    def __init__(
        self,
        ray: ModuleType,
        work: bytes,
        placement: Placement,
        log_folder: Path,
        env: Mapping[str, str],
        say: Callable[[str], None],
        stop: threading.Event,
        attempts: int,
        check_ray: Callable[[], None],
    ) -> None:
        """Starts nothing yet; `end` must be called in every case."""
        self._ray, self._work, self._say, self._attempts = ray, work, say, attempts
        self._check_ray = check_ray
        self._stop, self._ended = stop, threading.Event()
        self._members = [
            Replica(ray, number, placement, log_folder, env, self._check, say)
            for number in range(placement.workers)
        ]
        self._idle, self._changed = set(self._members), threading.Condition()
        self._broadcasts: dict[str, Any] = {}  # reference to the arrays, by method
        self._threads = ThreadPoolExecutor(len(self._members), "service")
        self.replicas: list[T] = [cast(T, _Proxy(self, member)) for member in self._members]
        """Each has the methods of the object, and carries them out where that is."""

    def start(self) -> None:
        """Build all replicas at once."""
        self._all(lambda member: self._with(member, "its start", lambda built: None))

    def call_any(
        self,
        method: Callable[Concatenate[T, P], Result],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> Result:
        """Call a method, e.g. `Engine.generate`, of a replica that is free; waits for one.

        Raises:
            ServiceFailed: it was the last of `attempts` replicas to die with this call.
            KeyboardInterrupt: the service was stopped.
            Exception: what the method raised, as itself, the traceback in a note.
        """
        return cast(Result, self._call(None, method.__name__, arguments, keywords))

    def call_all(
        self,
        method: Callable[Concatenate[T, P], Result],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> list[Result]:
        """Call a method of every replica at once; results in their order. Raises as `call_any`."""
        return self._all(lambda member: self._call(member, method.__name__, arguments, keywords))

    def map(
        self, method: Callable[[T, Argument], Result], arguments: Sequence[Argument]
    ) -> list[Result]:
        """Call a method with each argument, of whichever replica is free; results in order.

        Raises as `call_any`; arguments that no replica has begun by then are left out.
        """
        calls = [self._threads.submit(self.call_any, method, argument) for argument in arguments]
        return self._results(calls)

    def broadcast(self, method: Callable[[T, Any], Any], arrays: Any) -> None:
        """Call a method of every replica with arrays that travel once to each host.

        The arrays (numpy; a dict or list of them) arrive read-only, in memory that the replicas
        of a host share. Whoever replaces a dead replica gets the last ones of each method, too,
        so a broadcast is how a replica's state is set. Raises as `call_any`.
        """
        name, reference = method.__name__, self._ray.put(arrays)
        before = self._broadcasts.get(name)
        self._broadcasts[name] = reference
        try:
            self._all(lambda member: self._call(member, name, (reference,), {}))
        except Exception:
            if before is None:
                del self._broadcasts[name]
            else:
                self._broadcasts[name] = before
            raise

    def end(self) -> None:
        """Give up the calls under way, and kill the replicas with all that they started."""
        self._ended.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        with self._changed:  # threads of the caller let go, too, as soon as they look
            self._changed.wait_for(lambda: len(self._idle) == len(self._members), END_LIMIT_S)
        end_replicas(self._members)

    def _call(
        self,
        wanted: Replica | None,
        method: str,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> Any:
        """Call a method of this replica, or of any."""
        return self._with(wanted, method, lambda built: built.call(method, arguments, keywords))

    def _with(self, wanted: Replica | None, name: str, use: Callable[[Replica], Any]) -> Any:
        """Use this replica, or any, in each case a living one; again if it dies of it."""
        deaths: list[str] = []
        while True:
            with self._claimed(wanted) as member:
                try:
                    if not member.lives:
                        self._build(member)
                    return use(member)
                except Died as death:
                    failure = death.failure
            deaths.append(f"replica {member.number} on {failure.host} {failure.message}, at {name}")
            if len(deaths) == self._attempts:
                told = f"{'; '.join(deaths)} (what it wrote is in {member.log})"
                raise ServiceFailed(member.number, failure.host, failure.cause, told)
            self._say(f"{deaths[-1]}; it is replaced, and the call made again")

    def _build(self, member: Replica) -> None:
        """Make a replica anew, with the state that the others have been given."""
        try:
            member.build(self._work)
            # A copy: another thread may broadcast meanwhile, and calls this replica after us.
            for method, reference in list(self._broadcasts.items()):
                member.call(method, (reference,), {})
        except BaseException:
            member.end()
            raise

    @contextmanager
    def _claimed(self, wanted: Replica | None) -> Iterator[Replica]:
        """Have a replica for oneself: the one wanted, or any that is free, a living one first."""
        with self._changed:
            self._check()
            while not (found := self._idle & {wanted} if wanted else self._idle):
                self._changed.wait(1.0)
                self._check()
            member = min(found, key=lambda free: (not free.lives, free.number))
            self._idle.remove(member)
        try:
            yield member
        finally:
            with self._changed:
                self._idle.add(member)
                self._changed.notify_all()

    def _all(self, call: Callable[[Replica], Any]) -> list[Any]:
        return self._results([self._threads.submit(call, member) for member in self._members])

    def _results(self, calls: Sequence[Future[Any]]) -> list[Any]:
        """Results in order; the first exception to come ends the wait."""
        try:
            done, _ = wait(calls, return_when=FIRST_EXCEPTION)
            for call in done:
                call.result()
            return [call.result() for call in calls]
        finally:
            for call in calls:
                call.cancel()

    def _check(self) -> None:
        if self._stop.is_set() or self._ended.is_set():
            raise KeyboardInterrupt("the service was stopped")
        self._check_ray()


class _Proxy:
    """Stands for a replica's object: the same methods, carried out in its process."""

    def __init__(self, owner: Service[Any], member: Replica) -> None:
        self._owner, self._member = owner, member

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*arguments: Any, **keywords: Any) -> Any:
            return self._owner._call(self._member, method, arguments, keywords)

        return call
