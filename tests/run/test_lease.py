"""One owner at a time of a run folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from minifold_pl.run import fence, lease, owner, stop
from minifold_pl.run.events import append_event, read_events
from minifold_pl.run.fence import LeaseGone, LeaseLost
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RetryLater
from minifold_pl.run.lease import FolderInUse, Lease, acquire
from minifold_pl.run.lease_file import claim
from minifold_pl.run.marker import Marker, RunState, write_marker
from minifold_pl.run.owner import Owner, known_to_be_gone, this_owner
from minifold_pl.run.stop import RunInterrupted

Spawn = Callable[..., "subprocess.Popen[str]"]
HOLD = """
held = rooms.acquire(folder, interval=0.1, timeout=1.0)
say("held", held.number)
sys.stdin.read()
"""


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _events(folder: RunFolder) -> list[str]:
    return [event["event"] for event in read_events(folder.events)]


def _files(folder: RunFolder) -> list[str]:
    return sorted(os.listdir(folder.lease))


def test_every_owner_has_the_next_number_and_only_its_file_stays(folder: RunFolder) -> None:
    for number in (1, 2, 3):
        with acquire(folder) as held:
            assert held.number == number
            held.check()
            assert _files(folder) == [f"owner-{number:08d}"]
    assert not folder.events.exists()


def test_a_folder_that_was_given_back_is_free_at_once_also_for_another_machine(
    folder: RunFolder, spawn: Spawn
) -> None:
    acquire(folder, timeout=1000.0).release()
    other = spawn(HOLD, host="elsewhere")
    assert _line(other) == "held 2"
    assert not folder.events.exists()


def test_a_second_starter_is_told_who_has_the_folder_and_since_when(folder: RunFolder, spawn: Spawn) -> None:
    holder = spawn(HOLD)
    assert _line(holder) == "held 1"
    begun = time.monotonic()
    with pytest.raises(FolderInUse, match=rf"is in use by process {holder.pid} on \S+ since 20\d\d-"):
        acquire(folder)
    assert time.monotonic() - begun < 1.0
    assert FolderInUse.exit_code == 73


def test_of_twenty_starters_at_once_one_wins_and_the_others_say_who(folder: RunFolder, spawn: Spawn) -> None:
    code = """
    say("ready")
    sys.stdin.readline()
    try:
        held = rooms.acquire(folder, interval=0.1, timeout=5.0)
    except rooms.FolderInUse as error:
        say("refused", error)
    else:
        say("held", os.getpid())
        sys.stdin.read()
    """
    starters = [spawn(code) for _ in range(20)]
    for starter in starters:
        assert _line(starter) == "ready"
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("\n")
        starter.stdin.flush()
    said = [_line(starter) for starter in starters]
    winners = [words for words in said if words.startswith("held")]
    assert len(winners) == 1, said
    assert all(f"process {winners[0].split()[1]} on" in words for words in said if words not in winners), said


def test_a_killed_owner_is_followed_at_once_on_the_same_machine(folder: RunFolder, spawn: Spawn) -> None:
    holder = spawn("held = rooms.acquire(folder, timeout=1000.0); say('held'); sys.stdin.read()")
    assert _line(holder) == "held"
    holder.kill()  # not waited for: a zombie counts as ended
    time.sleep(0.1)
    begun = time.monotonic()
    with acquire(folder) as held:
        assert time.monotonic() - begun < 0.5
        assert held.number == 2
    (taken,) = read_events(folder.events)
    assert taken["event"] == "taken_over"
    assert taken["attempt"] == 2
    assert f"process {holder.pid}" in taken["previous"]
    assert taken["reason"] == "its process has ended"


def test_a_killed_owner_is_followed_from_another_machine_after_its_timeout(
    folder: RunFolder, spawn: Spawn
) -> None:
    holder = spawn(HOLD, host="elsewhere")
    assert _line(holder) == "held 1"
    begun = time.monotonic()
    with pytest.raises(FolderInUse):
        acquire(folder)
    assert time.monotonic() - begun < 0.9
    holder.kill()
    begun = time.monotonic()
    with acquire(folder, timeout=1000.0) as held:
        assert 0.9 < time.monotonic() - begun < 3.0
        assert held.number == 2
    (taken,) = read_events(folder.events)
    assert taken["reason"].startswith("no sign of life for 1 s")
    assert "on elsewhere" in taken["previous"]


def test_one_who_waits_gets_the_folder_when_it_is_given_back(folder: RunFolder, spawn: Spawn) -> None:
    holder = spawn(
        "held = rooms.acquire(folder, interval=0.1); say('held'); sys.stdin.readline(); held.release()"
    )
    assert _line(holder) == "held"
    told: list[str] = []

    def let_go(line: str) -> None:
        told.append(line)
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()

    with acquire(folder, wait=30.0, told=let_go) as held:
        assert held.number == 2
    assert len(told) == 1
    assert f"process {holder.pid}" in told[0]
    assert not folder.events.exists()


def test_waiting_ends_when_its_time_is_over(folder: RunFolder, spawn: Spawn) -> None:
    assert _line(spawn(HOLD)) == "held 1"
    begun = time.monotonic()
    with pytest.raises(FolderInUse):
        acquire(folder, wait=1.0)
    assert 1.0 <= time.monotonic() - begun < 2.5


def test_a_stop_signal_ends_the_wait(folder: RunFolder, spawn: Spawn) -> None:
    assert _line(spawn(HOLD)) == "held 1"
    with stop.listening():
        alarm = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        alarm.start()
        with pytest.raises(RunInterrupted, match="SIGTERM"):
            acquire(folder, wait=60.0)


def test_a_stopped_owner_that_was_taken_over_writes_nothing_when_it_goes_on(
    folder: RunFolder, spawn: Spawn
) -> None:
    code = """
    from minifold_pl.run.marker import Marker, RunState, write_marker
    held = rooms.acquire(folder, interval=0.1, timeout=1.0)
    say("held")
    sys.stdin.readline()
    for write in (
        lambda: append_event(folder.events, "from the dead"),
        lambda: write_marker(folder.marker, Marker(state=RunState.DONE)),
        held.check,
    ):
        try:
            write()
        except fence.LeaseLost as error:
            say(error.exit_code, error)
        else:
            say("wrote")
    append_event(folder.events, "from the dead")
    held.release()
    say("end")
    """
    old = spawn(code)
    assert _line(old) == "held"
    os.kill(old.pid, signal.SIGSTOP)
    with acquire(folder) as held:
        assert held.number == 2
        assert old.stdin is not None
        old.stdin.write("\n")
        old.stdin.flush()
        os.kill(old.pid, signal.SIGCONT)
        for _ in range(3):
            words = _line(old)
            assert words.startswith("73 "), words
            assert f"was taken over by process {os.getpid()} on" in words
        assert _line(old) == "end"
        held.check()
        append_event(folder.events, "started")
        write_marker(folder.marker, Marker(state=RunState.RUNNING))
    assert _events(folder) == ["taken_over", "started"]
    assert [event["attempt"] for event in read_events(folder.events)] == [2, 2]


def test_the_heartbeat_notices_a_loss_by_itself(folder: RunFolder, spawn: Spawn) -> None:
    code = """
    held = rooms.acquire(folder, interval=0.1, timeout=1.0)
    say("held")
    while not held.lost:
        time.sleep(0.01)
    say("lost")
    """
    old = spawn(code)
    assert _line(old) == "held"
    os.kill(old.pid, signal.SIGSTOP)
    with acquire(folder):
        os.kill(old.pid, signal.SIGCONT)
        assert _line(old) == "lost"


def test_a_stopped_owner_that_nobody_took_over_goes_on(folder: RunFolder, spawn: Spawn) -> None:
    old = spawn("""
    held = rooms.acquire(folder, interval=0.1, timeout=1.0)
    say("held")
    sys.stdin.readline()
    held.check()
    say("still mine")
    """)
    assert _line(old) == "held"
    os.kill(old.pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(old.pid, signal.SIGCONT)
    assert old.stdin is not None
    old.stdin.write("\n")
    old.stdin.flush()
    assert _line(old) == "still mine"


def test_children_of_a_dead_owner_do_not_keep_the_folder(folder: RunFolder, spawn: Spawn) -> None:
    """Forked data workers and programs that it started; here seen from another container of the machine."""
    holder = spawn("""
    import subprocess
    held = rooms.acquire(folder, timeout=1000.0)
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    program = subprocess.Popen(["sleep", "60"])
    say(child, program.pid)
    sys.stdin.read()
    """)
    children = [int(word) for word in _line(holder).split()]
    try:
        seen = lease.owner_of(folder)
        assert seen is not None
        path = folder.lease / "owner-00000001"
        container = replace(owner.this_machine(), pid_namespace="pid:[7]")
        assert seen.locks
        assert not known_to_be_gone(seen, path, here=lambda: container)
        holder.kill()
        holder.wait()
        for child in children:
            os.kill(child, 0)  # they still live
        assert known_to_be_gone(seen, path, here=lambda: container)
        with acquire(folder) as held:
            assert held.number == 2
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_a_process_id_that_is_used_again_is_not_the_owner(tmp_path: Path) -> None:
    mine = this_owner(1, "token", 10.0, locks=False)
    assert not known_to_be_gone(mine, tmp_path)
    assert known_to_be_gone(replace(mine, started="1"), tmp_path)
    rebooted = replace(mine.machine, boot="another")
    assert not known_to_be_gone(replace(mine, started="1", machine=rebooted), tmp_path)


def test_a_launcher_gives_the_folder_back_for_a_dead_owner_only(folder: RunFolder, spawn: Spawn) -> None:
    holder = spawn("held = rooms.acquire(folder, timeout=1000.0); say('held'); sys.stdin.read()")
    assert _line(holder) == "held"
    assert not lease.give_back_for_the_dead(folder)
    holder.kill()
    holder.wait()
    assert lease.give_back_for_the_dead(folder)
    assert lease.owner_of(folder) is None
    assert _line(spawn(HOLD, host="elsewhere")) == "held 2"


def test_owners_of_many_starts_one_after_the_other_never_overlap(folder: RunFolder, spawn: Spawn) -> None:
    """Everybody wants the folder, keeps it for a moment, and writes; whoever has it finds nobody else's traces."""
    code = """
    import random
    mark = folder.path / "busy"
    for _ in range(10):
        with rooms.acquire(folder, wait=120.0, interval=0.05, timeout=5.0) as held:
            held.check()
            with open(mark, "x"):
                time.sleep(random.random() / 200)
            held.check()
            mark.unlink()
    say("done")
    """
    starters = [spawn(code) for _ in range(5)]
    assert [_line(starter) for starter in starters] == ["done"] * 5
    with acquire(folder) as held:
        assert held.number == 51


