"""Start the small training in processes of its own, and compare what came of it.

The parent imports everything once and forks: a start takes a tenth of a second instead of five. Trainings of several
processes are started afresh: forked from a long-lived parent two of them have waited for each other for ever.
"""

from __future__ import annotations

import hashlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import torch
from tests.ports import free_port

from minifold_pl.checkpoint.newest import latest_valid
from minifold_pl.cli.main import main
from minifold_pl.data.datamodule import write_synthetic
from minifold_pl.data.synthetic import SyntheticConfig
from minifold_pl.run.exit_codes import FAILED, RETRY

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training: everything that must not change what comes of it, and the seed."""

    workers: int = 0
    accumulation: int = 1
    every_n_steps: int | None = None
    ranks: int = 1
    validations: int = 3
    """In its three epochs."""
    more: tuple[str, ...] = field(default=())

    def arguments(self, store: Path, run: Path) -> list[str]:
        """Arguments of ``minifold-pl``."""
        saves = [] if self.every_n_steps is None else ["--checkpoints.every_n_steps", str(self.every_n_steps)]
        return [
            "fit", "--config", str(HERE / "small.yaml"), "--data.path", str(store), "--run.dir", str(run),
            "--data.num_workers", str(self.workers),
            "--trainer.accumulate_grad_batches", str(self.accumulation), "--trainer.accelerator", "cpu",
            *saves, *(["--trainer.strategy", "ddp"] if self.ranks > 1 else []),
            "--trainer.devices", str(self.ranks), *self.more,
        ]  # fmt: skip

    def __str__(self) -> str:
        saves = "epoch's end" if self.every_n_steps is None else f"every {self.every_n_steps} steps"
        return (
            f"workers {self.workers}, accumulation {self.accumulation}, saves {saves}"
            + (f", {self.ranks} processes" if self.ranks > 1 else "")
            + (f", {' '.join(self.more)}" if self.more else "")
        )


def make_store(path: Path) -> Path:
    """The small synthetic store."""
    write_synthetic(path, SyntheticConfig(n=60, folds=5, min_length=24, max_length=34, seed=1))
    return path


def kill_at(place: str, count: int, signal_name: str = "SIGKILL") -> list[str]:
    """Arguments that make the process die at a place."""
    init = {"place": place, "count": count, "signal_name": signal_name}
    callback = {"class_path": "tests.resilience.kill_at.KillAt", "init_args": init}
    return ["--trainer.callbacks+", str(callback).replace("'", '"')]


def start(
    arguments: Sequence[str],
    log: Path,
    install: Callable[[], None] | None = None,
) -> int:
    """Fork a process that runs the command, in a group of its own; returns its id.

    Args:
        arguments: Of ``minifold-pl``.
        log: What it prints is appended here.
        install: Called in it first.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = FAILED
    try:
        os.setpgid(0, 0)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        # The parent's may lead elsewhere: pytest puts its own in their place.
        sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
        torch.set_num_threads(1)
        if install is not None:
            install()
        code = main(list(arguments))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start_afresh(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
    """As :func:`start`, with an interpreter of its own that takes over no threads or locks."""
    code = "import sys; from minifold_pl.cli.main import main; sys.exit(main(sys.argv[1:]))"
    paths = os.pathsep.join(path for path in [str(ROOT), *sys.path] if path)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", code, *arguments],
        {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setpgroup=0,
    )


def wait(child: int, seconds: float = 300.0) -> int:
    """The exit code of a process, negative for a signal; whatever it started is killed then.

    Raises:
        TimeoutError: It did not end.
    """
    end = monotonic() + seconds
    try:
        while monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            sleep(0.005)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"process {child} did not end in {seconds:.0f} s")


def start_case(case: Case, store: Path, run: Path, more: Sequence[str] = ()) -> list[int]:
    """Start the processes of a case, the first rank first. ``more`` goes to the last rank's command too."""
    arguments = [*case.arguments(store, run), *more]
    log = run.with_suffix(".log")
    if case.ranks == 1:
        return [start(arguments, log)]
    port = free_port()
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(case.ranks), "NODE_RANK": "0",
        "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    return [start_afresh(arguments, log, {**shared, "LOCAL_RANK": str(rank)}) for rank in range(case.ranks)]


def run_to_end(case: Case, store: Path, run: Path, more: Sequence[str] = ()) -> int:
    """Start and wait for all; the first code that is not 0. Once a rank has failed the others have seconds."""
    children = start_case(case, store, run, more)
    codes = [wait(children[0])]
    codes += [wait(child, 300.0 if codes[0] == 0 else 20.0) for child in children[1:]]
    return next((code for code in codes if code), 0)


def run_until_done(case: Case, store: Path, run: Path, starts: int = 5) -> None:
    """Start again and again until the run is done.

    Raises:
        AssertionError: It failed, or is not done after so many starts.
    """
    for _ in range(starts):
        code = run_to_end(case, store, run)
        if code == 0:
            return
        assert code == RETRY, f"{run.name}: exit code {code}; see {run.with_suffix('.log')}"
    raise AssertionError(f"{run.name} is not done after {starts} starts; see {run.with_suffix('.log')}")


def latest_step(run: Path) -> int:
    """Optimizer steps in the newest whole checkpoint of a run; 0 where there is none."""
    folder = run / "checkpoints"
    newest = latest_valid(folder) if folder.is_dir() else None
    return 0 if newest is None else int(torch.load(newest, weights_only=True)["global_step"])


def outcome(run: Path) -> dict[str, str]:
    """Digests of everything that must be the same however often a run was killed."""
    newest = latest_valid(run / "checkpoints")
    assert newest is not None, f"no checkpoint in {run}"
    content = torch.load(newest, weights_only=True)
    parts = {name: _digest(content[name]) for name in sorted(content)}
    for name in ("metrics.csv", "ddim.jsonl"):
        if (run / name).is_file():
            parts[name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
    for path in sorted((run / "samples").rglob("*.pdb")):
        parts[str(path.relative_to(run))] = hashlib.sha256(path.read_bytes()).hexdigest()
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    parts["best"] = _digest({name: best[name] for name in ("state_dict", "epoch", "global_step")})
    return parts


def _digest(value: Any) -> str:
    stream = io.BytesIO()
    _write(value, stream)
    return hashlib.sha256(stream.getvalue()).hexdigest()


def _write(value: Any, stream: io.BytesIO) -> None:
    if isinstance(value, torch.Tensor):
        stream.write(f"{value.dtype}{tuple(value.shape)}".encode())
        stream.write(value.detach().cpu().contiguous().numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in value:
            # Where a run lies is not what it is.
            if key in _PLACES:
                continue
            stream.write(repr(key).encode())
            _write(value[key], stream)
    elif isinstance(value, list | tuple):
        stream.write(f"[{len(value)}".encode())
        for part in value:
            _write(part, stream)
    else:
        stream.write(repr(value).encode())


_PLACES = {
    "dirpath", "best_model_path", "kth_best_model_path", "last_model_path", "best_k_models", "model_config",
}  # fmt: skip
