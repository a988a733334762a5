"""Rows of the fault matrix that the guards answer: each with the real fault, in processes of their own.

Where a run goes on, it must end as the run that met the same fault and was not stopped; where the fault is not the
data's, as the run that never met it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.resilience.faults import fault
from tests.resilience.training import Case, kill_at, make_store, outcome, run_to_end, run_until_done

from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.store import ChainStore
from minifold_pl.run.events import read_events
from minifold_pl.run.exit_codes import DONE, HALTED, RETRY
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.marker import RunState, read_marker

pytestmark = pytest.mark.slow

# Two epochs of six batches; what samples cost is not what is asked here.
SHORT = ("--trainer.max_epochs", "2", "--ddim.every_n_epochs", "100")
CASE = Case(every_n_steps=1, more=SHORT)
WITH_WORKER = Case(every_n_steps=1, workers=1, more=SHORT)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Processes are forked from this one: a pool of threads would not survive it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("guards") / "store")


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory) -> dict[str, str]:
    """What the run that meets no fault ends as."""
    run = tmp_path_factory.mktemp("guards") / "whole"
    assert run_to_end(CASE, store, run) == DONE, run.with_suffix(".log").read_text()
    return outcome(run)


def events(run: Path, name: str) -> list[dict[str, Any]]:
    return [e for e in read_events(RunFolder(run).events) if e["event"] == name]


def goes_on_exactly(
    case: Case, store: Path, tmp_path: Path, more: Sequence[str], kill: Sequence[str]
) -> Path:
    """The run with a fault that comes in every start, undisturbed and killed in its midst; the second one's folder."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert run_to_end(case, store, straight, more) == DONE, straight.with_suffix(".log").read_text()
    assert run_to_end(case, store, killed, [*more, *kill]) < 0
    run_until_done(replace(case, more=(*case.more, *more)), store, killed)
    assert outcome(straight) == outcome(killed)
    return killed


@pytest.mark.parametrize(
    ("accumulation", "places"), [(1, [[0, 2], [0, 3], [1, 1]]), (4, [[0, 1], [1, 0], [1, 1], [1, 2], [1, 3]])]
)
def test_batches_with_a_nan_loss_are_named_and_left_out_and_a_kill_changes_nothing(
    store, whole, tmp_path, accumulation, places
) -> None:
    case = Case(every_n_steps=1, accumulation=accumulation, more=SHORT)
    run = goes_on_exactly(
        case, store, tmp_path, fault("PoisonBatches", places=places), kill_at("on_train_batch_end", 7)
    )
    told = events(run, "nonfinite_batch")
    assert {b["batch"] for e in told for b in e["batches"]} == {batch for _, batch in places}
    assert all(e["chains"] and "loss/fape" in e["terms"] for e in told)
    assert outcome(run)["state_dict"] != whole["state_dict"]
    state = torch.load(next((run / "checkpoints").glob("best.ckpt")), weights_only=True)["state_dict"]
    assert all(t.isfinite().all() for t in state.values())


def test_batches_with_a_nan_loss_are_left_out_with_two_processes_too(store, tmp_path) -> None:
    poison, kill = fault("PoisonBatches", places=[[0, 1], [1, 0]]), kill_at("on_train_batch_end", 3)
    run = goes_on_exactly(replace(CASE, ranks=2), store, tmp_path, poison, kill)
    assert {b["rank"] for e in events(run, "nonfinite_batch") for b in e["batches"]} == {0, 1}


def test_a_worker_that_is_killed_in_one_of_two_processes_ends_both_to_be_started_again(
    store, tmp_path
) -> None:
    case, whole, run = replace(WITH_WORKER, ranks=2), tmp_path / "whole", tmp_path / "run"
    assert run_to_end(case, store, whole) == DONE
    strike = fault("StrikeWorker", step=3, done=str(tmp_path / "struck"), signal_name="SIGKILL")
    assert run_to_end(case, store, run, strike) == RETRY, run.with_suffix(".log").read_text()
    kinds = {e["kind"] for e in events(run, "retry")}
    assert "DataWorkerLost" in kinds
    assert kinds <= {"DataWorkerLost", "RankLost"}
    log = run.with_suffix(".log").read_text()
    assert "Traceback" not in log
    assert "a data worker was lost" in log
    run_until_done(case, store, run)
    assert outcome(run) == outcome(whole)


