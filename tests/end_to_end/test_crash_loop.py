"""A run that meets the same end at every start is halted after a few, with the reason."""

from __future__ import annotations

from pathlib import Path

from minifold_pl.cli.main import main
from minifold_pl.modules.contact_classifier import ContactClassifierModule
from minifold_pl.run.events import read_events
from minifold_pl.run.exit_codes import DONE, FAILED, HALTED
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.marker import RunState, read_marker


def test_the_fourth_start_that_gets_nowhere_halts_and_a_person_lets_it_go_on(
    store: Path, training: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    folder = RunFolder(tmp_path / "run")
    command = [
        "fit", "--config", "contact_small.yaml", "--data.path", str(store), *training,
        "--run.dir", str(folder.path), "--trainer.max_epochs", "2",
    ]  # fmt: skip
    with monkeypatch.context() as broken:

        def fails(module: ContactClassifierModule, *args: object) -> None:
            # In the second epoch: the first is saved, and is progress.
            if module.current_epoch == 1:
                raise MemoryError("no room for this batch")

        broken.setattr(ContactClassifierModule, "on_train_batch_start", fails)
        codes = []
        for _ in range(6):
            try:
                codes.append(main(command))
            except MemoryError:
                # As it comes out of ``main``, a process ends with 1 and a traceback.
                codes.append(FAILED)
    # The first start gets to the first checkpoint; three from there get nowhere.
    assert codes == [FAILED] * 4 + [HALTED] * 2
    told = capsys.readouterr().err
    assert "3 starts from step 2 ended without a newer checkpoint" in told
    assert "MemoryError: no room for this batch" in told
    marker = read_marker(folder.marker)
    assert marker is not None
    assert marker.state is RunState.HALTED
    halted = [event for event in read_events(folder.events) if event["event"] == "halted"]
    assert len(halted) == 1
    # The cause is gone; still nobody but a person may say so.
    assert main(command) == HALTED
    told = capsys.readouterr().err
    assert f"--run.after_halt {marker.attempt}" in told
    assert main([*command, "--run.after_halt", str(marker.attempt)]) == DONE
    marker = read_marker(folder.marker)
    assert marker is not None
    assert marker.state is RunState.DONE
