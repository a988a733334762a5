"""What has to hold before a run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from minifold_pl.run.begin import DATA_CONTENT, ChangesRefused, already_done, begin, kept_precision, pin_facts
from minifold_pl.run.code_version import CodeVersion
from minifold_pl.run.events import append_event, read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RunHalted
from minifold_pl.run.lease import acquire
from minifold_pl.run.marker import Marker, RunState, write_marker

CODE = CodeVersion(package="0.1.0", commit="a" * 40, changed="", python="3.11", libraries={"torch": "2.13"})


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    store = tmp_path / "store"
    store.mkdir()
    (store / "store.json").write_text('{"files": 1}')
    return {
        "model": {"init_args": {"p_uncond": 0.1}},
        "data": {"path": str(store), "num_workers": 2},
        "trainer": {"max_epochs": 60},
    }


class Run:
    """A run folder that is started again and again."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.told: list[str] = []

    def start(self, config: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
        """Start once; returns its events."""
        before = len(list(read_events(self.folder.events)))
        self.told.clear()
        with acquire(self.folder):
            begin(
                self.folder, config, **{"trained": True, "code": CODE, "told": self.told.append, **settings}
            )
        return list(read_events(self.folder.events))[before:]


@pytest.fixture
def run(folder: RunFolder) -> Run:
    return Run(folder)


def _changed(config: dict[str, Any], section: str, name: str, value: object) -> dict[str, Any]:
    changed = deepcopy(config)
    changed[section].setdefault("init_args", {}) if section == "model" else None
    (changed[section]["init_args"] if section == "model" else changed[section])[name] = value
    return changed


def test_a_first_start_freezes_the_config_and_names_code_and_data(run: Run, config) -> None:
    (event,) = run.start(config, trained=False)
    assert event["event"] == "settings"
    assert event["attempt"] == 1
    assert event["code"]["commit"] == "a" * 40
    assert event["data"] == hashlib.sha256(b'{"files": 1}').hexdigest()
    assert yaml.safe_load(run.folder.config.read_text()) == config
    assert json.loads(run.folder.identity.read_text())["fingerprint"] == event["fingerprint"]
    assert run.told == []


def test_the_same_settings_say_nothing_and_write_nothing(run: Run, config) -> None:
    run.start(config)
    before = [(p.stat().st_mtime_ns, p.stat().st_ino) for p in (run.folder.config, run.folder.identity)]
    assert [event["event"] for event in run.start(config)] == ["settings"]
    assert [
        (p.stat().st_mtime_ns, p.stat().st_ino) for p in (run.folder.config, run.folder.identity)
    ] == before
    assert run.told == []


def test_harmless_changes_are_shown_recorded_and_taken_over(run: Run, config) -> None:
    run.start(config)
    longer = _changed(config, "trainer", "max_epochs", 90)
    noted, _ = run.start(longer)
    assert (noted["event"], noted["part_of_the_run"]) == ("config_changed", False)
    assert noted["changes"] == [{"name": "trainer.max_epochs", "before": 60, "after": 90}]
    assert run.told == ["changed since the last start:\n  trainer.max_epochs: 60 → 90"]
    assert yaml.safe_load(run.folder.config.read_text())["trainer"]["max_epochs"] == 90


def test_a_change_of_the_run_is_refused_by_name_and_leaves_everything(run: Run, config) -> None:
    run.start(config)
    before = {p: p.read_bytes() for p in (run.folder.config, run.folder.identity, run.folder.events)}
    other = _changed(_changed(config, "model", "p_uncond", 0.3), "trainer", "max_epochs", 90)
    with pytest.raises(ChangesRefused, match=r"p_uncond: 0\.1 → 0\.3") as refused:
        run.start(other)
    assert "--accept-changes" in refused.value.reason
    assert "max_epochs" not in refused.value.reason
    assert refused.value.exit_code == 2
    assert {p: p.read_bytes() for p in before} == before


def test_an_accepted_change_is_recorded_and_is_then_the_runs_own(run: Run, config) -> None:
    first = run.start(config)[-1]["fingerprint"]
    other = _changed(config, "model", "p_uncond", 0.3)
    noted, settings = run.start(other, accept_changes=True)
    assert noted["part_of_the_run"]
    assert noted["changes"] == [{"name": "model.init_args.p_uncond", "before": 0.1, "after": 0.3}]
    assert settings["fingerprint"] != first
    assert [event["event"] for event in run.start(other)] == ["settings"]
    with pytest.raises(ChangesRefused):
        run.start(config)


def test_before_the_first_checkpoint_every_setting_may_change(run: Run, config) -> None:
    run.start(config)
    noted, _ = run.start(_changed(config, "model", "p_uncond", 0.3), trained=False)
    assert noted["event"] == "config_changed"


def test_a_store_may_move_but_not_change(run: Run, config, tmp_path: Path) -> None:
    run.start(config)
    moved = tmp_path / "scratch"
    (tmp_path / "store").rename(moved)
    there = _changed(config, "data", "path", str(moved))
    assert [event["event"] for event in run.start(there)] == ["settings"]
    (moved / "store.json").write_text('{"files": 2}')
    with pytest.raises(ChangesRefused, match=DATA_CONTENT):
        run.start(there)
    run.start(there, accept_changes=True)


def test_other_code_is_shown_and_recorded_but_not_refused(run: Run, config) -> None:
    run.start(config)
    newer = replace(CODE, commit="b" * 40, changed="1234567890")
    noted, _ = run.start(config, code=newer)
    assert noted["event"] == "code_changed"
    assert (noted["before"]["commit"], noted["after"]["commit"]) == ("a" * 40, "b" * 40)
    assert len(run.told) == 1
    assert "aaaaaaaaaa, " in run.told[0]
    assert "bbbbbbbbbb with changes 1234567890" in run.told[0]
    assert [event["event"] for event in run.start(config, code=newer)] == ["settings"]


def test_another_number_of_processes_is_another_run(run: Run, config) -> None:
    run.start(config)
    pin_facts(run.folder, {"processes": 4, "precision": "bf16-mixed"}, trained=False)
    run.start(config)
    pin_facts(run.folder, {"processes": 4, "precision": "bf16-mixed"}, trained=True)
    with pytest.raises(ChangesRefused, match="processes: 4 → 8"):
        pin_facts(run.folder, {"processes": 8, "precision": "bf16-mixed"}, trained=True)
    pin_facts(run.folder, {"processes": 8, "precision": "bf16-mixed"}, trained=True, accept_changes=True)
    pin_facts(run.folder, {"processes": 8, "precision": "bf16-mixed"}, trained=True)


def test_a_run_with_checkpoints_keeps_its_precision(run: Run, config) -> None:
    run.start(config)
    pin_facts(run.folder, {"precision": "bf16-mixed"}, trained=False)
    assert kept_precision(run.folder) is None  # nothing is trained: another machine may choose
    run.folder.checkpoints.mkdir()
    (run.folder.checkpoints / "resume-00000004.ckpt").touch()
    assert kept_precision(run.folder) == "bf16-mixed"
    explicit = _changed(config, "trainer", "precision", "64-true")
    run.start(explicit, accept_changes=True)
    assert kept_precision(run.folder) == "64-true"


def test_a_run_begun_before_precisions_were_written_down_goes_on(run: Run, config) -> None:
    """Its config leaves the precision open; what it was trained in is pinned as a fact."""
    run.start(_changed(config, "trainer", "precision", None))
    pin_facts(run.folder, {"precision": "32-true"}, trained=True)
    run.start(_changed(config, "trainer", "precision", "32-true"))
    with pytest.raises(ChangesRefused, match=r"trainer\.precision"):
        run.start(_changed(config, "trainer", "precision", "bf16-mixed"))


def test_a_halted_run_goes_on_only_when_that_very_halt_is_named(run: Run, config) -> None:
    run.start(config)
    with acquire(run.folder):
        write_marker(run.folder.marker, Marker(state=RunState.HALTED, reason="five NaN steps", step=12))
    with pytest.raises(RunHalted, match=r"halted at step 12: five NaN steps\n.*--run\.after_halt 2"):
        run.start(config)
    with pytest.raises(RunHalted):
        run.start(config, after_halt=1)
    noted, _ = run.start(config, after_halt=2)
    assert (noted["event"], noted["halted_in"], noted["reason"]) == ("after_halt", 2, "five NaN steps")
    with acquire(run.folder):
        write_marker(run.folder.marker, Marker(state=RunState.HALTED, reason="again", step=13))
    with pytest.raises(RunHalted, match="again"):
        run.start(config, after_halt=2)


@pytest.mark.parametrize("content", [None, "", "{", '{"state": "hal'])
def test_a_halted_run_whose_marker_is_lost_or_damaged_is_halted_all_the_same(
    run: Run, config, content: str | None
) -> None:
    run.start(config)
    with acquire(run.folder):
        append_event(run.folder.events, "halted", reason="five NaN steps", step=12)
    if content is not None:
        run.folder.marker.write_text(content)
    with pytest.raises(RunHalted, match=r"halted at step 12: five NaN steps\n.*--run\.after_halt 2"):
        run.start(config)
    noted, _ = run.start(config, after_halt=2)
    assert (noted["event"], noted["halted_in"]) == ("after_halt", 2)


def test_a_run_is_done_until_it_is_asked_for_more(run: Run, config) -> None:
    run.start(config)
    assert already_done(run.folder, config) is None
    write_marker(run.folder.marker, Marker(state=RunState.DONE, reason="finished", step=9))
    marker = already_done(run.folder, config)
    assert marker is not None
    assert marker.step == 9
    assert already_done(run.folder, _changed(config, "data", "num_workers", 0)) is not None
    assert already_done(run.folder, _changed(config, "trainer", "max_epochs", 90)) is None
    assert already_done(run.folder, _changed(config, "model", "p_uncond", 0.3)) is None


DAMAGED = {
    "missing": None,
    "not UTF-8": b"model: \xff\xfe\n",
    "a zero byte": b"model: \x00\n",
    "no YAML": b"{",
    "an impossible date": b"model: 2024-99-99\n",
    "no mapping": b"- 1\n",
    "empty": b"",
    "cut": b"model:\n  init_args:\n    p_uncond: 0.1\ndata:\n  path: /st",
    "another": b"model:\n  init_args:\n    p_uncond: 0.3\n",
}


@pytest.fixture(params=DAMAGED.values(), ids=DAMAGED)
def damage(request: pytest.FixtureRequest, run: Run) -> Callable[[], None]:
    def harm() -> None:
        run.folder.config.unlink()
        if request.param is not None:
            run.folder.config.write_bytes(request.param)

    return harm


@pytest.mark.parametrize("identity", ["kept", "damaged"])
def test_a_lost_config_is_written_anew_where_the_fingerprint_is_the_same(
    run: Run, config, damage: Callable[[], None], identity: str
) -> None:
    run.start(config)
    damage()
    if identity == "damaged":
        run.folder.identity.write_bytes(b"\xff")
    assert "settings" in [event["event"] for event in run.start(config)]
    line = next(line for line in run.told if "written anew" in line)
    assert str(run.folder.config) in line
    assert "are the same" in line
    assert yaml.safe_load(run.folder.config.read_text()) == config
    assert [event["event"] for event in run.start(config)] == ["settings"]
    assert run.told == []


@pytest.mark.parametrize("identity", ["kept", "damaged"])
def test_other_settings_are_refused_where_the_config_is_lost(
    run: Run, config, damage: Callable[[], None], identity: str
) -> None:
    first = run.start(config)[-1]["fingerprint"]
    damage()
    if identity == "damaged":
        run.folder.identity.unlink()
    before = {p: p.read_bytes() for p in run.folder.path.iterdir() if p.is_file()}
    other = _changed(config, "model", "p_uncond", 0.3)
    with pytest.raises(ChangesRefused, match="--accept-changes") as refused:
        run.start(other)
    assert f"{run.folder.config} is " in refused.value.reason
    assert f'"{first}" → ' in refused.value.reason
    assert {p: p.read_bytes() for p in run.folder.path.iterdir() if p.is_file()} == before
    noted = run.start(other, accept_changes=True)
    assert noted[0]["part_of_the_run"]
    assert noted[0]["changes"][0]["before"] == first
    assert any("the settings are others" in line for line in run.told)
    assert yaml.safe_load(run.folder.config.read_text()) == other
    assert [event["event"] for event in run.start(other)] == ["settings"]
    with pytest.raises(ChangesRefused, match=r"p_uncond: 0\.3 → 0\.1"):
        run.start(config)


def test_other_data_are_refused_where_the_config_is_lost(run: Run, config, tmp_path: Path) -> None:
    run.start(config)
    run.folder.config.unlink()
    (tmp_path / "store" / "store.json").write_text('{"files": 2}')
    with pytest.raises(ChangesRefused, match=DATA_CONTENT):
        run.start(config)
    assert not run.folder.config.exists()
    assert run.told == []


def test_a_fingerprint_of_other_code_is_no_reason_to_doubt_a_config(run: Run, config) -> None:
    """It may leave out other settings."""
    run.start(config)
    content = json.loads(run.folder.identity.read_text())
    run.folder.identity.write_text(json.dumps({**content, "fingerprint": "0" * 16}))
    with pytest.raises(ChangesRefused):
        run.start(config)
    newer = replace(CODE, commit="b" * 40)
    assert [event["event"] for event in run.start(config, code=newer)] == ["code_changed", "settings"]


def test_a_done_run_without_its_config_is_looked_at_again(run: Run, config) -> None:
    """Nobody can tell whether more is asked of it than before."""
    run.start(config)
    write_marker(run.folder.marker, Marker(state=RunState.DONE))
    assert already_done(run.folder, config) is not None
    run.folder.config.unlink()
    assert already_done(run.folder, _changed(config, "trainer", "max_epochs", 90)) is None


def test_a_folder_that_says_nothing_of_its_settings_is_gone_on_with_and_told_of(run: Run, config) -> None:
    run.start(config, trained=False)
    assert run.told == []
    for path in (run.folder.config, run.folder.identity, run.folder.events):
        path.unlink()
    run.start(config)
    assert ["nothing else says" in line for line in run.told] == [True]
