"""Saves that are killed, cut off from power, refused or damaged, over and over in one folder.

.. code-block:: console

    python -m tests.checkpoint.faulty_saves --saves 1000 --seed 0

Each save runs in a process of its own, which dies for real (SIGKILL) at a chosen call to the system, before it,
after it, or in the middle of a write. A power cut goes further: what was not flushed to the disk by then is cut to
a random length, and a rename whose folder was not flushed may be undone. Then the folder is looked at as a start of
a run would.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import torch

from minifold_pl.checkpoint import atomic
from minifold_pl.checkpoint.contents import CheckpointError, read_checkpoint, verify
from minifold_pl.checkpoint.io import save
from minifold_pl.checkpoint.manifest import manifest_path
from minifold_pl.checkpoint.newest import find_newest, sweep
from minifold_pl.checkpoint.rotation import Rotation, resume_name

FAULTS: Final = (
    "kill",
    "kill",
    "kill",
    "power cut",
    "power cut",
    "refused",
    "truncated",
    "flipped",
    "manifest",
)
_DONE: Final = 0
_REFUSED: Final = 3


def content_of(step: int) -> dict[str, Any]:
    """A state that is a function of the step: whatever is loaded can be checked to the last bit."""
    draw = torch.Generator().manual_seed(step)
    return {
        "global_step": step,
        "epoch": step // 7,
        "state_dict": {"weight": torch.randn(40, 50, generator=draw), "bias": torch.randn(9, generator=draw)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(40, 50, generator=draw)}}}],
    }


def is_sound(content: dict[str, Any]) -> bool:
    """Whether a loaded state is that of its step."""
    expected = content_of(content["global_step"])
    return _flat(content) == _flat(expected)


def _flat(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _flat(item) for key, item in value.items()}
    return [_flat(item) for item in value] if isinstance(value, list) else value


class _Death:
    """Counts this process's calls to the system and ends it, or has them refused, at the n-th."""

    def __init__(self, n: int, fault: str, draw: random.Random) -> None:
        self.n, self.fault, self.draw = n, fault, draw
        self.passed = 0
        self.unsynced: set[str] = set()
        self.renamed: list[tuple[str, str, str | None]] = []
        """Renames that a power cut may undo: source, target, and a link to what lay there before."""

    def install(self) -> None:
        real_open, fsync, replace = builtins.open, os.fsync, os.replace
        death = self

        class File:
            """A raw file that may die half-way through a write."""

            def __init__(self, path: Any) -> None:
                self._raw = real_open(path, "xb", buffering=0)
                self._path = str(path)
                death.unsynced.add(self._path)

            def write(self, data: memoryview) -> int:
                if death.due():
                    self._raw.write(data[: death.draw.randrange(data.nbytes + 1)])
                    death.strike()
                return self._raw.write(data)

            def fileno(self) -> int:
                return self._raw.fileno()

            def flush(self) -> None:
                self._raw.flush()

            def __enter__(self) -> File:
                return self

            def __exit__(self, *_: object) -> None:
                self._raw.close()

        def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode != "xb":
                return real_open(path, mode, *args, **kwargs)
            return self.around(lambda: File(path))

        def synced(descriptor: int) -> None:
            def call() -> None:
                fsync(descriptor)
                name = os.readlink(f"/proc/self/fd/{descriptor}")
                self.unsynced.discard(name)
                if os.path.isdir(name):
                    self.renamed.clear()

            self.around(call)

        def replaced(source: Any, target: Any) -> None:
            def call() -> None:
                before = None
                if os.path.exists(target):
                    before = f"{target}.{self.passed}.before"
                    os.link(target, before)
                replace(source, target)
                if str(source) in self.unsynced:
                    self.unsynced.add(str(target))
                self.renamed.append((str(source), str(target), before))

            self.around(call)

        atomic.open = opened  # type: ignore[attr-defined]
        os.fsync, os.replace = synced, replaced  # type: ignore[assignment]
        unlink = Path.unlink

        def unlinked(path: Path, missing_ok: bool = False) -> None:
            self.around(lambda: unlink(path, missing_ok=missing_ok))

        Path.unlink = unlinked  # type: ignore[method-assign]

    def due(self) -> bool:
        self.passed += 1
        return self.passed - 1 == self.n

    def around(self, call: Callable[[], Any]) -> Any:
        if not self.due():
            return call()
        if self.fault == "refused":
            code = self.draw.choice((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))
            raise OSError(code, os.strerror(code))
        if self.draw.random() < 0.5:
            call()
        return self.strike()

    def strike(self) -> Any:
        if self.fault == "refused":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.fault == "power cut":
            self.lose_what_is_in_memory()
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    def lose_what_is_in_memory(self) -> None:
        for path in self.unsynced:
            if os.path.exists(path):
                os.truncate(path, self.draw.randrange(os.path.getsize(path) + 1))
        # The journal keeps the order of renames: the last ones are lost.
        for source, target, before in reversed(self.renamed[self.draw.randrange(len(self.renamed) + 1) :]):
            os.rename(target, source)
            if before is not None:
                os.rename(before, target)


