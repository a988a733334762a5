"""The main job at small width: train both stages, go on, sample, score."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import gemmi
import pytest
import torch

from minifold_pl.cli.main import main
from minifold_pl.modules.load import load_module
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.lease import acquire
from minifold_pl.run.marker import RunState, read_marker


def _metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_folder_says_what_happened(diffusion_run: Path) -> None:
    marker = read_marker(diffusion_run / "state.json")
    assert marker is not None
    assert (marker.state, marker.epoch) == (RunState.DONE, 2)
    events = [e["event"] for e in read_events(diffusion_run / "events.jsonl")]
    assert [e for e in events if e in ("started", "failed", "done")] == ["started", "done"]
    assert {"best.ckpt", "best.ckpt.json"} <= {p.name for p in (diffusion_run / "checkpoints").iterdir()}
    assert len(list((diffusion_run / "samples" / "epoch-002").glob("*.pdb"))) == 2


def test_every_term_is_logged_raw_and_weighted_for_training_and_validation(diffusion_run: Path) -> None:
    columns = set(_metrics(diffusion_run)[0])
    costs = set((diffusion_run / "perf.csv").read_text().splitlines()[0].split(","))
    terms = {"fape", "frame_rot", "dist", "bond", "chirality", "angle", "rg", "aux", "clash"}
    for prefix in ("loss", "loss_weighted", "val", "val_weighted"):
        assert {f"{prefix}/{term}" for term in terms} <= columns
    assert {"lr/rest", "lr/pair_stack", "lr/aux"} <= columns
    assert {"grad/denoiser", "grad/pair_stack", "grad/aux", "grad/rest"} <= columns
    assert {"perf/steps_per_s", "perf/residues_per_s", "perf/padding_share"} <= costs
    assert {"ddim/tm_kabsch", "baseline/other_chain/tm_kabsch"} <= columns


def test_an_evaluation_while_training_records_its_settings_and_intervals(diffusion_run: Path) -> None:
    records = [json.loads(line) for line in (diffusion_run / "ddim.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records[:2]] == [1, 2]
    for record in records[:2]:
        assert (record["steps"], record["eta"], record["guidance"], record["chains"]) == (2, 0.0, 1.0, 3)
        assert record["scores"].keys() >= {
            "model",
            "other chain",
            "centroid",
            "ideal helix",
            "mirrored truth",
        }
        score = record["scores"]["model"]["tm_kabsch"]
        assert 0 < score["low"] <= score["mean"] <= score["high"] < 1
        assert score["n"] == 3
    # The same chains each time: what does not depend on the model is the same number.
    first, second = (record["scores"]["other chain"] for record in records[:2])
    assert first == second


def test_the_logged_total_is_the_sum_of_the_logged_weighted_terms(diffusion_run: Path) -> None:
    for prefix in ("loss", "val"):
        rows = [r for r in _metrics(diffusion_run) if r[f"{prefix}/total"]]
        assert rows
        for row in rows:
            parts = sum(float(v) for k, v in row.items() if k.startswith(f"{prefix}_weighted/") and v)
            assert parts == pytest.approx(float(row[f"{prefix}/total"]), rel=1e-4)


def test_stage_1_logs_precision_and_its_encoder_arrives_frozen_in_stage_2(
    contact_run: Path, diffusion_run: Path
) -> None:
    columns = set(_metrics(contact_run)[0])
    assert {f"val/precision_{r}_{t}" for r in ("long", "medium") for t in ("L", "L2", "L5")} <= columns
    contact = load_module(contact_run / "checkpoints" / "best.ckpt", "contact")
    diffusion = load_module(diffusion_run / "checkpoints" / "best.ckpt", "diffusion")
    assert contact.architecture_labels
    for name, value in contact.encoder.state_dict().items():
        assert torch.equal(value, diffusion.encoder.state_dict()[name]), name


def test_ema_and_raw_weights_differ_and_checkpoints_hold_both(diffusion_run: Path) -> None:
    # the first average is a copy; the second is one
    path = diffusion_run / "checkpoints" / "resume-00000002.ckpt"
    ema, raw = load_module(path).state_dict(), load_module(path, weights="raw").state_dict()
    assert any(not torch.equal(ema[name], raw[name]) for name in ema)


def test_fit_again_goes_on_and_no_step_stands_twice(diffusion_arguments, diffusion_run: Path, capsys) -> None:
    before = load_module(diffusion_run / "checkpoints" / "resume-00000002.ckpt", weights="raw").state_dict()
    assert main(["fit", *diffusion_arguments, "--trainer.max_epochs", "3"]) == 0
    assert "resuming" in capsys.readouterr().out
    steps = [int(r["step"]) for r in _metrics(diffusion_run)]
    assert len(steps) == len(set(steps))
    events = [e["event"] for e in read_events(diffusion_run / "events.jsonl")]
    assert [e for e in events if e in ("started", "resumed", "done")] == [
        "started",
        "done",
        "resumed",
        "done",
    ]
    marker = read_marker(diffusion_run / "state.json")
    assert marker is not None
    assert marker.step == 3
    after = load_module(diffusion_run / "checkpoints" / "resume-00000003.ckpt", weights="raw").state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_run_that_ends_within_an_epoch_ends_well_and_goes_on(store: Path, tmp_path: Path, capsys) -> None:
    """Early stopping must not ask for a validation that did not happen."""
    arguments = [
        "--config", "contact_small.yaml", "--data.path", str(store), "--run.dir", str(tmp_path / "run"),
        "--data.batch_size", "4", "--data.limit_train", "8", "--data.limit_validation", "4", "--run.wandb", "disabled",
    ]  # fmt: skip
    assert main(["fit", *arguments, "--trainer.max_steps", "1"]) == 0
    assert main(["fit", *arguments, "--trainer.max_steps", "3"]) == 0
    marker = read_marker(tmp_path / "run" / "state.json")
    assert marker is not None
    assert marker.step == 3


def test_other_settings_are_refused_by_name_and_fresh_takes_another_folder(
    diffusion_arguments, diffusion_run: Path, capsys
) -> None:
    arguments = [*diffusion_arguments, "--model.init_args.p_uncond", "0.3"]
    assert main(["fit", *arguments, "--trainer.max_epochs", "4"]) == 2
    assert "p_uncond" in capsys.readouterr().err
    assert main(["fit", *arguments, "--trainer.max_epochs", "1", "--fresh"]) == 0
    assert (diffusion_run.with_name("v13-2") / "checkpoints" / "best.ckpt").is_file()


def test_a_folder_in_use_is_refused(diffusion_arguments, diffusion_run: Path, capsys) -> None:
    with acquire(RunFolder(diffusion_run)):
        assert main(["fit", *diffusion_arguments, "--trainer.max_epochs", "9"]) == 73
    assert "is in use by process" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize("stage", ["contact", "diffusion"])
def test_the_other_commands_take_the_best_checkpoint(
    command: str, stage: str, store: Path, contact_run: Path, diffusion_run: Path
) -> None:
    run, config = (
        (contact_run, "contact_small.yaml") if stage == "contact" else (diffusion_run, "v13_small.yaml")
    )
    arguments = [
        "--config",
        config,
        "--data.path",
        str(store),
        "--run.dir",
        str(run),
        "--data.batch_size",
        "4",
    ]
    if stage == "diffusion":
        arguments += ["--model.init_args.sampler.steps", "2"]
    assert main([command, *arguments]) == 0
    if (command, stage) == ("predict", "diffusion"):
        assert list((run / "samples" / "predict").glob("*.pdb"))


def test_sample_writes_structures_that_gemmi_reads(diffusion_run: Path, tmp_path: Path) -> None:
    ckpt = diffusion_run / "checkpoints" / "best.ckpt"
    (tmp_path / "in.fasta").write_text(
        ">../../odd name\nACDEFGHIKLMNPQRSTVWYACDE\n>two\nGGGGSSSSAAAALLLLPPPPEEEE\n"
    )
    out = tmp_path / "out"
    arguments = ["--ckpt", str(ckpt), "--fasta", str(tmp_path / "in.fasta"), "--out", str(out)]
    assert main(["sample", *arguments, "--steps", "2", "--num-samples", "2", "--format", "both"]) == 0
    written = list(out.rglob("*.pdb"))
    assert len(written) >= 4
    assert all(out in p.parents for p in written)
    structure = gemmi.read_structure(str(written[0]))
    assert len(structure[0][0]) == 24
    assert {atom.name for residue in structure[0][0] for atom in residue} == {"CA"}
    assert json.loads((out / "manifest.json").read_text())


def test_evaluate_puts_baselines_beside_both_stages(
    store: Path, contact_run: Path, diffusion_run: Path, tmp_path: Path
) -> None:
    for run in (contact_run, diffusion_run):
        out = tmp_path / run.name
        arguments = [
            "--ckpt",
            str(run / "checkpoints" / "best.ckpt"),
            "--data",
            str(store),
            "--out",
            str(out),
        ]
        extra = ["--steps", "2"] if run is diffusion_run else []
        assert main(["evaluate", *arguments, "--split", "test", "--limit", "4", *extra]) == 0
        assert (out / "summary.json").is_file()
        assert (out / "per_chain.csv").is_file()
    text = (tmp_path / diffusion_run.name / "summary.json").read_text()
    assert "tm_kabsch" in text
    assert "centroid" in text


def test_ckpt_show_and_describe_answer(diffusion_run: Path, capsys) -> None:
    assert main(["ckpt", "show", str(diffusion_run / "checkpoints" / "best.ckpt"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["stage"] == "diffusion"
    assert main(["describe", "--config", "v13_small.yaml", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["total"] == sum(m["total"] for m in described["modules"].values())
    assert described["trainable"] < described["total"]


def test_the_other_stage_is_refused(contact_run: Path, tmp_path: Path, capsys) -> None:
    ckpt = contact_run / "checkpoints" / "best.ckpt"
    arguments = ["--ckpt", str(ckpt), "--sequence", "ACDEFGHIKL", "--out", str(tmp_path / "o")]
    assert main(["sample", *arguments]) == 1
    assert "diffusion checkpoint is needed" in capsys.readouterr().err
