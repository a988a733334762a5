"""W&B: one id for the life of a run folder, every step once, and nothing that it does can hurt the run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from minifold_pl.loggers import wandb_logger as room
from minifold_pl.loggers.metrics_csv import MetricsCSV
from minifold_pl.loggers.wandb_file import file_rows, file_steps, steps_on_disk
from minifold_pl.loggers.wandb_logger import WandbMirror, _has_key, wandb_logger
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder


@pytest.fixture(autouse=True)
def _no_account(monkeypatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


class Training:
    """Logs to the files and to a mirror as a trainer does."""

    def __init__(self, folder: RunFolder, mode: room.Mode = "offline") -> None:
        self.metrics = MetricsCSV(folder.metrics)
        mirror = wandb_logger(folder, mode, "p")
        assert mirror is not None
        self.mirror = mirror

    def log(self, *steps: int) -> None:
        for step in steps:
            for logger in (self.metrics, self.mirror):
                logger.log_metrics({"loss/total": float(step), "perf/x": 1.0, "epoch": step // 4}, step=step)
        self.metrics.save()

    def process(self) -> subprocess.Popen[bytes]:
        assert self.mirror._process is not None
        return self.mirror._process

    def end(self, status: str = "success") -> None:
        process = self.process()
        self.metrics.finalize(status)
        self.mirror.finalize(status)
        process.wait(60)

    def kill(self) -> None:
        """As a scheduler kills a job: the mirror and W&B's service with the trainer."""
        process = self.process()
        with suppress(ProcessLookupError):
            for child in _children(process.pid):
                os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def training(folder: RunFolder) -> Iterator[Callable[..., Training]]:
    started: list[Training] = []

    def start(mode: room.Mode = "offline") -> Training:
        folder.create()
        started.append(Training(folder, mode))
        return started[-1]

    yield start
    for one in started:
        if one.mirror._process is not None:
            one.kill()


def _children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(word) for word in listed.stdout.split()]


def _all_steps(folder: RunFolder) -> list[int]:
    """Of every offline run, one after the other, as ``wandb sync`` would send them."""
    files = sorted((folder.path / "wandb").glob("offline-run-*/*.wandb"))
    return [step for path in files for step in sorted(file_steps(path))]


def _until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_disabled_is_no_logger_and_leaves_no_folder(tmp_path: Path) -> None:
    assert wandb_logger(RunFolder(tmp_path), "disabled", "p") is None
    assert list(tmp_path.iterdir()) == []