@dataclass
class Report:
    """What came of a series."""

    faults: Counter[str] = field(default_factory=Counter)
    killed: int = 0
    noticed: int = 0
    """Damaged checkpoints that were set aside."""
    problems: list[str] = field(default_factory=list)


def series(folder: Path, saves: int, seed: int) -> Report:
    """Save ``saves`` times with a fault each."""
    draw = random.Random(seed)
    report = Report()
    calls = _calls_of_a_save(folder / "dry")
    folder = folder / "checkpoints"
    folder.mkdir()
    durable = 0
    for step in (1, 2):
        save(content_of(step), folder / resume_name(step))
        durable = step
    for step in range(3, saves + 3):
        fault = draw.choice(FAULTS)
        report.faults[fault] += 1
        in_place = draw.random() < 0.3
        at = draw.randrange(calls) if fault in ("kill", "power cut", "refused") else -1
        if fault == "power cut" and draw.random() < 0.3:
            at = 1_000_000
        ended = _save_apart(folder, step, fault, at, in_place, draw.random())
        report.killed += ended == -signal.SIGKILL
        if ended == _DONE:
            durable = step
        damaged = _damage(folder, fault, draw)
        what = f"save of step {step} ({fault} at call {at})"
        newest = _restart(folder, what, -1 if damaged else durable, report)
        if damaged:
            durable = newest
        for leftover in folder.glob("*.before"):
            leftover.unlink()
        if len(list(folder.glob("resume-*.ckpt"))) < 2:
            # Two whole ones again, so that damage to one more is survivable.
            save(content_of(durable), folder / resume_name(durable))
            save(content_of(step), folder / resume_name(step))
            durable = step
    return report


def _calls_of_a_save(folder: Path) -> int:
    folder.mkdir()
    save(content_of(1), folder / "best.ckpt")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            death = _Death(-1, "none", random.Random(0))
            death.install()
            save(content_of(2), folder / "best.ckpt")
            os.write(writing, str(death.passed).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    calls = int(os.read(reading, 100))
    os.close(reading)
    return calls


def _save_apart(folder: Path, step: int, fault: str, at: int, in_place: bool, seed: float) -> int:
    child = os.fork()
    if child == 0:
        _save_and_leave(folder, step, fault, at, in_place, seed)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _save_and_leave(folder: Path, step: int, fault: str, at: int, in_place: bool, seed: float) -> NoReturn:
    code = 1
    try:
        atomic._OWN_MARK = f"{step:016x}"
        death = _Death(at, fault, random.Random(seed))
        death.install()
        sweep(folder)
        path = folder / ("best.ckpt" if in_place else resume_name(step))
        save(content_of(step), path)
        Rotation(last=2).apply(path)
        if fault == "power cut":
            # It came after the save had ended: what was reported as saved has to stay.
            death.lose_what_is_in_memory()
        code = _DONE
    except OSError:
        code = _REFUSED
    except BaseException as error:
        print(f"step {step}: {error!r}", file=sys.stderr)
    finally:
        os._exit(code)


def _damage(folder: Path, fault: str, draw: random.Random) -> bool:
    """Damage one checkpoint, where that is the fault."""
    if fault not in ("truncated", "flipped", "manifest"):
        return False
    there = sorted(folder.glob("*.ckpt"))
    if sum(map(_is_whole, there)) < 2:
        # Nothing survives damage to the only one.
        return False
    path = draw.choice(there)
    if fault == "manifest":
        path = manifest_path(path)
    content = bytearray(path.read_bytes())
    if fault == "truncated":
        del content[draw.randrange(len(content)) :]
    else:
        bit = draw.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return True


def _is_whole(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True


def _restart(folder: Path, what: str, durable: int, report: Report) -> int:
    """Look at the folder as the next start does; returns the step it would go on from."""
    for path in folder.glob("*.ckpt"):
        try:
            content = read_checkpoint(path)
        except CheckpointError:
            continue
        if not is_sound(content):
            report.problems.append(f"{what}: {path.name} was loaded and is not what was saved")
    sweep(folder)
    found = find_newest(folder, set_aside=True)
    report.noticed += len(found.damaged)
    if found.path is None:
        report.problems.append(f"{what}: no checkpoint is left; {[d.reason for d in found.damaged]}")
    elif (
        not is_sound(read_checkpoint(found.path)) or read_checkpoint(found.path)["global_step"] != found.step
    ):
        report.problems.append(f"{what}: {found.path.name} is not step {found.step}")
    elif found.step < durable:
        report.problems.append(f"{what}: step {durable} was safe, and the newest is {found.step}")
    if leftovers := list(folder.glob(".*")):
        report.problems.append(f"{what}: {leftovers} stay")
    return found.step


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--saves", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = series(Path(folder), args.saves, args.seed)
    print(
        f"{args.saves} saves: {dict(report.faults)}; {report.killed} killed, {report.noticed} damaged set aside"
    )
    print(
        "\n".join(report.problems) or "a good checkpoint after every one, and nothing damaged was ever loaded"
    )
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
