import os

import pytest

from cluster.host.environment import environment
from cluster.host.launched import World, left_over, world_of_torchrun

WHOLE = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}


def world_with(**variables):
    unset = dict.fromkeys((*WHOLE, "LOCAL_WORLD_SIZE"))
    with environment({**unset, **variables}):
        return world_of_torchrun()


def test_a_whole_set_of_variables_is_a_world():
    assert world_with(**WHOLE, LOCAL_WORLD_SIZE="2") == World(rank=1, size=4, local_size=2)
    assert world_with(**WHOLE) == World(rank=1, size=4, local_size=4)


@pytest.mark.parametrize(
    "variables",
    [{}, {"WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": ""}, {"MASTER_ADDR": "a"}],
)
def test_what_tells_of_one_process_is_no_world(variables):
    assert world_with(**variables) is None


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "2"}, r"WORLD_SIZE=2 .* without RANK, MASTER_ADDR, MASTER_PORT: .*unset"),
        ({"RANK": "1", "WORLD_SIZE": ""}, r"RANK=1 .* without WORLD_SIZE"),
        (WHOLE | {"WORLD_SIZE": "two"}, r"WORLD_SIZE=two.* must be whole numbers; unset"),
    ],
)
def test_a_part_that_tells_of_several_is_refused_by_name(variables, words):
    with pytest.raises(ValueError, match=words):
        world_with(**variables)


def test_what_another_launcher_left_is_taken_out_for_a_time():
    with environment({"OMPI_COMM_WORLD_RANK": "3", "OTHER": "4"}):
        with environment({**left_over("OMPI_"), "OTHER": "5"}):
            assert "OMPI_COMM_WORLD_RANK" not in os.environ
            assert os.environ["OTHER"] == "5"
        assert (os.environ["OMPI_COMM_WORLD_RANK"], os.environ["OTHER"]) == ("3", "4")
    assert "OMPI_COMM_WORLD_RANK" not in os.environ