def test_infinite_gradients_are_dropped_with_their_window_and_their_modules_named(store, tmp_path) -> None:
    run = goes_on_exactly(
        CASE, store, tmp_path, fault("InfiniteGradient", steps=[2, 8]), kill_at("on_before_optimizer_step", 8)
    )
    told = events(run, "nonfinite_batch")
    assert {(e["step"], e["what"]) for e in told} == {(2, "gradient"), (8, "gradient")}
    assert all(e["modules"] for e in told)


def test_broken_weights_are_never_saved_the_run_goes_back_once_and_ends_as_if_nothing_had_been(
    store, whole, tmp_path
) -> None:
    run, done = tmp_path / "run", tmp_path / "struck"
    broken = fault("BreakWeight", step=4, done=str(done))
    assert run_to_end(CASE, store, run, broken) == RETRY, run.with_suffix(".log").read_text()
    assert done.exists()
    (rollback,) = json.loads((run / "rollbacks.json").read_text())
    assert (rollback["to_step"], rollback["leave_out"]) == (4, None)
    run_until_done(CASE, store, run)
    assert outcome(run) == whole


def test_weights_that_break_again_halt_the_run_for_good(store, tmp_path) -> None:
    run = tmp_path / "run"

    def struck(n: int) -> list[str]:
        return fault("BreakWeight", step=4, done=str(tmp_path / f"struck{n}"))

    assert run_to_end(CASE, store, run, struck(1)) == RETRY
    assert run_to_end(CASE, store, run, struck(2)) == HALTED
    marker = read_marker(RunFolder(run).marker)
    assert marker is not None
    assert marker.state is RunState.HALTED
    assert run_to_end(CASE, store, run) == HALTED  # no start of its own gets past it
    assert len(events(run, "halted")) == 1


def test_dead_gradients_are_shaken_by_the_same_noise_after_a_kill(store, whole, tmp_path) -> None:
    watch = "{pair_stack: {noise_below: 1.0e-6, halt_below: 1.0e-6, patience: 3, halt_total: 100}}"
    more = [*fault("SmallGradients", since=3, factor=1e-9), "--tripwire.watch", watch]
    run = goes_on_exactly(CASE, store, tmp_path, more, kill_at("on_train_batch_end", 7))
    assert events(run, "tripwire")[0]["step"] == 5
    assert outcome(run)["state_dict"] != whole["state_dict"]


def test_a_module_that_stays_dead_halts_the_run_at_the_same_step_after_a_kill(store, tmp_path) -> None:
    watch = "{pair_stack: {noise_below: 1.0e-6, halt_below: 1.0e-6, patience: 100, halt_total: 5}}"
    more = [*fault("SmallGradients", since=3, factor=1e-9), "--tripwire.watch", watch]
    steps = []
    for name, kill in (("straight", []), ("killed", kill_at("on_train_batch_end", 5))):
        run = tmp_path / name
        if kill:
            assert run_to_end(CASE, store, run, [*more, *kill]) < 0
        assert run_to_end(CASE, store, run, more) == HALTED
        (halted,) = events(run, "halted")
        assert "pair_stack" in halted["reason"]
        steps.append(halted["step"])
    # Steps 0 (its paths begin at 0, so that nothing comes back through them), 3, 4, 5 and 6.
    assert steps == [6, 6]


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGSTOP"])
def test_a_data_worker_that_is_killed_or_stopped_ends_the_run_in_order_and_it_goes_on_exactly(
    store, whole, tmp_path, signal_name
) -> None:
    run = tmp_path / "run"
    more = [
        *fault("StrikeWorker", step=4, done=str(tmp_path / "struck"), signal_name=signal_name),
        "--hang_watch.seconds", "6",
    ]  # fmt: skip
    assert run_to_end(WITH_WORKER, store, run, more) == RETRY, run.with_suffix(".log").read_text()
    assert (tmp_path / "struck").exists()
    log = run.with_suffix(".log").read_text()
    assert "Traceback" not in log
    assert ("to be started again" if signal_name == "SIGKILL" else "nothing has moved") in log
    if signal_name == "SIGKILL":
        (told,) = events(run, "retry")
        assert told["kind"] == "DataWorkerLost"
    else:
        assert "dataloader.py" in (run / "stacks-rank0.txt").read_text()
    run_until_done(WITH_WORKER, store, run)
    assert outcome(run) == whole


