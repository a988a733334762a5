"""Weights & Biases with one run id for the life of a run folder, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal
from urllib.parse import urlparse

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

import minifold_pl
from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder

_DEFAULT_SERVER = "https://api.wandb.ai"
_STARTS: Final = 3
"""Times that the mirror is started; one that dies as often will not live."""
_LOOK_EVERY: Final = 1.0
_PATIENCE: Final = 5.0
"""Seconds that the end of a training waits for the last numbers to be sent; the mirror goes on without us."""

Mode = Literal["auto", "online", "offline", "disabled"]


class WandbMirror(Logger):
    """Starts the process that copies ``metrics.csv`` to W&B, and looks after it.

    Training never waits for W&B: no key, no server, a service that dies or hangs cost it nothing. Numbers come to W&B
    through :class:`~minifold_pl.loggers.metrics_csv.MetricsCSV`, which has to be among the loggers.

    Args:
        folder: The run's folder.
        mode: ``online`` (falls back to offline where the server does not answer) or ``offline``.
        project: Project on the W&B side.
        run_id: Id on the W&B side.
    """

    def __init__(self, folder: RunFolder, mode: str, project: str, run_id: str) -> None:
        super().__init__()
        self.folder = folder
        self.mode = mode
        self.project = project
        self.run_id = run_id
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._looked = 0.0

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "wandb"

    @property
    def version(self) -> str:
        """The run's id."""
        return self.run_id

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder.path)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings are taken from ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See that the mirror runs; it reads the numbers from the file."""
        if monotonic() - self._looked < _LOOK_EVERY:
            return
        self._looked = monotonic()
        if self._process is None:
            self._start()
        elif self._process.poll() is not None:
            self._ended(self._process.returncode)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Let the mirror send the rest: all where training has ended well, else what a resume will not repeat."""
        process, self._process = self._process, None
        self._starts = _STARTS
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError):
            if status == "success":
                process.stdin.write(b"end\n")
            process.stdin.close()
        if status == "success":
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)

    def _start(self) -> None:
        if self._starts == _STARTS:
            return
        self._starts += 1
        command = [sys.executable, "-m", "minifold_pl.loggers.wandb_mirror", str(self.folder.path)]
        where = [str(Path(minifold_pl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [*command, "--mode", self.mode, "--project", self.project],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, where))},
                start_new_session=True,
            )

    def _ended(self, code: int) -> None:
        self._process = None
        if self._starts == _STARTS:
            append_event(self.folder.events, "wandb_given_up", exit_code=code)
        self._start()


def wandb_logger(folder: RunFolder, mode: Mode, project: str) -> WandbMirror | None:
    """The W&B logger of a run, or None where it is disabled.

    The id is made once and kept in the run folder, so that a resumed run goes on with one curve.

    Args:
        folder: The run's folder.
        mode: ``auto`` is online where there is an API key and offline where there is none; ``WANDB_MODE`` wins.
        project: Project on the W&B side.
    """
    chosen = os.environ.get("WANDB_MODE", "") or mode
    if chosen == "auto":
        chosen = "online" if _has_key() else "offline"
    if chosen in ("disabled", "dryrun"):
        return None
    if folder.wandb_id.is_file():
        run_id = folder.wandb_id.read_text().strip()
    else:
        run_id = secrets.token_hex(4)
        atomic_write_text(folder.wandb_id, run_id + "\n")
    return WandbMirror(folder, "offline" if chosen == "offline" else "online", project, run_id)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or _DEFAULT_SERVER).hostname or ""
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
