"""v12 → v12b → v13 → v14 at reduced width, each begun with the weights of the one before it."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import runpy
from pathlib import Path

import pytest
import torch
import yaml

from minifold_pl.cli.main import main
from minifold_pl.modules.load import load_module
from minifold_pl.run.events import read_events

REDUCED = runpy.run_path(str(Path(__file__).parents[1] / "configs" / "reduced.py"))["reduced"]
CHAIN = ("v12", "v12b", "v13", "v14")
FRESH = {"v12b": set(), "v13": {"pair_stack"}, "v14": {"denoiser.backbone_head"}}
"""What a version does not take from the one before it."""


@pytest.fixture(scope="module")
def lineage(tmp_path_factory, store: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Run folders and what was printed, of a short training of each version."""
    folder = tmp_path_factory.mktemp("lineage")
    runs, told = {}, {}
    before: Path | None = None
    for name in CHAIN:
        (folder / f"{name}_reduced.yaml").write_text(yaml.safe_dump(REDUCED(name)))
        runs[name] = folder / name
        arguments = [
            "--config", str(folder / f"{name}_reduced.yaml"), "--data.path", str(store), "--run.dir", str(runs[name]),
            "--data.batch_size", "4", "--data.limit_train", "8", "--data.limit_validation", "4",
            "--trainer.accumulate_grad_batches", "1", "--run.wandb", "disabled", "--ddim.every_n_epochs", "0",
            "--checkpoints.background", "false", "--trainer.max_epochs", "1",
        ]  # fmt: skip
        if before is not None:
            arguments += ["--model.init_args.init_from.ckpt", str(before)]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(["fit", *arguments]) == 0
        told[name] = printed.getvalue()
        before = runs[name] / "checkpoints" / "best.ckpt"
    return runs, told


def test_the_first_begins_at_random_and_says_nothing_of_an_origin(lineage) -> None:
    runs, told = lineage
    assert "initialised" not in told["v12"]
    assert not (runs["v12"] / "origin.json").exists()


@pytest.mark.parametrize("name", CHAIN[1:])
def test_a_version_takes_all_that_the_one_before_it_has_and_the_table_says_so(lineage, name: str) -> None:
    runs, told = lineage
    before = runs[CHAIN[CHAIN.index(name) - 1]] / "checkpoints" / "best.ckpt"
    assert f"initialised from {before} (averaged weights" in told[name]
    origin = json.loads((runs[name] / "origin.json").read_text())
    counts = origin["tensors"]
    assert (counts["shape"], counts["missing"], counts["unexpected"]) == (0, 0, 0)
    fresh = {module for module, fates in origin["modules"].items() if fates.keys() == {"fresh"}}
    assert fresh == FRESH[name]
    for module in ("encoder", "denoiser", "aux", "rg_head"):
        tensors = origin["modules"][module]["matched"]["tensors"]
        assert re.search(rf"^{module} +{tensors} \(", told[name], re.MULTILINE)
    (event,) = (e for e in read_events(runs[name] / "events.jsonl") if e["event"] == "initialised")
    assert event["sha256"] == origin["sha256"]


@pytest.mark.parametrize("name", CHAIN[1:])
def test_training_begins_with_those_weights_a_fresh_optimizer_and_step_1(lineage, name: str) -> None:
    runs, _ = lineage
    before = load_module(runs[CHAIN[CHAIN.index(name) - 1]] / "checkpoints" / "best.ckpt").state_dict()
    after = load_module(runs[name] / "checkpoints" / "best.ckpt").state_dict()
    moved = {
        n: (v - before[n]).abs().max() for n, v in after.items() if n in before and v.shape == before[n].shape
    }
    # Two steps of AdamW move a weight by twice the rate at most, besides its decay; a random one is elsewhere.
    assert max(d for n, d in moved.items() if not n.startswith("pair_stack.") or name != "v13") < 1e-3
    assert all(torch.equal(after[n], before[n]) for n in after if n.startswith("encoder.") and n in before)
    with (runs[name] / "metrics.csv").open() as lines:
        assert int(next(csv.DictReader(lines))["step"]) <= 2


def test_the_last_one_knows_all_its_ancestors(lineage, capsys) -> None:
    runs, _ = lineage
    assert main(["ckpt", "show", str(runs["v14"] / "checkpoints" / "best.ckpt"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["initialised"]
    ancestors = [told["ckpt"], *(entry["ckpt"] for entry in told["before"])]
    assert [Path(path).parents[1].name for path in ancestors] == ["v13", "v12b", "v12"]
    assert json.loads((runs["v14"] / "origin.json").read_text()) == told


def test_a_version_that_is_not_the_next_one_is_refused_with_the_first_differences(
    lineage, store, tmp_path, capsys
) -> None:
    """v14 asks for v13's pair stack; v12b has another one."""
    runs, _ = lineage
    path = tmp_path / "v14_reduced.yaml"
    path.write_text(yaml.safe_dump(REDUCED("v14")))
    arguments = ["--config", str(path), "--run.dir", str(tmp_path / "run"), "--run.wandb", "disabled"]
    other = str(runs["v12b"] / "checkpoints" / "best.ckpt")
    assert (
        main(["fit", *arguments, "--data.path", str(store), "--model.init_args.init_from.ckpt", other]) == 1
    )
    told = capsys.readouterr()
    assert "pair_stack was to match" in told.err
    assert "other shape" in told.out
