"""Whether an owner lives, seen by somebody else."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from minifold_pl.run import lease_file
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.lease import acquire
from minifold_pl.run.owner import Machine, Owner
from minifold_pl.run.signs_of_life import Life, look_for_life

Spawn = Callable[..., subprocess.Popen[str]]
HOLD = "held = rooms.acquire(folder); say('held'); sys.stdin.read()"


def _look(folder: RunFolder, patience: float | None = None) -> tuple[Life, float]:
    began = time.monotonic()
    (life,) = look_for_life([folder], patience=patience)
    return life, time.monotonic() - began


def _held(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    process.stdout.readline()


def test_a_folder_without_owner_belongs_to_nobody_and_stays_as_it_is(folder: RunFolder) -> None:
    assert _look(folder)[0] is Life.NOBODY
    assert not folder.path.exists()
    acquire(folder).release()
    assert _look(folder)[0] is Life.NOBODY


def test_an_owner_on_this_machine_is_seen_at_once_and_its_death_too(folder: RunFolder, spawn: Spawn) -> None:
    holder = spawn(HOLD)
    _held(holder)
    life, seconds = _look(folder)
    assert life is Life.LIVES
    assert seconds < 1
    holder.kill()
    holder.wait()
    life, seconds = _look(folder)
    assert life is Life.GONE
    assert seconds < 1


def test_an_owner_elsewhere_lives_as_long_as_its_heart_beats(folder: RunFolder, spawn: Spawn) -> None:
    holder = spawn(
        "held = rooms.acquire(folder, interval=0.2, timeout=1.5); say('held'); sys.stdin.read()", "n7"
    )
    _held(holder)
    life, seconds = _look(folder)
    assert life is Life.LIVES
    assert seconds < 1.4
    holder.send_signal(signal.SIGSTOP)
    life, seconds = _look(folder)
    assert life is Life.GONE
    assert seconds >= 1.5
    # Too short a look decides nothing.
    assert _look(folder, patience=0.3)[0] is Life.UNKNOWN
    holder.send_signal(signal.SIGCONT)
    assert _look(folder)[0] is Life.LIVES


def test_clocks_that_are_wrong_by_a_year_make_nobody_alive_or_dead(folder: RunFolder, spawn: Spawn) -> None:
    holder = spawn(
        "held = rooms.acquire(folder, interval=0.2, timeout=1.5); say('held'); sys.stdin.read()", "n7"
    )
    _held(holder)
    place = next(folder.lease.iterdir())
    holder.send_signal(signal.SIGSTOP)
    for year in (-1, 1):
        moment = time.time() + year * 3.2e7
        os.utime(place, (moment, moment))
        assert _look(folder)[0] is Life.GONE
    holder.send_signal(signal.SIGCONT)
    assert _look(folder)[0] is Life.LIVES


def test_many_owners_are_watched_at_the_same_time(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / str(k)) for k in range(4)]
    for folder in folders:
        folder.lease.mkdir(parents=True)
        owner = Owner(
            number=3, token="t", machine=Machine(host="n9", boot="b", pid_namespace="p"), pid=1, started="1",
            since="then", job="job 12, restart 0", timeout=1.0, locks=False,
        )  # fmt: skip
        (folder.lease / lease_file.file_name(3)).write_text(owner.to_json() + "\n000000000007 held    \n")
    began = time.monotonic()
    assert look_for_life(folders) == (Life.GONE,) * 4
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 50])
def test_an_owner_that_did_not_say_who_it_is_is_watched_as_well(folder: RunFolder, content: bytes) -> None:
    folder.lease.mkdir(parents=True)
    (folder.lease / lease_file.file_name(1)).write_bytes(content)
    assert _look(folder, patience=0.3)[0] is Life.UNKNOWN
