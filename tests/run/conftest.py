"""Processes that own run folders."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minifold_pl.run.folder import RunFolder

_OWNER = """
import sys, os, time
from pathlib import Path
from minifold_pl.run import lease as rooms, owner, fence
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder

def say(*words):
    print(*words, flush=True)

folder = RunFolder(Path(sys.argv[1]))
if sys.argv[2]:
    machine = owner.Machine(host=sys.argv[2], boot=sys.argv[2], pid_namespace="pid:[1]")
    owner.this_machine = lambda: machine
    owner.known_to_be_gone.__defaults__ = (owner.this_machine,)
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def spawn(folder: RunFolder) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process with ``folder``, ``rooms`` (the lease module) and ``say``, on a machine of that name."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, host: str = "") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _OWNER + textwrap.dedent(code), str(folder.path), host],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