def test_the_environment_wins(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_logger(RunFolder(tmp_path), "online", "p") is None


def test_two_starts_share_one_id_and_auto_is_offline_without_a_key(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(room, "_has_key", lambda: False)
    first, second = (wandb_logger(RunFolder(tmp_path), "auto", "p") for _ in range(2))
    assert isinstance(first, WandbMirror)
    assert isinstance(second, WandbMirror)
    assert first.version == second.version == (tmp_path / "wandb" / "run-id").read_text().strip()
    assert first.mode == "offline"


def test_a_key_is_found_in_the_environment_or_in_netrc_and_a_broken_netrc_is_none(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not _has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password abc")
    assert _has_key()
    (tmp_path / "netrc").write_text("machine")
    assert not _has_key()
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    assert _has_key()


def test_a_whole_training_comes_to_wandb_step_by_step(folder: RunFolder, training) -> None:
    one = training()
    one.log(0, 3, 7, 8)
    one.end()
    assert _all_steps(folder) == [0, 3, 7, 8]
    assert list((folder.path / "wandb").glob(f"offline-run-*/run-{one.mirror.version}.wandb"))


def test_the_last_row_of_a_training_that_will_go_on_is_not_sent_before_it_is_whole(folder, training) -> None:
    one = training()
    one.log(0, 1, 2)
    one.end("failed")
    assert _all_steps(folder) == [0, 1]
    two = training()
    two.metrics.resume_from(3, one.metrics.state_dict())
    two.log(3)
    two.end()
    assert _all_steps(folder) == [0, 1, 2, 3]


def test_after_kills_no_step_stands_twice_and_none_is_missing(folder: RunFolder, training) -> None:
    """W&B's service forgets what it has not written when it is killed; the next start makes it good."""
    one = training()
    one.log(0, 1, 2)
    _until(lambda: _children(one.process().pid))
    one.kill()
    two = training()
    two.metrics.resume_from(2)
    two.log(2, 3, 4)
    two.end("failed")
    three = training()
    three.metrics.resume_from(2)  # the checkpoint was older than what W&B has
    three.log(2, 3, 4, 5, 6)
    three.end()
    assert _all_steps(folder) == list(range(7))


def test_a_trainer_that_is_killed_takes_the_mirror_with_it(folder: RunFolder) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.loggers.test_wandb_logger import Training\n"
        "from minifold_pl.run.folder import RunFolder\n"
        "one = Training(RunFolder(Path(sys.argv[1])))\none.log(0, 1, 2)\n"
        "print(one.process().pid, flush=True)\ntime.sleep(60)\n"
    )
    folder.create()
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"},
    ) as trainer:  # fmt: skip
        assert trainer.stdout is not None
        mirror = int(trainer.stdout.readline())
        _until(lambda: list((folder.path / "wandb").glob("offline-run-*/*.wandb")))
        trainer.kill()
    _until(lambda: not Path(f"/proc/{mirror}").exists())
    assert _all_steps(folder) == [0, 1]


def test_an_unreachable_server_costs_the_run_nothing_and_is_told(
    folder: RunFolder, training, monkeypatch, capfd
) -> None:
    """Nobody listens there. wandb by itself waits for 90 s and raises."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("MINIFOLD_WANDB_TIMEOUT", "2")
    one = training("online")
    begun = time.monotonic()
    one.log(0, 1, 2)
    assert time.monotonic() - begun < 1.0
    one.end()
    assert _all_steps(folder) == [0, 1, 2]
    (event,) = read_events(folder.events)
    assert event["event"] == "wandb_offline"
    assert "connection refused" in event["reason"]
    assert "logged offline" in capfd.readouterr().err


def test_a_server_that_never_answers_does_not_hold_up_the_end(folder, training, monkeypatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        one = training("online")
        one.log(0, 1, 2)
        process = one.process()
        begun = time.monotonic()
        one.metrics.finalize("success")
        one.mirror.finalize("success")
        assert time.monotonic() - begun < room._PATIENCE + 1
        assert process.poll() is None
        for child in _children(process.pid):
            os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()


def test_a_stopped_or_killed_service_never_stops_the_training(folder, training, monkeypatch) -> None:
    monkeypatch.setattr(room, "_LOOK_EVERY", 0.0)
    one = training()
    one.log(0, 1)
    first = one.process().pid
    _until(lambda: _children(first))
    for service in _children(first):
        os.kill(service, signal.SIGSTOP)
    begun = time.monotonic()
    one.log(*range(2, 500))
    assert time.monotonic() - begun < 5.0
    one.kill()
    one.mirror.log_metrics({}, 500)
    assert one.process().pid != first
    one.log(500)
    one.end()
    assert _all_steps(folder) == list(range(501))


def test_a_mirror_that_dies_again_and_again_is_given_up(folder: RunFolder, training, monkeypatch) -> None:
    monkeypatch.setattr(room, "_LOOK_EVERY", 0.0)
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # Python cannot start
    one = training()
    one.log(0)
    for step in range(1, 400):
        if one.mirror._process is None:
            break
        time.sleep(0.02)
        one.log(step)
    assert one.mirror._process is None
    assert [event["event"] for event in read_events(folder.events)] == ["wandb_given_up"]
    one.log(500)
    one.mirror.finalize("success")


def test_a_run_can_be_brought_to_wandb_afterwards(folder: RunFolder, training) -> None:
    one = training()
    one.log(0, 1, 2)
    one.end("failed")
    one.log(3)
    command = [sys.executable, "-m", "minifold_pl.loggers.wandb_mirror", str(folder.path), "--once"]
    where = {**os.environ, "PYTHONPATH": str(Path(room.__file__).parents[2])}
    for _ in range(2):
        subprocess.run([*command, "--mode", "offline"], check=True, env=where, timeout=60)
        assert _all_steps(folder) == [0, 1, 2, 3]
    done = subprocess.run(
        [*command[:-2], str(folder.path.parent)], env=where, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no run with a W&B id" in done.stderr


def test_files_that_are_cut_or_none_of_wandbs_have_the_steps_that_are_whole(
    folder: RunFolder, training
) -> None:
    one = training()
    one.log(*range(400))
    one.end()
    (path,) = (folder.path / "wandb").glob("offline-run-*/*.wandb")
    whole = path.read_bytes()
    assert len(whole) > 2 * 32768
    assert file_steps(path) == set(range(400))
    for kept in (0, 3, 7, 100, 32768, 32770, 40_000):
        path.write_bytes(whole[:kept])
        found = file_steps(path)
        assert found == set(range(len(found)))
    assert steps_on_disk(folder.path / "wandb", one.mirror.version) == found
    path.write_bytes(b"nothing of the kind" * 10_000)
    assert file_steps(path) == set()


def _everything(folder: RunFolder) -> list[tuple[int, dict[str, object]]]:
    """Rows of every offline run, one after the other, as ``wandb sync`` would send them."""
    files = sorted((folder.path / "wandb").glob("offline-run-*/*.wandb"))
    return [row for path in files for row in file_rows(path)]


def test_after_a_kill_and_a_resume_every_value_stands_at_its_step_exactly_once(folder, training) -> None:
    one = training()
    one.log(0, 1, 2, 5)
    _until(lambda: _children(one.process().pid))
    one.kill()
    two = training()
    two.metrics.resume_from(2)
    two.log(2, 5, 7, 9)
    two.end()
    sent = _everything(folder)
    assert sorted(step for step, _ in sent) == [0, 1, 2, 5, 7, 9]
    for step, values in sent:
        numbers = {
            name: value for name, value in values.items() if not name.startswith(("figures/", "tables/"))
        }
        assert numbers == {"loss/total": float(step), "perf/x": 1.0, "epoch": step // 4}


def test_the_last_row_of_a_training_that_ended_well_has_figures_and_tables(folder, training) -> None:
    pytest.importorskip("matplotlib")
    folder.create()
    cell = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 8}
    record = {"epoch": 1, "step": 4, "chains": 8, "scores": {"model": {"tm_score": cell, "x0_tm_t025": cell}}}
    (folder.path / "ddim.jsonl").write_text(json.dumps(record) + "\n")
    one = training()
    one.log(3, 7, 11)
    one.end()
    *before, (step, last) = sorted(_everything(folder))
    assert step == 11
    assert {"figures/losses", "figures/one_step", "tables/epochs", "tables/scores"} <= {
        name.split(".")[0] for name in last
    }
    assert not any(name.startswith(("figures/", "tables/")) for _, values in before for name in values)
    (files,) = (folder.path / "wandb").glob("offline-run-*/files/media")
    table = json.loads(next(files.glob("table/**/epochs*.json")).read_text())
    assert table["columns"] == ["epoch", "step", "loss/total"]
    assert table["data"] == [[1, 4, 3.0], [2, 8, 7.0], [3, 12, 11.0]]
    assert len(list(files.glob("images/**/*.png"))) == 2
    assert "wandb_results_failed" not in [event["event"] for event in read_events(folder.events)]


def test_settings_data_and_code_come_to_wandb_and_the_files_as_an_artefact(folder, training) -> None:
    folder.create()
    folder.config.write_text("seed_everything: 7\n")
    folder.identity.write_text(json.dumps({"code": {"package": "1.2", "commit": "abc"}, "data": "d" * 64}))
    (folder.samples / "epoch-002").mkdir(parents=True)
    (folder.samples / "epoch-002" / "a.pdb").write_text("END\n")
    one = training()
    one.log(0, 1)
    one.end()
    (path,) = (folder.path / "wandb").glob("offline-run-*/*.wandb")
    held = path.read_bytes()
    for part in (
        b"seed_everything",
        b"code_version",
        b"data_digest",
        b"d" * 64,
        f"results-{one.mirror.version}".encode(),
    ):
        assert part in held, part
    staged = {
        item.name.split("-")[-1] for item in (folder.path / "wandb" / "data").rglob("*") if item.is_file()
    }
    assert staged, "the artefact's files wait beside the run"


def test_figures_that_cannot_be_made_cost_no_number(folder, training) -> None:
    folder.create()
    one = training()
    one.log(0, 1, 2)
    (folder.samples / "epoch-001").mkdir(parents=True)
    (folder.samples / "epoch-001" / "x.pdb").symlink_to("nowhere")
    one.end()
    assert _all_steps(folder) == [0, 1, 2]
    assert "wandb_results_failed" in [event["event"] for event in read_events(folder.events)]
