import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import nodes
from cluster.placement import GangRefused, Placement, refuse_what_never_fits
from cluster.world import by_host, worlds_of


def test_the_command_line_pays_for_neither_ray_nor_torch():
    code = (
        "import sys, cluster.gang, cluster.inventory as i; i.devices(None);"
        "assert not {'ray', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("version", "files", "expected"),
    [
        ("v2", {"cpu.max": "150000 100000"}, 1.5),
        ("v2 without a limit", {"cpu.max": "max 100000"}, None),
        ("v1", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ("v1 without a limit", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "9"}, None),
        ("none", {}, None),
    ],
)
def test_the_cpu_quota_of_a_container_is_read(tmp_path, version, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert nodes._cgroup_cpus(tmp_path) == expected


def test_local_cpus_are_those_this_process_may_use():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert nodes.local_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, 2), ("", 0), ("-1", 0), ("0", 1), ("1,0", 2), ("0,7", 1), ("GPU-b", 1), ("NoDev", 0)],
)
def test_cuda_visible_devices_hides_gpus(visible, expected):
    assert nodes.count_visible(["GPU-aaaa", "GPU-bbbb"], visible) == expected


def test_gpus_that_a_cpu_build_of_torch_cannot_use_do_not_count_and_are_noted(
    tmp_path, monkeypatch
):
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1234)'\n")
    smi.chmod(smi.stat().st_mode | stat.S_IXUSR)
    torch = tmp_path / "lib" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").write_text("raise AssertionError('must not be imported')\n")
    monkeypatch.setenv("PATH", str(smi.parent))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(torch.parent)

    (torch / "version.py").write_text("cuda: Optional[str] = None\nhip: Optional[str] = None\n")
    here = nodes.local_devices()
    assert here.gpus == 0
    assert "CPU build" in here.note

    (torch / "version.py").write_text("cuda: Optional[str] = '12.8'\nhip = None\n")
    assert (nodes.local_devices().gpus, nodes.local_devices().note) == (1, None)


def test_cpus_scattered_over_nodes_do_not_make_room_for_a_wide_worker():
    nodes_of_two = [{"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 3.0}]
    refuse_what_never_fits(Placement(3, 2), nodes_of_two, "it")
    with pytest.raises(GangRefused, match=r"has 7 CPU\(s\) in all and room for 3 such"):
        refuse_what_never_fits(Placement(4, 2), nodes_of_two, "it")
    with pytest.raises(GangRefused, match=r"1 GPU\(s\) each .* 0 GPU\(s\) in all .*room for 0"):
        refuse_what_never_fits(Placement(1, 1, 1), nodes_of_two, "it")


def test_a_gang_of_several_sizes_fits_where_its_smallest_does():
    placement = Placement(8, 2, fewer=(4, 3))
    refuse_what_never_fits(placement, [{"CPU": 6.0}], "it")
    with pytest.raises(GangRefused, match=r"resources.workers=\[3,8\] .*room for 2 such"):
        refuse_what_never_fits(placement, [{"CPU": 5.0}], "it")
    assert [placement.most(room) for room in (9, 7, 3, 2)] == [8, 4, 3, None]
    assert str(placement) == "3 or 4 or 8 worker(s) with 2 CPU(s) each"


@pytest.mark.parametrize("placement", [Placement(0, 1), Placement(1, 0), Placement(1, 1, -1)])
def test_a_placement_of_nothing_is_refused(placement):
    with pytest.raises(GangRefused, match="at least 1"):
        refuse_what_never_fits(placement, [{"CPU": 8.0}], "it")


def test_ranks_are_side_by_side_on_their_hosts_and_each_first_gpu_has_the_local_rank():
    placed = [
        {"ip": "10.0.0.1", "gloo_interface": None, "gpus": ["0", "1"]},
        {"ip": "10.0.0.2", "gloo_interface": "eth0", "gpus": ["6", "7"]},
        {"ip": "10.0.0.1", "gloo_interface": None, "gpus": ["4", "5"]},
    ]
    order = sorted(range(3), key=by_host(placed))
    workers = [placed[index] for index in order]
    worlds = worlds_of(workers, 29500, cpus_per_worker=3)
    assert [
        (w["RANK"], w["NODE_RANK"], w["LOCAL_RANK"], w["LOCAL_WORLD_SIZE"]) for w in worlds
    ] == [
        ("0", "0", "0", "2"),
        ("1", "0", "1", "2"),
        ("2", "1", "0", "1"),
    ]
    for world, worker in zip(worlds, workers, strict=True):
        visible = world["CUDA_VISIBLE_DEVICES"].split(",")
        assert visible[int(world["LOCAL_RANK"])] == worker["gpus"][0]
        assert (world["MASTER_ADDR"], world.get("GLOO_SOCKET_IFNAME")) == (
            "10.0.0.1",
            worker["gloo_interface"],
        )
