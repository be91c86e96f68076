"""One private Ray for two workers, shared by all tests of this folder that need one."""

import psutil
import pytest

from cluster.connection.session import Session, ray_session
from cluster.placement import Placement

TWO = Placement(workers=2, cpus_per_worker=1)


RUNNING = pytest.StashKey[Session]()


@pytest.fixture(scope="module")
def session(request, tmp_path_factory):
    """Workers get the functions of the test's module by value: they cannot import it.

    Ray ends with the last test of this folder. A fixture of scope "package" would not end before
    the last test of all, since there is no `__init__.py`, and other folders start a Ray, too.
    """
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(request.module)
    folder = request.node.parent
    if RUNNING not in folder.stash:
        running = ray_session(TWO, log_folder=tmp_path_factory.mktemp("ray"))
        folder.stash[RUNNING] = running.__enter__()

        def end():
            del folder.stash[RUNNING]
            running.__exit__(None, None, None)

        folder.addfinalizer(end)
    folder.stash[RUNNING].wait()
    return folder.stash[RUNNING]


@pytest.fixture(scope="session")
def gone():
    """Whether a process is gone; one that waits for its parent to notice is."""

    def gone(pid):
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return gone