def test_a_late_starter_with_an_old_number_backs_off(folder: RunFolder) -> None:
    for _ in range(3):
        acquire(folder).release()
    assert claim(folder.lease, 2, 10.0) is None
    assert _files(folder) == ["owner-00000003"]


def test_a_file_that_says_nothing_is_waited_for_and_then_followed(folder: RunFolder, monkeypatch) -> None:
    monkeypatch.setattr(lease, "TIMEOUT", 0.5)
    folder.lease.mkdir(parents=True)
    (folder.lease / "owner-00000005").write_text("")
    with acquire(folder) as held:
        assert held.number == 6


def test_without_hard_links_there_is_still_one_owner(folder: RunFolder, spawn: Spawn, monkeypatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with acquire(folder, interval=0.1) as held:
        held.check()
        assert _files(folder) == ["owner-00000001"]
        with pytest.raises(FolderInUse):
            acquire(folder)
        assert claim(folder.lease, 1, 10.0) is None
        held.check()


def test_a_lease_that_somebody_removed_is_to_be_started_again_and_the_event_says_why(
    folder: RunFolder,
) -> None:
    """Nobody else goes on: a run that ended as if somebody did would stand still for good."""
    with acquire(folder, interval=0.05) as held:
        shutil.rmtree(folder.lease)
        _until(lambda: held.lost)
        for write in (held.check, lambda: write_marker(folder.marker, Marker(state=RunState.RUNNING))):
            with pytest.raises(LeaseGone, match="removed or changed by hand") as gone:
                write()
            assert isinstance(gone.value, RetryLater)
            assert gone.value.exit_code == 75
        with pytest.raises(LeaseGone):
            fence.may_write(folder.metrics)
        assert not fence.may_write(folder.metrics)
        append_event(folder.events, "retry", reason=gone.value.reason)
    assert not folder.marker.exists()
    assert not folder.lease.exists()
    assert _events(folder) == ["retry"]
    with acquire(folder) as held:
        held.check()


def test_a_run_folder_that_was_moved_is_no_loss_to_another_process(folder: RunFolder) -> None:
    with acquire(folder, interval=0.05) as held:
        moved = folder.path.rename(folder.path.with_name("moved"))
        _until(lambda: held.lost)
        with pytest.raises(LeaseGone, match="or the folder moved"):
            held.check()
        append_event(folder.events, "retry")
    assert not folder.path.exists()
    with acquire(RunFolder(moved)) as held:
        assert held.number == 2


@pytest.mark.parametrize("before", [0, 3])
def test_a_removed_lease_that_another_process_made_anew_is_lost_to_it(
    folder: RunFolder, spawn: Spawn, before: int
) -> None:
    for _ in range(before):
        acquire(folder).release()
    with acquire(folder, interval=0.05) as held:
        shutil.rmtree(folder.lease)
        _until(lambda: held.lost)
        other = spawn(HOLD)
        assert _line(other) == "held 1"
        with pytest.raises(LeaseLost, match=f"taken over by process {other.pid} on") as lost:
            held.check()
        assert lost.value.exit_code == 73
        with pytest.raises(LeaseLost):
            append_event(folder.events, "from the old one")
    assert not folder.events.exists()


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10.0
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_successor_is_noticed_before_it_has_cleared_up(folder: RunFolder) -> None:
    with acquire(folder, interval=1000.0) as held:
        next_one = replace(held.owner, number=2, token="another", pid=1)
        (folder.lease / "owner-00000002").write_text(next_one.to_json() + "\n")
        with pytest.raises(LeaseLost, match="taken over by process 1 on"):
            held.check()


def test_a_disk_that_does_not_answer_is_no_loss(folder: RunFolder, monkeypatch) -> None:
    with acquire(folder, interval=1000.0) as held:

        def broken(*_: object, **__: object) -> str:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", broken)
            with pytest.raises(OSError, match="Input/output"):
                held.check()
            assert not fence.may_write(folder.events)
            append_event(folder.events, "saved")
        held.check()
        assert not folder.events.exists()
        append_event(folder.events, "best")
    assert _events(folder) == ["saved", "best"]


def test_a_look_that_hangs_does_not_count_as_silence(folder: RunFolder, spawn: Spawn, monkeypatch) -> None:
    """Also: the one who waits was stopped himself."""
    rarely = HOLD.replace("interval=0.1, timeout=1.0", "interval=0.7, timeout=3.0")
    assert _line(spawn(rarely, host="elsewhere")) == "held 1"
    now = [0.0]

    def jumping() -> float:
        now[0] += 100.0
        return now[0]

    monkeypatch.setattr(lease, "monotonic", jumping)
    with pytest.raises(FolderInUse):
        acquire(folder)


def test_nobody_else_is_hindered_by_a_guard(folder: RunFolder, tmp_path: Path) -> None:
    with acquire(folder) as held:
        assert fence.guard_of(folder.path / "checkpoints" / "x.ckpt") is held
        assert fence.guard_of(tmp_path / "other" / "events.jsonl") is None
        fence.check(tmp_path / "other")
    assert fence.guard_of(folder.events) is None


def test_owners_come_back_from_their_line_and_nonsense_does_not() -> None:
    mine = this_owner(3, "token", 10.0, locks=True)
    assert Owner.from_json(mine.to_json()) == mine
    for nonsense in ("", "{", "{}", "[]", "5", '{"number": 1}'):
        with pytest.raises(ValueError):
            Owner.from_json(nonsense)


def test_the_scheduler_is_named(monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "55")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert "job 55, restart 2" in str(this_owner(1, "t", 10.0, locks=False))


def test_a_lease_is_forgotten_with_its_object(folder: RunFolder) -> None:
    held = acquire(folder)
    held.release()
    held.release()
    assert isinstance(held, Lease)
    with pytest.raises(LeaseLost):
        acquire(folder).release()
        held.check()