def test_a_process_that_hangs_says_where_and_ends_to_be_started_again(store, whole, tmp_path) -> None:
    run = tmp_path / "run"
    more = [*fault("Hang", step=5, done=str(tmp_path / "struck")), "--hang_watch.seconds", "5"]
    assert run_to_end(CASE, store, run, more) == RETRY
    (told,) = events(run, "hang")
    assert told["step"] == 5
    assert "in do" in (run / told["stacks"]).read_text()
    run_until_done(CASE, store, run)
    assert outcome(run) == whole


def test_a_process_that_is_stopped_for_longer_than_the_limit_just_goes_on(store, whole, tmp_path) -> None:
    run = tmp_path / "run"
    more = [
        *fault("StopMyself", step=5, done=str(tmp_path / "struck"), seconds=8), "--hang_watch.seconds", "5",
    ]  # fmt: skip
    assert run_to_end(CASE, store, run, more) == DONE
    assert (tmp_path / "struck").exists()
    assert events(run, "hang") == []
    assert outcome(run) == whole


def test_a_damaged_record_is_named_and_replaced_and_a_kill_changes_nothing(store, whole, tmp_path) -> None:
    damaged = Path(shutil.copytree(store, tmp_path / "store"))
    opened = ChainStore.open(damaged)
    # One that the training draws: 12 chains of the split are chosen by seed.
    chain = int(ChainDataset(opened, "train", limit=12).indices[3])
    name, wanted = opened.name(chain), opened.raw(chain).tobytes()
    (file,) = [f for f in damaged.iterdir() if wanted in f.read_bytes()]
    content = bytearray(file.read_bytes())
    content[content.index(wanted) + 40] ^= 0x10
    file.write_bytes(bytes(content))
    run = goes_on_exactly(WITH_WORKER, damaged, tmp_path, [], kill_at("on_train_batch_end", 7))
    told = events(run, "record_quarantined")
    assert {e["name"] for e in told} == {name}
    assert outcome(run)["state_dict"] != whole["state_dict"]


def test_an_exploding_loss_is_gone_back_from_and_what_led_to_it_left_out(store, tmp_path) -> None:
    """The loss explodes for good at step 14 of 24 unless steps from a checkpoint before it are left out."""
    case = Case(
        every_n_steps=1,
        more=(
            "--trainer.max_epochs", "4", "--ddim.every_n_epochs", "100", "--patience.patience", "50",
            "--spike.threshold", "8", "--spike.patience", "2", "--spike.window", "20", "--spike.warmup", "8",
            "--spike.rollbacks", "1", "--checkpoints.keep_last", "-1", "--ema.decay", "0",
            *fault("Explode", step=14),
        ),
    )  # fmt: skip
    run = tmp_path / "run"
    assert run_to_end(case, store, run) == RETRY, run.with_suffix(".log").read_text()
    (told,) = events(run, "rolled_back")
    first, last = told["leave_out"]
    assert first < 16 <= last
    assert told["to_step"] == first
    assert told["set_aside"]
    run_until_done(case, store, run)
    assert events(run, "done")
    assert os.path.getsize(run / "rollbacks.json") > 0
