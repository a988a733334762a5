"""The fault matrix, the run folder's rows: each with the real fault.

An unreachable W&B; clocks that jump by a year; two starters on one folder, also with the older one stopped and woken;
a disk without room for events and metrics, or read-only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from tests.resilience.training import Case, kill_at, latest_step, make_store, outcome

from minifold_pl.loggers.metrics_csv import MetricsCSV
from minifold_pl.run.events import append_event, read_events
from minifold_pl.run.fence import LeaseLost
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RetryLater
from minifold_pl.run.lease import acquire

ROOT = Path(__file__).parents[2]
YEAR = 365 * 24 * 3600
PROGRAM = [sys.executable, "-c", "from minifold_pl.cli.main import entry_point; entry_point()"]
CASE = Case(every_n_steps=1)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system of its own; needs the right to mount."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip("no right to mount a file system")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.fixture(scope="session")
def clock(tmp_path_factory) -> Callable[[Path], dict[str, str]]:
    """Environment of a process whose time of day is off by the seconds in a file, which may change at any time."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return lambda offset: {"LD_PRELOAD": str(library), "TEST_CLOCK": str(offset)}


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("faults") / "store")


@pytest.fixture
def fit(store: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the small training in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(run: Path, *more: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PROGRAM, *CASE.arguments(store, run), *more],
            cwd=ROOT,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
                **(environment or {}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def undisturbed(store: Path, tmp_path_factory) -> dict[str, str]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    subprocess.run(
        [*PROGRAM, *CASE.arguments(store, run)], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    return outcome(run)


def _end(process: subprocess.Popen[str], code: int = 0) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code, said
    return said


def _until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def _events(run: Path) -> list[str]:
    return [event["event"] for event in read_events(run / "events.jsonl")]


# --- W&B ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_with_an_unreachable_wandb_is_the_run_without_it(fit, undisturbed, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": "x" * 40}
    begun = time.monotonic()
    _end(fit(run, "--run.wandb", "online", environment={**environment, "MINIFOLD_WANDB_TIMEOUT": "2"}))
    assert time.monotonic() - begun < 90.0  # by itself wandb would wait as long, and raise
    assert outcome(run) == undisturbed
    _until(lambda: "wandb_offline" in _events(run))


# --- clocks ------------------------------------------------------------------------------------------


def test_an_owner_keeps_the_folder_and_a_successor_gets_it_whatever_the_clocks_say(
    clock, tmp_path: Path
) -> None:
    """The owner's clock jumps a year back and forth; the one who waits lives a year later."""
    code = """
import os, sys, time
from pathlib import Path
from minifold_pl.run import lease, owner
from minifold_pl.run.events import append_event
from minifold_pl.run.folder import RunFolder
machine = owner.Machine(host="elsewhere", boot="elsewhere", pid_namespace="")
owner.known_to_be_gone.__defaults__ = (lambda: machine,)
owner.this_machine = lambda: machine
folder = RunFolder(Path(sys.argv[1]))
held = lease.acquire(folder, interval=0.1, timeout=1.5)
append_event(folder.events, "started", now=time.time())
print("held", flush=True)
offset = Path(os.environ["TEST_CLOCK"])
for second in range(40):
    offset.write_text(str((-1) ** second * 31536000))
    time.sleep(0.1)
    held.check()
append_event(folder.events, "still here", now=time.time())
print("kept", flush=True)
sys.stdin.read()
"""
    folder, offset = RunFolder(tmp_path / "run"), tmp_path / "offset"
    offset.write_text(str(YEAR))
    environment = {**os.environ, **clock(offset), "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as old:  # fmt: skip
        assert old.stdout is not None
        assert old.stdout.readline() == "held\n"
        waiting = "import sys; sys.argv[1:] = [sys.argv[1]]\n" + code
        (tmp_path / "later").write_text(str(2 * YEAR))
        refused = subprocess.run(
            [sys.executable, "-c", waiting, str(folder.path)],
            env={**environment, "TEST_CLOCK": str(tmp_path / "later")}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "FolderInUse" in refused.stderr
        assert old.stdout.readline() == "kept\n"
        old.kill()
    begun = time.monotonic()
    with acquire(folder) as held:
        assert held.number == 2
    assert 1.0 < time.monotonic() - begun < 5.0
    events = list(read_events(folder.events))
    assert [event["event"] for event in events] == ["started", "still here", "taken_over"]
    assert abs(events[0]["now"] - time.time()) > YEAR / 2


@pytest.mark.slow
def test_a_run_whose_clock_jumps_by_a_year_ends_as_the_undisturbed_one(
    clock, fit, undisturbed, tmp_path: Path
) -> None:
    """A start now, one a year ago and one in a year; the newest checkpoint is the one of the most steps."""
    run, offset = tmp_path / "run", tmp_path / "offset"
    steps = []
    for years, kill in ((0, 7), (-1, 6), (1, None)):
        offset.write_text(str(years * YEAR))
        process = fit(
            run, *([] if kill is None else kill_at("on_train_batch_start", kill)), environment=clock(offset)
        )
        _end(process, 0 if kill is None else -signal.SIGKILL)
        steps.append(latest_step(run))
        for path in (run / "checkpoints").iterdir():
            # The disk has a clock of its own, which jumped as well.
            os.utime(path, (time.time() + years * YEAR,) * 2)
    assert steps == sorted(set(steps))
    assert outcome(run) == undisturbed
    times = [event["time"] for event in read_events(run / "events.jsonl")]
    assert times != sorted(times)


# --- two starters ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_two_starters_at_once_one_trains_and_the_other_says_who(fit, undisturbed, tmp_path: Path) -> None:
    run = tmp_path / "run"
    both = [fit(run), fit(run)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 73], said
    winner = next(process for process in both if process.returncode == 0)
    refusal = next(text for process, text in zip(both, said, strict=True) if process.returncode == 73)
    assert f"is in use by process {winner.pid} on {socket.gethostname()}" in refusal
    assert "Traceback" not in refusal
    assert outcome(run) == undisturbed
    assert _events(run).count("started") == 1


@pytest.mark.slow
def test_a_stopped_trainer_that_was_followed_writes_nothing_when_it_wakes(
    fit, undisturbed, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    old = fit(run)
    _until(lambda: (run / "checkpoints").is_dir() and list((run / "checkpoints").glob("resume-*.ckpt")))
    os.kill(old.pid, signal.SIGSTOP)
    new = fit(run)
    # Both live at once, and the old one goes on in the middle of its batch.
    _until(lambda: "taken_over" in _events(run))
    os.kill(old.pid, signal.SIGCONT)
    said = _end(old, 73)
    assert f"was taken over by process {new.pid}" in said
    _end(new)
    assert outcome(run) == undisturbed
    attempts = [event.get("attempt") for event in read_events(run / "events.jsonl")]
    assert set(attempts) == {1, 2}
    assert attempts == sorted(attempts)


# --- disks -------------------------------------------------------------------------------------------


def test_on_a_full_disk_numbers_and_events_wait_in_memory(tmpfs) -> None:
    disk = tmpfs("64k")
    folder = RunFolder(disk / "run")
    with acquire(folder, interval=0.05, timeout=1.0) as held:
        metrics = MetricsCSV(folder.metrics)
        metrics.log_metrics({"loss/total": 0.0}, step=0)
        metrics.save()
        append_event(folder.events, "started")
        ballast = disk / "ballast"
        with suppress(OSError), open(ballast, "wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        with pytest.warns(UserWarning, match="No space left on device"):
            for step in range(1, 400):
                metrics.log_metrics({"loss/total": step / 7, "lr/all": 1.0}, step=step)
                metrics.save()
        for number in range(100):
            append_event(folder.events, "batch", number=number, text="x" * 100)
        held.check()
        time.sleep(0.3)
        held.check()  # the heartbeat needs no room
        assert len(list(read_events(folder.events))) < 102
        assert len(metrics.state_dict()["rows"]) > 300
        ballast.unlink()
        metrics.save()
        append_event(folder.events, "done")
    rows = folder.metrics.read_text().splitlines()
    assert rows[0] == "step,loss/total,lr/all"
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(400))
    events = list(read_events(folder.events))
    assert [event["event"] for event in events] == [
        "started", "log_not_written", *["batch"] * 100, "log_written_again", "done",
    ]  # fmt: skip
    assert [event["number"] for event in events[2:-2]] == list(range(100))
    assert all(json.loads(line) for line in folder.events.read_text().splitlines() if line.endswith("}"))


def test_on_a_read_only_disk_nothing_is_lost_and_nobody_else_gets_the_folder(tmpfs) -> None:
    disk = tmpfs("1m")
    folder = RunFolder(disk / "run")
    with acquire(folder, interval=0.05, timeout=0.5) as held:
        metrics = MetricsCSV(folder.metrics)
        metrics.log_metrics({"a": 0.0}, step=0)
        metrics.save()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        try:
            metrics.log_metrics({"a": 1.0}, step=1)
            with pytest.warns(UserWarning, match="Read-only file system"):
                metrics.save()
            append_event(folder.events, "saved")
            time.sleep(0.7)  # longer than the others have to wait
            with pytest.raises(RetryLater, match="Read-only"):
                _acquire_elsewhere(folder)
            held.check()
        finally:
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        metrics.save()
        held.check()
    assert folder.metrics.read_text() == "step,a\n0,0\n1,1\n"
    assert [e["event"] for e in read_events(folder.events)] == [
        "log_not_written",
        "saved",
        "log_written_again",
    ]


def _acquire_elsewhere(folder: RunFolder) -> None:
    """As a process on another machine, to which ours shows no sign of life."""
    from minifold_pl.run import lease, owner

    elsewhere = owner.Machine(host="elsewhere", boot="elsewhere", pid_namespace="")
    before = owner.known_to_be_gone.__defaults__
    owner.known_to_be_gone.__defaults__ = (lambda: elsewhere,)
    try:
        with suppress(LeaseLost):
            lease.acquire(folder).release()
    finally:
        owner.known_to_be_gone.__defaults__ = before


@pytest.mark.slow
def test_a_run_whose_folder_fills_up_for_a_while_ends_as_the_undisturbed_one(
    fit, undisturbed, tmpfs, tmp_path: Path
) -> None:
    """Checkpoints lie on another disk here: what their saves do on a full one has tests of its own."""
    disk = tmpfs("512k")
    run = disk / "run"
    (run).mkdir()
    (tmp_path / "checkpoints").mkdir()
    (run / "checkpoints").symlink_to(tmp_path / "checkpoints")
    process = fit(run)
    _until(lambda: "saved" in _events(run))
    ballast = disk / "ballast"
    with suppress(OSError), open(ballast, "wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    before = latest_step(run)
    _until(lambda: latest_step(run) > before + 3 or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    ballast.unlink()
    _end(process)
    assert outcome(run) == undisturbed
    assert {"log_not_written", "log_written_again", "done"} <= set(_events(run))
