"""How much memory is free, on made-up machines."""

from pathlib import Path

import pytest

from iq_offline.data.memory import free_memory

GIB = 2**30
JOB = "slurm/job_7/step_0"


def machine(root: Path, files: dict[str, object], available: int = 64 * GIB) -> Path:
    """A root folder in which so much is available, with these files beside."""
    about = {"proc/meminfo": f"MemTotal: 999999999 kB\nMemAvailable:   {available // 1024} kB\n"}
    for name, content in (about | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def version_2(path: str, limit: object, used: int, inactive: int | None = None) -> dict[str, object]:
    folder = f"sys/fs/cgroup/{path}"
    files: dict[str, object] = {f"{folder}/memory.max": limit, f"{folder}/memory.current": used}
    return files if inactive is None else files | {f"{folder}/memory.stat": f"anon 5\ninactive_file {inactive}\nfile 9"}


def version_1(path: str, limit: int, used: int) -> dict[str, object]:
    folder = f"sys/fs/cgroup/memory/{path}"
    return {f"{folder}/memory.limit_in_bytes": limit, f"{folder}/memory.usage_in_bytes": used}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 64 * GIB),
        ({"proc/self/cgroup": "0::/"}, 64 * GIB),
        ({"proc/self/cgroup": "nothing to be understood"}, 64 * GIB),
        ({"proc/self/cgroup": f"0::/{JOB}"} | version_2(JOB, "max", GIB), 64 * GIB),
        ({"proc/self/cgroup": f"0::/{JOB}"} | version_2(JOB, 999 * GIB, GIB), 64 * GIB),
        ({"proc/self/cgroup": f"0::/{JOB}"} | version_2(JOB, 8 * GIB, 3 * GIB), 5 * GIB),
        ({"proc/self/cgroup": f"0::/{JOB}"} | version_2(JOB, 8 * GIB, 3 * GIB, 2 * GIB), 7 * GIB),
        ({"proc/self/cgroup": f"0::/{JOB}"} | version_2(JOB, 8 * GIB, 9 * GIB), 0),
        ({"proc/self/cgroup": f"0::/{JOB}"} | version_2("slurm/job_7", 8 * GIB, 5 * GIB), 3 * GIB),
        (
            {"proc/self/cgroup": f"0::/{JOB}"}
            | version_2(JOB, 8 * GIB, GIB)
            | version_2("slurm/job_7", "max", 2 * GIB)
            | version_2("slurm", 12 * GIB, 8 * GIB),
            4 * GIB,
        ),
        ({"proc/self/cgroup": f"0::/{JOB}"} | version_2("slurm/job_8", GIB, 0), 64 * GIB),
        ({"proc/self/cgroup": "0::/"} | version_2("", 2 * GIB, GIB, 0), GIB),
        ({"proc/self/cgroup": "0::/../../other"} | version_2("", 2 * GIB, GIB), GIB),
        ({"proc/self/cgroup": "5:cpu:/\n4:memory:/a/b\n0::/"} | version_1("a/b", 6 * GIB, GIB), 5 * GIB),
        ({"proc/self/cgroup": "4:cpuset,memory:/a"} | version_1("a", 2**63 - 4096, GIB), 64 * GIB),
        ({"proc/self/cgroup": "4:memory:/docker/of/the/host"} | version_1("", 6 * GIB, 2 * GIB), 4 * GIB),
        (
            {"proc/self/cgroup": "4:memory:/a", "sys/fs/cgroup/memory/a/memory.stat": f"total_inactive_file {GIB}"}
            | version_1("a", 6 * GIB, 3 * GIB),
            4 * GIB,
        ),
    ],
)
def test_a_group_may_allow_less_than_the_machine_has(files: dict[str, object], free: int, tmp_path: Path) -> None:
    assert free_memory("cpu", machine(tmp_path, files)) == free


def test_a_machine_that_has_less_than_the_group_allows(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/a"} | version_2("a", 8 * GIB, GIB)
    assert free_memory("cpu", machine(tmp_path, files, available=3 * GIB)) == 3 * GIB


def test_no_linux_and_this_machine(tmp_path: Path) -> None:
    assert free_memory("cpu", tmp_path) > 0
    assert free_memory("cpu") > 0
