"""A real Slurm for the tests of this room; without Slurm's programs, or root, they are skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.ports import free_port
from tests.resilience.training import ROOT, make_store, outcome
from tests.slurm.cluster import Cluster, Run, command

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun")
EPOCHS = 4
"""Of six batches each."""


def training(store: Path, *, pace: float = 0.4, epochs: int = EPOCHS) -> list[str]:
    """Arguments of the small training, slow enough to be interrupted."""
    callback = f'{{"class_path": "tests.slurm.pace.Pace", "init_args": {{"seconds": {pace}}}}}'
    return [
        "--config", str(ROOT / "tests" / "resilience" / "small.yaml"), "--data.path", str(store),
        "--trainer.accelerator", "cpu", "--trainer.accumulate_grad_batches", "1", "--trainer.max_epochs", str(epochs),
        "--patience.patience", "100", "--ddim.every_n_epochs", "2", "--trainer.callbacks+", callback,
        "--run.max_fruitless_starts", "3", "--run.wandb", "offline",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(
            f"no Slurm here ({', '.join(missing)} missing): apt-get install slurmctld slurmd slurm-client munge"
        )
    if os.geteuid() != 0:
        pytest.skip("a Slurm cluster on one machine needs root: slurmd starts jobs for users")
    # Short: the path of a socket has 107 characters at most.
    place = Path(f"/tmp/minifold-cluster-{os.getpid()}")
    # Several sessions at a time, as with pytest -n 2, have a cluster each.
    one = Cluster(place, 20000 + 200 * (os.getpid() % 50))
    one.do("up")
    yield one
    one.do("down")
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of everything that is submitted: this checkout, one thread, and addresses of this machine."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ,
        "PYTHONPATH": paths.strip(os.pathsep),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
    }


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="session")
def undisturbed(
    store: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What comes of the training when nothing happens to it; how fast it goes is no part of that."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    done = subprocess.run(
        command(["fit", *training(store, pace=0.0), "--run.dir", str(folder)]),
        env={**environment, "SLURM_CONF": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return outcome(folder)


@pytest.fixture
def submit(cluster: Cluster, store: Path, environment: dict[str, str], tmp_path: Path):
    """Submits the small training with more arguments; whatever is left of it is ended after the test."""
    runs: list[Run] = []

    def _submit(
        *more: str, name: str = "run", pace: float = 0.4, epochs: int = EPOCHS, extra: Sequence[str] = ()
    ) -> Run:
        folder = tmp_path / name
        asked = ["submit", *training(store, pace=pace, epochs=epochs), "--run.dir", str(folder), *more]
        if "--time" not in more:
            asked += ["--time", "20", "--lead", "30"]
        done = subprocess.run(
            command(asked),
            env={**environment, "SLURM_CONF": cluster.environment["SLURM_CONF"]},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        runs.append(Run(folder, cluster))
        return runs[-1]

    yield _submit
    for run in runs:
        for job in run.lines("submitted"):
            cluster.ask("scancel", "--quiet", str(job["job"]), check=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds 60 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(place)], capture_output=True
    )
    if done.returncode:
        pytest.skip("no right to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)
