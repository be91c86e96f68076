import pytest

from tests.orchestrator.ranks import World


@pytest.fixture(scope="session")
def one():
    """A world of one rank, for whole modules to share."""
    world = World(1)
    yield world
    world.stop()


@pytest.fixture(scope="session")
def two():
    """A world of two ranks, for whole modules to share."""
    world = World(2)
    yield world
    world.stop()
