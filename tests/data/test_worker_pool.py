import os
import signal
import sys
import time

import pytest

from minifold_pl.data.worker_pool import BATCH, Failure, Job, PoolError, run_jobs


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module with functions that processes of the pool import."""
    (tmp_path / "pool_functions.py").write_text(
        """
import os, signal, time

def double(x):
    return 2 * x

def die(x, how):
    if how == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    os._exit(3)

def hang(x):
    time.sleep(1000)

def fail(x):
    raise RuntimeError("two\\nlines")

def size(text):
    return len(text)

def where(x):
    return os.getpid()

def twice(calls, begin):
    for place, (x,) in enumerate(calls):
        begin(place)
        if x == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if x == "hang":
            time.sleep(1000)
    begin(None)
    if any(x == "late death" for x, in calls):
        os.kill(os.getpid(), signal.SIGSEGV)
    return [(2 * x, len(calls)) for x, in calls]

def one(x):
    if x == "late death":
        os.kill(os.getpid(), signal.SIGSEGV)
    return (2 * x, 0)
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "pool_functions"


def _jobs(module, *calls, seconds=60.0):
    return [Job(i, f"{module}:{name}", args, seconds) for i, (name, *args) in enumerate(map(_tuple, calls))]


def _tuple(call):
    return (call[0], *call[1:])


def test_every_job_has_its_result(module):
    jobs = [Job(i, f"{module}:double", (i,)) for i in range(5 * BATCH + 3)]
    assert dict(run_jobs(iter(jobs), 2)) == {i: 2 * i for i in range(len(jobs))}
    assert dict(run_jobs([], 2)) == {}


def test_a_process_that_dies_costs_its_own_item_and_no_other(module):
    jobs = [Job(i, f"{module}:double", (i,)) for i in range(40)]
    jobs[7] = Job(7, f"{module}:die", (7, "signal"))
    jobs[8] = Job(8, f"{module}:die", (8, "exit"))
    jobs[39] = Job(39, f"{module}:die", (39, "signal"))
    found = dict(run_jobs(jobs, 1))
    assert found.pop(7) == Failure("the process that read it died", "signal SIGSEGV")
    assert found.pop(8) == Failure("the process that read it died", "exit code 3")
    assert found.pop(39) == Failure("the process that read it died", "signal SIGSEGV")
    assert found == {i: 2 * i for i in range(39) if i not in (7, 8)}


def test_an_item_that_takes_too_long_is_given_up(module):
    jobs = [
        Job(0, f"{module}:double", (0,)),
        Job(1, f"{module}:hang", (1,), seconds=1.0),
        Job(2, f"{module}:double", (2,)),
    ]
    started = time.monotonic()
    assert dict(run_jobs(jobs, 1)) == {0: 0, 1: Failure("took too long", "more than 1 s"), 2: 4}
    assert time.monotonic() - started < 20


def _together(module, items, **options):
    return [Job(i, f"{module}:one", (x,), together=f"{module}:twice", **options) for i, x in enumerate(items)]


def test_items_are_done_together_unless_they_are_large(module):
    assert dict(run_jobs(_together(module, range(20)), 1)) == {
        i: (2 * i, BATCH if i < BATCH else 4) for i in range(20)
    }
    found = dict(run_jobs(_together(module, range(3), size=5 << 20), 1))
    assert found == {i: (2 * i, 1) for i in range(3)}


@pytest.mark.parametrize(
    ("bad", "failure"),
    [
        ("die", Failure("the process that read it died", "signal SIGSEGV")),
        ("late death", Failure("the process that read it died", "signal SIGSEGV")),
        ("hang", Failure("took too long", "more than 1 s")),
        ([], Failure("could not be read", "TypeError: unsupported operand")),
    ],
)
def test_of_items_that_are_done_together_one_costs_no_other(module, bad, failure):
    items = list(range(40))
    items[5] = items[6] = items[20] = bad if bad != [] else None
    found = dict(run_jobs(_together(module, items, seconds=1.0), 2))
    assert len(found) == 40
    for i, result in found.items():
        if i in (5, 6, 20):
            assert (result.reason, result.detail[:25]) == (failure.reason, failure.detail[:25])
        else:
            assert result[0] == 2 * i


def test_an_exception_is_told_in_one_line(module):
    (result,) = run_jobs([Job(5, f"{module}:fail", (1,))], 1)
    assert result == (5, Failure("could not be read", "RuntimeError: two lines"))


def test_long_texts_pass_without_the_two_ends_waiting_for_each_other(module):
    text = b"x" * 3_000_000
    jobs = [Job(i, f"{module}:size", (text,)) for i in range(6)]
    assert dict(run_jobs(jobs, 2)) == dict.fromkeys(range(6), len(text))


def test_no_process_is_left_when_the_caller_stops_early(module):
    running = run_jobs((Job(i, f"{module}:where", (i,)) for i in range(1000)), 2)
    pids = {pid for _, (_, pid) in zip(range(20), running, strict=False)}
    running.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_processes_end_when_their_owner_is_killed(module, tmp_path):
    import subprocess

    code = (
        "import sys\n"
        "from minifold_pl.data.worker_pool import Job, run_jobs\n"
        f"jobs = [Job(0, '{module}:where', (0,)), Job(1, '{module}:where', (1,))] \n"
        "import itertools\n"
        f"endless = (Job(i, '{module}:where', (i,)) for i in itertools.count())\n"
        "for _, pid in run_jobs(endless, 1):\n"
        "    print(pid, flush=True)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    pid = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the process goes on without its owner")


def test_processes_that_cannot_start_are_told_of_and_not_started_for_ever(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(str(tmp_path))
    jobs = (Job(i, "os:getpid", ()) for i in range(1000))
    with pytest.raises(PoolError, match="8 processes ended before their first answer, exit code 7"):
        dict(run_jobs(jobs, 2))
