"""The memory that a process may use: of the machine, a container, a Slurm job."""

from sigprop.networks import memory_limit
from sigprop.networks._limits import _of_control_groups


def test_a_slurm_job_has_what_it_asked_for(monkeypatch):
    whole = memory_limit()
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "64")
    assert memory_limit() == 64 * 2**20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all of the node
    assert memory_limit() == whole


def test_the_limits_of_all_groups_count(tmp_path):
    """Version 2: of this one and of those around it; "max" is none."""
    (tmp_path / "cgroup").write_text("0::/system/job\n")
    inner = tmp_path / "root" / "system" / "job"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("4096\n")
    assert _of_control_groups(tmp_path / "cgroup", tmp_path / "root") == [4096]
    assert _of_control_groups(tmp_path / "none", tmp_path / "root") == []


def test_version_1_has_a_controller_of_memory(tmp_path):
    (tmp_path / "cgroup").write_text("4:memory:/job\n3:cpu:/job\n")
    inner = tmp_path / "root" / "memory" / "job"
    inner.mkdir(parents=True)
    (inner / "memory.limit_in_bytes").write_text("1024\n")
    assert _of_control_groups(tmp_path / "cgroup", tmp_path / "root") == [1024]
