from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minifold_pl.cli import diagnose
from minifold_pl.cli.main import main


@pytest.fixture
def diagnosed(
    untrained: dict[str, Path], helix_store: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict]:
    """What a kind of diagnosis of a small checkpoint prints as JSON."""

    def run(kind: str, *extra: str, stage: str = "diffusion") -> dict[str, Any]:
        arguments = [
            kind,
            str(untrained[stage]),
            "--data",
            str(helix_store),
            "--split",
            "test",
            "--json",
            *extra,
        ]
        assert main(["diagnose", *arguments]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["command"] == f"diagnose {kind}"
        return told

    return run


@pytest.fixture
def shown(
    untrained: dict[str, Path], helix_store: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What it prints for people."""

    def run(kind: str, *extra: str, stage: str = "diffusion") -> str:
        arguments = [kind, str(untrained[stage]), "--data", str(helix_store), "--split", "test", *extra]
        assert main(["diagnose", *arguments]) == 0
        out = capsys.readouterr().out
        assert "…" not in out
        return out

    return run


def test_noise_stands_beside_its_floor_with_intervals(diagnosed: Callable[..., dict]) -> None:
    told = diagnosed("noise", "--times", "975,25", "--chains", "4", "--seed", "3")
    assert [level["t"] for level in told["levels"]] == [25, 975]
    for level in told["levels"]:
        assert set(level["rows"]) == {"model", "wiener smoother"}
        for row in level["rows"].values():
            assert row["tm_kabsch"]["n"] == 4
            assert row["tm_kabsch"]["low"] <= row["tm_kabsch"]["mean"] <= row["tm_kabsch"]["high"]
            assert row["loss"]["mean"] > 0
        difference = (
            level["rows"]["model"]["tm_kabsch"]["mean"]
            - level["rows"]["wiener smoother"]["tm_kabsch"]["mean"]
        )
        assert level["gain"]["mean"] == pytest.approx(difference, abs=1e-6)
    assert len(told["checkpoint"]["sha256"]) == 64
    assert told["settings"]["seed"] == 3
    assert told["data"]["chains"] == 4
    assert len(told["per_chain"]["names"]) == 4
    # An untrained model knows less than the smoother.
    assert "nowhere better than a smoother" in told["verdict"]


def test_every_kind_has_a_table_and_a_verdict(shown: Callable[..., str]) -> None:
    noise = shown("noise", "--chains", "3")
    assert "nowhere better than a smoother that knows no sequence" in noise
    assert all(f"\n {t} " in noise for t in diagnose.NOISE_TIMES)
    sequence = shown("sequence", "--chains", "3", "--times", "975")
    assert "another chain's" in sequence
    assert "sequence" in sequence.strip().splitlines()[-1]
    gradients = shown("gradients", "--chains", "2")
    assert "fape vs frame_rot" in gradients
    assert "Frozen, so without gradient: encoder." in " ".join(gradients.split())
    overfit = shown("overfit", "--steps", "1", "--seconds", "60")
    assert "to_mirror" in overfit
    assert "the loss went from" in overfit


def test_the_sequence_test_pairs_the_real_one_with_three_wrong_ones(diagnosed: Callable[..., dict]) -> None:
    told = diagnosed("sequence", "--chains", "4")
    assert told["times"] == [725, 850, 975]
    assert list(told["rows"]) == ["real", "shuffled", "MASK", "another chain's"]
    for row, gain in told["gains"].items():
        difference = told["rows"][row]["loss"]["mean"] - told["rows"]["real"]["loss"]["mean"]
        assert gain["mean"] == pytest.approx(difference, abs=1e-6)


def test_gradients_of_either_stage(diagnosed: Callable[..., dict]) -> None:
    second = diagnosed("gradients", "--chains", "2", "--times", "225")
    assert second["modules"] == ["pair_stack", "denoiser", "aux", "rg_head"]
    pairs = {tuple(pair["terms"]): pair for pair in second["cosines"]}
    assert ("fape", "frame_rot") in pairs
    for pair in pairs.values():
        assert all(-1 <= found["cosine"] <= 1 for found in pair["modules"].values())
    first = diagnosed("gradients", "--chains", "3", stage="contact")
    assert ["class", "architecture"] in [pair["terms"] for pair in first["cosines"]]
    assert "encoder.encoder" in first["modules"]


def test_overfitting_takes_a_checkpoint_or_the_fresh_weights_of_a_config(
    diagnosed: Callable[..., dict], helix_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = diagnosed("overfit", "--steps", "12", "--chains", "2", "--max-length", "40", stage="contact")
    assert [chain["length"] <= 40 for chain in told["chains"]] == [True, True]
    assert told["points"][-1]["step"] == 12
    assert told["points"][-1]["loss"] < told["points"][0]["loss"]
    config = ["--config", "contact_small.yaml", "--data", str(helix_store), "--steps", "1", "--json"]
    assert main(["diagnose", "overfit", *config]) == 0
    fresh = json.loads(capsys.readouterr().out)
    assert fresh["checkpoint"] is None
    assert fresh["config"] == "contact_small.yaml"
    assert fresh["data"]["split"] == "train"


@pytest.mark.parametrize(("stage", "lr"), [("contact", "1e12"), ("diffusion", "1e8")])
def test_a_learning_rate_far_too_high_is_what_the_verdict_says(
    diagnosed: Callable[..., dict], stage: str, lr: str
) -> None:
    told = diagnosed("overfit", "--steps", "3", "--lr", lr, stage=stage)
    assert "the loss is nan after 3 steps: lower the learning rate" in told["verdict"]
    assert told["points"][-1]["loss"] is None


@pytest.mark.parametrize("folder", ["nowhere", "sealed"])
def test_a_plot_that_cannot_be_written_is_told_before_the_work(
    folder: str,
    untrained: dict[str, Path],
    helix_store: Path,
    tmp_path: Path,
    told: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "sealed").mkdir()
    # Root may write everywhere.
    monkeypatch.setattr("os.access", lambda *_: False)
    arguments = [str(untrained["diffusion"]), "--data", str(helix_store), "--split", "test"]
    assert main(["diagnose", "noise", *arguments, "--plot", str(tmp_path / folder / "x.png")]) == 2
    message = told()
    assert f"--plot {tmp_path / folder / 'x.png'}" in message
    assert ("does not exist" if folder == "nowhere" else "cannot be written") in message
    assert not (tmp_path / "nowhere").exists()


def test_a_run_folder_gives_its_best_checkpoint_and_its_data(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "best.ckpt").write_bytes(untrained["contact"].read_bytes())
    (run / "config.yaml").write_text(f"data: {{path: {helix_store}}}\n")
    assert main(["diagnose", "gradients", str(run), "--split", "test", "--chains", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["path"] == str(helix_store)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["noise", "CONTACT", "--data", "STORE"], "is a contact checkpoint where a diffusion checkpoint is needed"),
        (["noise", "DIFFUSION"], "give a prepared data set with --data"),
        (["noise", "DIFFUSION", "--data", "nowhere"], "nowhere"),
        (["noise", "DIFFUSION", "--data", "STORE"], "no chain in split 'validation'"),
        (["noise", "DIFFUSION", "--data", "STORE", "--split", "test", "--times", "1000"], "from 1 to 999"),
        (["noise", "DIFFUSION", "--data", "STORE", "--split", "test", "--plot", "x.txt"], "ends in one of .png"),
        (["noise", "missing.ckpt", "--data", "STORE"], "missing.ckpt"),
        (["gradients", "EMPTY", "--data", "STORE"], "without checkpoints/best.ckpt"),
        (["gradients", "CONTACT", "--data", "STORE", "--split", "test", "--times", "5"], "has no timesteps"),
        (["overfit", "--data", "STORE"], "give either a CHECKPOINT or --config"),
        (["overfit", "CONTACT", "--set", "a=1", "--data", "STORE"], "--set changes a --config"),
        (["overfit", "CONTACT", "--seconds", "0", "--data", "STORE"], "seconds is 0"),
        (["sequence", "DIFFUSION", "--data", "STORE", "--split", "test", "--max-length", "3"], "max_length=3"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_mistakes_are_told_in_a_line(
    arguments: list[str],
    says: str,
    untrained: dict[str, Path],
    helix_store: Path,
    tmp_path: Path,
    told: Callable[[], str],
) -> None:
    places = {
        "CONTACT": untrained["contact"], "DIFFUSION": untrained["diffusion"], "STORE": helix_store, "EMPTY": tmp_path,
    }  # fmt: skip
    assert main(["diagnose", *(str(places.get(a, a)) for a in arguments)]) in (1, 2)
    assert says in told()


@pytest.mark.parametrize("wrong", [["--times", "a,b"], ["--chains", "0"], ["--seed", "-1"]])
def test_wrong_use_ends_with_code_2(wrong: list[str], untrained: dict[str, Path]) -> None:
    assert main(["diagnose", "noise", str(untrained["diffusion"]), *wrong]) == 2


@pytest.mark.parametrize("kind", ["noise", "sequence", "overfit", "gradients"])
def test_help_has_examples_that_parse(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    from minifold_pl.cli.main import build_parser

    assert main(["diagnose", kind, "--help"]) == 0
    shown = capsys.readouterr().out
    examples = [
        line.split() for line in shown.splitlines() if line.strip().startswith("minifold-pl diagnose")
    ]
    assert len(examples) == 2
    for _, *arguments in examples:
        assert build_parser().parse_args(arguments).diagnose_command == kind


def test_a_plot_is_drawn_where_there_is_matplotlib(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path, told: Callable[[], str]
) -> None:
    arguments = [
        "noise",
        str(untrained["diffusion"]),
        "--data",
        str(helix_store),
        "--split",
        "test",
        "--chains",
        "2",
    ]
    figure = tmp_path / "noise.svg"
    code = main(["diagnose", *arguments, "--plot", str(figure)])
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert code == 2
        assert "needs matplotlib" in told()
        assert not figure.exists()
    else:
        assert code == 0
        assert "<svg" in figure.read_text()
