"""What of a job's environment must not reach what is submitted from inside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

_PREFIXES: Final = ("SLURM", "SBATCH_", "SALLOC_", "SRUN_", "SUBMITIT_", "PMI", "OMPI_", "HYDRA_")
_KEPT: Final = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT"})
"""They say where the scheduler is, not what a job has."""
_DEVICES: Final = frozenset({"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"})
_RANKS: Final = frozenset({"RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "GROUP_RANK"})


def outside_of_jobs(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` as it was before the job that it belongs to, as far as that can be told.

    ``sbatch`` takes every option that is not given from ``SBATCH_*`` and hands ``SLURM_*`` on: a job that is submitted
    from inside another one would get that one's partition, memory or rank. Outside of a job only ``SBATCH_*`` and the
    like go: there they are defaults of a person's shell, and what is submitted says everything itself.
    """
    job = environment.get("SLURM_JOB_ID", "")
    kept = {
        name: value for name, value in environment.items() if name in _KEPT or not name.startswith(_PREFIXES)
    }
    if not job:
        return kept
    for name in _DEVICES | _RANKS:
        kept.pop(name, None)
    if job in kept.get("TMPDIR", ""):
        # The job's own, gone with it.
        del kept["TMPDIR"]
    return kept


@contextmanager
def left_the_job() -> Iterator[None]:
    """``os.environ`` as :func:`outside_of_jobs` has it, for the block."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(outside_of_jobs(before))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
