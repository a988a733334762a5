"""The process that copies a run's numbers to W&B, so that nothing that W&B does can slow or stop the training.

``python -m minifold_pl.loggers.wandb_mirror RUN`` reads ``metrics.csv`` and ``perf.csv``, which are the truth, and
sends what W&B does not have. It is started by :class:`minifold_pl.loggers.wandb_logger.WandbMirror` and follows the
files until that says ``end`` or is gone; ``--once`` sends what there is and ends, to bring a run to W&B afterwards,
whatever was lost on the way.

Of a training that has ended well the last row also has its figures and tables, and an artefact the files that they
are made from.

A row is sent when the next one has begun, and then it is whole. At every start it asks what W&B has (the server, or
the files of the offline runs), sends rows from before that are missing, and leaves out steps that are there: however
often a run was killed, no step stands twice and none is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep, strftime
from typing import Any, Final, Literal, TypeVar

import yaml

from minifold_pl.loggers.csv_table import EPOCH, CsvReader, Row
from minifold_pl.loggers.wandb_file import steps_on_disk
from minifold_pl.loggers.wandb_results import define_groups, panels, results_artifact
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.kept import read_identity

T = TypeVar("T")

POLL: Final = 5.0
"""Seconds between two looks at the files."""
INIT_TIMEOUT: Final = float(os.environ.get("MINIFOLD_WANDB_TIMEOUT", "20"))
"""Seconds for the server to answer at the start; ``MINIFOLD_WANDB_TIMEOUT`` in the environment changes it."""
_HUNG: Final = 60.0
"""Seconds after which a call into wandb is given up, and this process with it."""
_FINISH: Final = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--mode", choices=("online", "offline"), default="online")
    parser.add_argument("--project", default="minifold-pl")
    parser.add_argument("--once", action="store_true", help="send what there is and end")
    args = parser.parse_args(arguments)
    folder = RunFolder(args.folder)
    if not folder.wandb_id.is_file():
        print(f"error: {folder.path} is no run with a W&B id", file=sys.stderr)
        return 2
    if not args.once:
        # Stop signals go to all processes of a job; this one ends when the trainer does.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    # Of a start before this one a mirror may still be sending.
    with _alone(folder.wandb_id.with_name("mirror.lock")):
        try:
            run, known = _open(folder, args.mode, args.project)
        except Exception as error:
            if args.mode == "offline" or args.once:
                raise
            told = " ".join(str(error).split())[:300]
            print(
                f"W&B cannot be reached, this start is logged offline ({told})", file=sys.stderr, flush=True
            )
            append_event(folder.events, "wandb_offline", reason=told)
        else:
            mirror = _Mirror(folder, run, known)
            whole = args.once or _follow(mirror, parent)
            with _limit(_HUNG):
                mirror.send(all_of_it=whole)
            with _limit(_FINISH):
                if whole:
                    mirror.send_artifact()
                run.finish()
            return 0
    # A process in which wandb has failed to start once cannot start it again, nor can its service, which children
    # would find through the environment.
    os.environ.pop("WANDB_SERVICE", None)
    command = [
        sys.executable,
        "-m",
        "minifold_pl.loggers.wandb_mirror",
        str(folder.path),
        "--mode",
        "offline",
    ]
    return subprocess.call([*command, "--project", args.project])


class _Mirror:
    """Sends rows of the files to a W&B run, each once."""

    def __init__(self, folder: RunFolder, run: Any, known: Known) -> None:
        self.folder = folder
        self.run = run
        self.known = known
        self.metrics = CsvReader(folder.metrics)
        self.performance = CsvReader(folder.performance)
        self._rows: dict[int, Row] = {}

    def send(self, *, all_of_it: bool = False) -> None:
        """Send what is whole by now; where ``all_of_it``, also the last row, with figures and tables."""
        for reader in (self.performance, self.metrics):
            for step, row in reader.new(all_of_it=all_of_it or reader is self.performance).items():
                self._rows.setdefault(step, {}).update(row)
        end = self.metrics.last + 1 if all_of_it else self.metrics.last
        for step in sorted(step for step in self._rows if step < end):
            row = self._rows.pop(step)
            if step in self.known:
                continue
            values: dict[str, Any] = {name: _number(name, cell) for name, cell in row.items()}
            if all_of_it and step == self.metrics.last:
                values |= self._tried(lambda: panels(self.folder)) or {}
            self.run.log(values, step=step, commit=True)

    def send_artifact(self) -> None:
        """Send the files behind figures and tables; W&B makes a new version of them only where they have changed."""
        self._tried(lambda: self.run.log_artifact(results_artifact(self.folder, self.run.id)))

    def _tried(self, work: Callable[[], T]) -> T | None:
        """Numbers come first: figures that cannot be made must not cost them."""
        try:
            return work()
        except Exception as error:
            append_event(
                self.folder.events, "wandb_results_failed", reason=f"{type(error).__name__}: {error}"[:300]
            )
            return None


class Known:
    """Steps that W&B has.

    Args:
        before: It has all steps before this one.
        steps: And these.
    """

    def __init__(self, before: int, steps: set[int]) -> None:
        self.before = before
        self.steps = steps

    def __contains__(self, step: int) -> bool:
        return step < self.before or step in self.steps


def _open(folder: RunFolder, mode: Literal["online", "offline"], project: str) -> tuple[Any, Known]:
    """The W&B run and what it has."""
    os.environ.setdefault("WANDB_SILENT", "true")
    # Artefacts wait there for `wandb sync`: with the run, not in a home folder that the next machine may not have.
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.path.resolve() / "wandb" / "data"))
    run_id = folder.wandb_id.read_text().strip()
    place = folder.wandb_id.parent
    while list(place.glob(f"*run-{strftime('%Y%m%d_%H%M%S')}-{run_id}")):
        # W&B names folders by the second, and would write over one of the same second.
        sleep(0.1)
    known = steps_on_disk(place, run_id) if mode == "offline" else set()
    with _limit(INIT_TIMEOUT + _HUNG):
        import wandb

        run = wandb.init(
            project=project,
            name=folder.path.resolve().name,
            id=run_id,
            dir=str(folder.path),
            mode=mode,
            resume=None if mode == "offline" else "allow",
            config=_config(folder),
            settings=wandb.Settings(
                console="off", silent=True, x_disable_stats=True, init_timeout=INIT_TIMEOUT
            ),
        )
    define_groups(run)
    return run, Known(int(run.starting_step), known)


def _follow(mirror: _Mirror, parent: int) -> bool:
    """Send until the trainer says ``end`` or is gone; returns whether it said so."""
    while True:
        with _limit(_HUNG):
            mirror.send()
        ready, _, _ = select.select([sys.stdin], [], [], POLL)
        if ready:
            return os.read(sys.stdin.fileno(), 100).startswith(b"end")
        if os.getppid() != parent:
            return False


def _config(folder: RunFolder) -> dict[str, Any]:
    """The run's settings, and under ``code_version`` and ``data_digest`` what they were used with."""
    try:
        content = yaml.safe_load(folder.config.read_text())
    except (OSError, yaml.YAMLError):
        content = {}
    identity = read_identity(folder)
    known = {"code_version": identity.get("code"), "data_digest": identity.get("data")}
    return {**(content if isinstance(content, dict) else {}), **{k: v for k, v in known.items() if v}}


def _number(name: str, cell: str) -> float | int:
    return int(cell) if name == EPOCH else float(cell)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for another mirror of the run to end.

    Raises:
        TimeoutError: It does not.
    """
    path.touch()
    with open(path) as lock:
        end = monotonic() + 2 * _FINISH
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > end:
                    raise TimeoutError("another process still sends this run to W&B") from None
                sleep(0.2)
            except OSError:
                # A file system without locks.
                break
        yield


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """End the process where wandb has not come back by then."""
    timer = threading.Timer(seconds, os._exit, [1])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


if __name__ == "__main__":
    sys.exit(main())
