from __future__ import annotations

import os

import pytest

from minifold_pl.launch.environment import left_the_job, outside_of_jobs

INSIDE = {
    "PATH": "/bin", "SLURM_JOB_ID": "4242", "SLURM_PROCID": "3", "SLURMD_NODENAME": "n1", "SBATCH_PARTITION": "high",
    "SLURM_CONF": "/etc/slurm.conf", "CUDA_VISIBLE_DEVICES": "0", "RANK": "1", "TMPDIR": "/scratch/job4242",
    "PMIX_RANK": "0", "SRUN_DEBUG": "3",
}  # fmt: skip


def test_nothing_of_a_job_is_left_but_where_the_scheduler_is() -> None:
    assert outside_of_jobs(INSIDE) == {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf"}


def test_outside_of_a_job_a_persons_devices_stay_and_the_shells_defaults_of_sbatch_go() -> None:
    mine = {"CUDA_VISIBLE_DEVICES": "1", "RANK": "0", "TMPDIR": "/tmp", "SBATCH_ACCOUNT": "other"}
    assert outside_of_jobs(mine) == {"CUDA_VISIBLE_DEVICES": "1", "RANK": "0", "TMPDIR": "/tmp"}


def test_a_block_outside_of_the_job_ends_with_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in INSIDE.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pytest.raises(KeyError), left_the_job():
        assert "SLURM_JOB_ID" not in os.environ
        raise KeyError
    assert dict(os.environ) == before
