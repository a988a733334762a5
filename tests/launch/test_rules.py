from __future__ import annotations

import pytest

from minifold_pl.launch.plan import Limits
from minifold_pl.launch.rules import Counts, Ended, Next, Outcome, Verdict, judge, over_budget
from minifold_pl.run.marker import Marker, RunState

RUNNING = Marker(state=RunState.RUNNING)
DONE = Marker(state=RunState.DONE, reason="finished")
HALTED = Marker(state=RunState.HALTED, reason="NaN for ever")


def verdict(code: int, *, may_leave: bool = True, here: str | None = None, **more: object) -> Verdict:
    counts = {
        name: more.pop(name) for name in ("fruitless", "idle", "restarts", "here_failed") if name in more
    }
    counts["here"] = counts.pop("here_failed", 0)
    limits = more.pop("limits", Limits())
    ended = Ended(code=code, **{"marker": RUNNING, **more})  # type: ignore[arg-type]
    return judge(ended, Counts(**counts), limits, may_leave=may_leave, asked_here=here)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "marker", "outcome", "exit_code"),
    [(0, DONE, Outcome.DONE, 0), (70, HALTED, Outcome.HALTED, 70), (73, RUNNING, Outcome.TAKEN, 73),
     (2, RUNNING, Outcome.GAVE_UP, 2)],
)  # fmt: skip
def test_the_codes_that_say_so_end_the_chain(
    code: int, marker: Marker, outcome: Outcome, exit_code: int
) -> None:
    found = verdict(code, marker=marker, told="why")
    assert (found.next, found.outcome, found.code) == (Next.END, outcome, exit_code)
    assert found.why == {0: "finished", 70: "NaN for ever"}.get(code, "why")


def test_code_0_without_the_word_done_is_a_failure() -> None:
    found = verdict(0)
    assert found.next is Next.AGAIN and "not done" in found.why and found.delay > 0


@pytest.mark.parametrize("code", [75, 143, 138, 140, 129])
def test_a_start_that_was_asked_to_stop_gives_the_machine_back_and_counts_as_no_failure(code: int) -> None:
    found = verdict(code, asked="SIGTERM" if code == 75 else None, fruitless=2)
    assert found.next is Next.LEAVE and found.asked and found.delay == 0


def test_without_a_successor_a_start_that_was_asked_begins_again_here_unless_its_watcher_was_asked_too() -> (
    None
):
    assert verdict(75, asked="SIGTERM", may_leave=False).next is Next.AGAIN
    assert verdict(75, asked="SIGTERM", may_leave=False, here="SIGTERM").next is Next.LEAVE


def test_a_crash_after_progress_starts_again_at_once() -> None:
    found = verdict(137, progress=True, fruitless=2)
    assert found.next is Next.AGAIN and found.delay == 0 and "signal 9" in found.why


def test_fruitless_starts_wait_longer_each_time_leave_the_machine_and_end() -> None:
    limits = Limits(max_fruitless=4, backoff=10.0, longest_backoff=25.0)
    found = [verdict(1, fruitless=n, here_failed=n, limits=limits, told="boom") for n in range(4)]
    assert [one.delay for one in found] == [10.0, 20.0, 25.0, 0.0]
    assert [one.next for one in found] == [Next.AGAIN, Next.LEAVE, Next.LEAVE, Next.END]
    assert found[3].outcome is Outcome.GAVE_UP and found[3].code == 70 and "boom" in found[3].why


def test_a_full_disks_retries_are_failures_like_others() -> None:
    assert verdict(75, fruitless=2, told="no space left").outcome is Outcome.GAVE_UP


def test_stops_from_outside_without_any_progress_end_too_only_later() -> None:
    assert verdict(75, asked="SIGUSR1", idle=8).next is Next.LEAVE
    found = verdict(75, asked="SIGUSR1", idle=9)
    assert found.outcome is Outcome.GAVE_UP and "time limit" in found.why


def test_a_persons_stop_ends_the_chain_but_a_run_that_is_done_is_done() -> None:
    assert verdict(75, asked="SIGUSR1", stop="enough").outcome is Outcome.STOPPED
    assert verdict(70, marker=Marker(state=RunState.STOPPED), stop="enough").outcome is Outcome.STOPPED
    assert verdict(0, marker=DONE, stop="enough").outcome is Outcome.DONE
    assert verdict(70, marker=HALTED, stop="enough").outcome is Outcome.HALTED


def test_budgets_end_the_chain() -> None:
    assert verdict(75, asked="SIGTERM", restarts=3, limits=Limits(max_restarts=3)).outcome is Outcome.GAVE_UP
    assert verdict(75, asked="SIGTERM", restarts=2, limits=Limits(max_restarts=3)).next is Next.LEAVE
    assert (
        over_budget(0, 1.5, Limits(max_gpu_hours=1.5))
        and over_budget(0, 1.4, Limits(max_gpu_hours=1.5)) is None
    )
