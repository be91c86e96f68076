"""One private Ray for two workers, shared by all tests of this folder that need one."""

import psutil
import pytest

from cluster.connection.session import ray_session
from cluster.placement import Placement

TWO = Placement(workers=2, cpus_per_worker=1)


@pytest.fixture(scope="package")
def ray_of_two(tmp_path_factory):
    with ray_session(TWO, log_folder=tmp_path_factory.mktemp("ray")) as session:
        session.wait()
        yield session


@pytest.fixture(scope="module")
def session(ray_of_two, request):
    """Workers get the functions of the test's module by value: they cannot import it."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(request.module)
    return ray_of_two


@pytest.fixture(scope="session")
def gone():
    """Whether a process is gone; one that waits for its parent to notice is."""

    def gone(pid):
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return gone
