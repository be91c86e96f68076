import os

from cluster.host.environment import environment
from cluster.host.launched import left_over


def test_what_another_launcher_left_is_taken_out_for_a_time():
    with environment({"OMPI_COMM_WORLD_RANK": "3", "OTHER": "4"}):
        with environment({**left_over("OMPI_"), "OTHER": "5"}):
            assert "OMPI_COMM_WORLD_RANK" not in os.environ
            assert os.environ["OTHER"] == "5"
        assert (os.environ["OMPI_COMM_WORLD_RANK"], os.environ["OTHER"]) == ("3", "4")
    assert "OMPI_COMM_WORLD_RANK" not in os.environ
