"""The supervisor on this machine, with a stand-in for training and with the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep

import pytest

from minifold_pl.launch.plan import Limits, Plan, write_plan
from minifold_pl.launch.record import append_job, chain, read_jobs
from minifold_pl.launch.resources import Resources
from minifold_pl.launch.submission import Refused, after_halt, refuse_a_second
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.marker import Marker, RunState, read_marker, write_marker
from minifold_pl.run.stop_order import order_stop

TRAINER = """
import json, os, signal, sys, time
from pathlib import Path
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.lease import acquire
from minifold_pl.run.marker import Marker, RunState, write_marker
folder = RunFolder(Path(os.environ["RUN"]))
codes = os.environ["CODES"].split()
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append("SIGUSR1"))
signal.signal(signal.SIGTERM, lambda *_: asked.append("SIGTERM"))
with acquire(folder) as lease:
    step = json.loads(folder.starts.read_text()) if folder.starts.exists() else 0
    word = codes[min(lease.number, len(codes)) - 1]
    append_event(folder.events, "started", step=step, epoch=0)
    print("arguments", *sys.argv[1:], flush=True)
    if word.startswith("+"):
        step += 1
        folder.starts.write_text(str(step))
        append_event(folder.events, "saved", step=step, epoch=0)
    if word.endswith("wait"):
        while not asked:
            time.sleep(0.02)
        append_event(folder.events, "interrupted", step=step, epoch=0, signal=asked[0])
        code = 75
    elif word.endswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        code = int(word.lstrip("+"))
    if code == 0:
        write_marker(folder.marker, Marker(state=RunState.DONE, reason="finished", step=step))
        append_event(folder.events, "done", reason="finished", step=step, epoch=1)
    if code == 1:
        append_event(folder.events, "failed", error="RuntimeError", message="boom", step=step, epoch=0)
sys.exit(code)
"""
"""Does what CODES say, a word a start: a code, with + after a save; killed; waiting for a signal."""


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """Stands in for Python where training is meant, and is Python for everything else."""
    trainer = tmp_path / "trainer.py"
    trainer.write_text(TRAINER)
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nshift 3\nexec {sys.executable} {trainer} "$@"\n')
    path.chmod(0o755)
    return path


class Supervised:
    """A supervisor in a process of its own."""

    def __init__(self, folder: Path, interpreter: Path, codes: Sequence[str], **limits: object) -> None:
        self.folder = folder
        plan = Plan(
            folder=folder, cluster="local", name="run", arguments=("fit",), once=("--accept-changes",),
            python=str(interpreter), resources=Resources(),
            limits=Limits(**{"backoff": 0.1, "longest_backoff": 0.2, **limits}),  # type: ignore[arg-type]
        )  # fmt: skip
        write_plan(plan)
        append_job(folder, "submission", cluster="local")
        self.log = folder / "jobs" / "local.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "minifold_pl.launch.supervisor", str(plan.path)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "RUN": str(folder), "CODES": " ".join(codes), "PYTHONPATH": _paths()},
            )

    def code(self) -> int:
        return self.process.wait(60)

    def trains(self) -> None:
        end = monotonic() + 30
        while not any(event["event"] == "started" for event in read_events(self.folder / "events.jsonl")):
            assert monotonic() < end, self.log.read_text()
            sleep(0.02)

    @property
    def tries(self) -> list[dict[str, object]]:
        return [line for line in read_jobs(self.folder) if line["event"] == "try"]

    @property
    def outcome(self) -> object:
        over = chain(read_jobs(self.folder)).over
        return None if over is None else over["outcome"]


def _paths() -> str:
    return os.pathsep.join(path for path in sys.path if path)


def test_it_starts_again_after_crashes_and_kills_until_the_run_is_done(
    tmp_path: Path, interpreter: Path
) -> None:
    run = Supervised(tmp_path / "run", interpreter, ["+kill", "1", "+75", "kill", "+0"])
    assert run.code() == 0 and run.outcome == "done"
    assert [one["code"] for one in run.tries] == [137, 1, 75, 137, 0]
    assert [one["progress"] for one in run.tries] == [True, False, True, False, True]
    # What was said for this submission alone holds until there is a checkpoint.
    lines = [line for line in run.log.read_text().splitlines() if line.startswith("arguments")]
    assert ["--accept-changes" in line for line in lines] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("codes", "starts", "code", "outcome", "told"),
    [
        (["1"], 3, 70, "gave_up", "boom"),
        (["kill"], 3, 70, "gave_up", "signal 9"),
        (["75"], 3, 70, "gave_up", "code 75"),
        (["2"], 1, 2, "gave_up", ""),
        (["73"], 1, 73, "taken", ""),
    ],
)
def test_what_cannot_go_on_ends_with_a_reason(
    tmp_path: Path, interpreter: Path, codes: list[str], starts: int, code: int, outcome: str, told: str
) -> None:
    run = Supervised(tmp_path / "run", interpreter, codes)
    assert run.code() == code
    assert (len(run.tries), run.outcome) == (starts, outcome)
    marker = read_marker(tmp_path / "run" / "state.json")
    if outcome == "gave_up":
        assert marker is not None and marker.state is RunState.HALTED and told in marker.reason
        with pytest.raises(Refused, match="--after-halt"):
            after_halt(tmp_path / "run", allowed=False)
        assert after_halt(tmp_path / "run", allowed=True) == ("--run.after_halt", str(marker.attempt))
    else:
        assert marker is None or marker.state is not RunState.HALTED


def test_a_signal_to_the_supervisor_is_passed_on_and_the_run_goes_on_when_it_is_submitted_again(
    tmp_path: Path, interpreter: Path
) -> None:
    first = Supervised(tmp_path / "run", interpreter, ["+wait", "+0"])
    first.trains()
    with pytest.raises(Refused, match="already"):
        refuse_a_second(tmp_path / "run")
    first.process.send_signal(signal.SIGTERM)
    assert first.code() == 75 and first.outcome is None and len(first.tries) == 1
    refuse_a_second(tmp_path / "run")
    assert Supervised(tmp_path / "run", interpreter, ["+wait", "+0"]).code() == 0


def test_a_persons_stop_is_for_good(tmp_path: Path, interpreter: Path) -> None:
    run = Supervised(tmp_path / "run", interpreter, ["+wait"])
    run.trains()
    order_stop(RunFolder(tmp_path / "run"), by="me", reason="enough")
    run.process.send_signal(signal.SIGTERM)
    assert run.code() == 0 and run.outcome == "stopped"


def test_restarts_and_gpu_hours_are_limited(tmp_path: Path, interpreter: Path) -> None:
    run = Supervised(tmp_path / "run", interpreter, ["+75"], max_restarts=2)
    assert run.code() == 70 and len(run.tries) == 3
    assert "--max-restarts" in str(run.tries[-1]["why"])


def test_a_halted_run_is_submitted_only_by_somebody_who_says_that_they_know(tmp_path: Path) -> None:
    write_marker(tmp_path / "state.json", Marker(state=RunState.HALTED, reason="NaN", step=7))
    with pytest.raises(Refused, match="step 7: NaN"):
        after_halt(tmp_path, allowed=False)
