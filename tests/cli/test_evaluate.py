from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from minifold_pl.cli import evaluate_structures
from minifold_pl.cli.generation import sequence_batch
from minifold_pl.cli.main import main
from minifold_pl.modules.structures import SampledChain
from minifold_pl.report.results import read_evaluation


def _table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def _evaluate(untrained: dict[str, Path], store: Path, out: Path, stage: str, *extra: str) -> dict[str, Any]:
    arguments = ["--ckpt", str(untrained[stage]), "--data", str(store), "--out", str(out), *extra]
    assert main(["evaluate", *arguments]) == 0
    return json.loads((out / "summary.json").read_text())


def test_a_diffusion_checkpoint_is_scored_beside_every_baseline(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _evaluate(untrained, helix_store, tmp_path, "diffusion", "--eta", "0.3", "--seed", "2")
    rows = told["rows"]
    assert list(rows) == ["model", *evaluate_structures.BASELINES, "Wiener smoother"]
    assert {"tm_score", "tm_kabsch", "rmsd", "gdt_ts", "lddt_ca", "rg_ratio", "ca_bond_share"} <= rows[
        "model"
    ].keys()
    assert all(set(interval) == {"mean", "low", "high", "n"} for interval in rows["model"].values())
    smoother = rows.pop("Wiener smoother")
    assert all(by_score["tm_score"]["n"] == 6 for by_score in rows.values())
    settings = told["settings"]
    assert (settings["steps"], settings["eta"], settings["guidance"], settings["seed"]) == (2, 0.3, 1.0, 2)
    assert len(told["checkpoint"]["sha256"]) == 64
    # The truth is a helix, so three rows are known; the longest one has no other chain of its length.
    for row, least in (("truth", 0.999), ("ideal helix", 0.999), ("another random chain", 0.9)):
        assert rows[row]["tm_score"]["mean"] > least
        assert rows[row]["lddt_ca"]["mean"] > least
        assert rows[row]["ca_bond_share"]["mean"] > least
    assert rows["mirrored truth"]["lddt_ca"]["mean"] == pytest.approx(1, abs=1e-6)
    assert rows["mirrored truth"]["tm_score"]["mean"] < 0.6
    assert rows["centroid"]["rg_ratio"]["mean"] == pytest.approx(0, abs=1e-3)
    assert rows["truth"]["helix_content"]["mean"] > 0.8
    assert rows["truth"]["strand_content"]["mean"] == 0

    # One step from noise: the smoother samples nothing, and both see the same x_t.
    times = [f"x0_tm_t{t:03d}" for t in (25, 75, 225, 475, 725, 975)]
    assert list(smoother) == times
    assert set(times) < rows["model"].keys()
    assert times[0] not in rows["truth"]
    assert smoother[times[0]]["mean"] > 0.6 > 0.2 > smoother[times[-1]]["mean"]

    shown = capsys.readouterr().out
    assert told["sees_answer"] == ["mirrored truth", "truth"]
    for row in ("mirrored truth", "truth"):
        assert f"{row} (sees the answer)" in shown
    assert "ideal helix (sees" not in shown
    assert "n = 6 chains" in shown
    assert "steps 2" in shown
    assert "Wiener smoother" in shown
    assert "t = 975" in shown

    per_chain = _table(tmp_path / "per_chain.csv")
    assert [row["name"] for row in per_chain] == sorted(
        (row["name"] for row in per_chain),
        key=lambda n: int(next(r["length"] for r in per_chain if r["name"] == n)),
    )
    assert len(per_chain) == 6
    assert next(r for r in per_chain if r["name"] == "h13.A")["observed"] == str(20 + (13 * 7) % 41 - 1)
    mean = np.mean([float(row["tm_score"]) for row in per_chain])
    assert rows["model"]["tm_score"]["mean"] == pytest.approx(mean, abs=1e-5)
    other = _table(tmp_path / "per_chain_other_rows.csv")
    assert len(other) == 6 * (len(evaluate_structures.BASELINES) + 1)


def test_table_summary_and_figures_name_the_sampler_that_drew(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _evaluate(
        untrained,
        helix_store,
        tmp_path,
        "diffusion",
        "--sampler",
        "euler",
        "--step-scale",
        "1.5",
        "--limit",
        "3",
    )
    settings = told["settings"]
    assert (settings["sampler"], settings["steps"], settings["network_calls"]) == ("euler", 2, 2)
    assert settings["step_scale"] == 1.5
    assert "eta" not in settings
    assert "sampler euler, steps 2, network_calls 2" in " ".join(capsys.readouterr().out.split())
    sets = told["dihedrals"]["pseudo"]
    assert "Euler samples" in sets
    assert not any("DDIM" in name for name in sets)
    assert "Euler, 2 steps" in json.dumps(sets["Euler samples"], ensure_ascii=False)
    # The report's words for it, too.
    assert {"sampler euler", "network calls 2", "step scale 1.5"} <= set(read_evaluation(tmp_path).about)


def test_the_truth_drawn_scores_as_the_truth_and_its_mirror_as_the_mirror(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: Any, batch: Any, *__: Any, keys: Any, **___: Any) -> list[SampledChain]:
        side = [-1.0 if key.endswith("/1") else 1.0 for key in keys]
        chains = zip(side, batch.ca, batch.lengths.tolist(), strict=True)
        return [SampledChain(s * ca[:n, None], None) for s, ca, n in chains]

    monkeypatch.setattr(evaluate_structures, "draw", answer)
    rows = _evaluate(untrained, helix_store, tmp_path / "one", "diffusion")["rows"]
    assert rows["model"]["tm_score"] == pytest.approx(rows["truth"]["tm_score"], abs=1e-6)

    rows = _evaluate(untrained, helix_store, tmp_path / "two", "diffusion", "--num-samples", "2")["rows"]
    halfway = (rows["truth"]["tm_score"]["mean"] + rows["mirrored truth"]["tm_score"]["mean"]) / 2
    assert rows["model"]["tm_score"]["mean"] == pytest.approx(halfway, abs=2e-3)
    assert rows["model"]["agreement"]["mean"] == pytest.approx(1, abs=1e-5)
    assert rows["model"]["diversity"]["mean"] > 0.3
    assert "agreement" in rows["model, best of N by agreement"]


def test_another_random_chain_is_none_of_the_targets_own_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_from: list[int] = []

    def record(ca: torch.Tensor, mask: torch.Tensor, pool: list[torch.Tensor], _: Any) -> torch.Tensor:
        drawn_from.extend(int(trace[0, 0]) for trace in pool)
        return torch.zeros_like(ca)

    monkeypatch.setattr(evaluate_structures.baselines, "random_chain", record)
    store = SimpleNamespace(clusters=["own", "c1", "own", "c3"])
    pool = SimpleNamespace(store=store, indices=np.arange(4))
    batch = sequence_batch(["a"], ["ACDEF"])
    traces = [torch.full((9, 3), float(i)) for i in range(4)]
    evaluate_structures._other_chains(batch, pool, traces, [0], seed=0)  # type: ignore[arg-type]
    assert drawn_from == [1, 3]


def test_a_seed_gives_the_same_summary_again(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path
) -> None:
    first = _evaluate(untrained, helix_store, tmp_path / "a", "diffusion", "--limit", "3")
    again = _evaluate(untrained, helix_store, tmp_path / "b", "diffusion", "--limit", "3")
    other = _evaluate(untrained, helix_store, tmp_path / "c", "diffusion", "--limit", "3", "--seed", "5")
    assert first["rows"] == again["rows"]
    assert first["rows"]["model"] != other["rows"]["model"]
    assert first["data"]["chains"] == 3


def test_a_contact_checkpoint_is_scored_beside_separation_and_majority(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path
) -> None:
    told = _evaluate(untrained, helix_store, tmp_path, "contact", "--batch-size", "4")
    rows = told["rows"]
    assert list(rows) == ["model", "separation only", "majority class"]
    for name in ("long", "medium"):
        for top in ("L", "L2", "L5"):
            assert f"precision_{name}_{top}" in rows["model"]
    # Every chain is the same helix: contacts are a function of the separation, and of class 1 there is only one kind.
    assert rows["separation only"]["contact_recall"]["mean"] == pytest.approx(1)
    assert rows["separation only"]["precision_medium_L5"]["mean"] == pytest.approx(0)
    assert rows["majority class"]["class_accuracy"]["mean"] == 1
    assert rows["majority class"]["architecture_accuracy"]["mean"] == 1
    assert rows["model"]["class_accuracy"]["n"] == 6
    assert told["settings"]["baselines_from"] == "10 chains of the train split"
    assert len(_table(tmp_path / "per_chain.csv")) == 6


def test_long_chains_left_out_are_counted(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _evaluate(untrained, helix_store, tmp_path, "contact", "--split", "all", "--max-length", "40")[
        "data"
    ]
    assert told["chains"] + told["longer_chains_left_out"] == 16
    assert told["longer_chains_left_out"] > 0
    assert f"{told['longer_chains_left_out']} chains longer than 40 residues" in capsys.readouterr().out


def test_results_are_replaced_only_when_asked(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path, told: Callable[[], str]
) -> None:
    _evaluate(untrained, helix_store, tmp_path, "contact", "--limit", "2")
    arguments = ["--ckpt", str(untrained["contact"]), "--data", str(helix_store), "--out", str(tmp_path)]
    assert main(["evaluate", *arguments]) == 2
    assert "already holds summary.json" in told()
    assert main(["evaluate", *arguments, "--overwrite"]) == 0


def test_an_interrupted_evaluation_leaves_no_results_and_can_be_run_again(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    arguments = [
        "--ckpt",
        str(untrained["diffusion"]),
        "--data",
        str(helix_store),
        "--out",
        str(tmp_path / "o"),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(evaluate_structures, "draw", interrupted)
        assert main(["evaluate", *arguments]) == 130
    assert os.listdir(tmp_path / "o") == []
    assert main(["evaluate", *arguments, "--limit", "1"]) == 0


def test_more_steps_than_the_schedule_has_are_refused_before_the_work(
    untrained: dict[str, Path], helix_store: Path, tmp_path: Path, told: Callable[[], str]
) -> None:
    arguments = ["--ckpt", str(untrained["diffusion"]), "--data", str(helix_store), "--out", str(tmp_path)]
    assert main(["evaluate", *arguments, "--steps", "3000"]) == 2
    assert "steps is 3000; a schedule of 1000 timesteps allows 1 to 999" in told()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--split", "nonsense"], "'nonsense'"),
        (["--data", "no/store"], "no/store"),
        (["--max-length", "5"], "max_length=5"),
        (["--steps", "0"], "at least 1"),
    ],
)
def test_wrong_use_is_told(
    untrained: dict[str, Path],
    helix_store: Path,
    tmp_path: Path,
    told: Callable[[], str],
    extra: list[str],
    said: str,
) -> None:
    arguments = [
        "--ckpt",
        str(untrained["contact"]),
        "--data",
        str(helix_store),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(["evaluate", *arguments, *extra]) == 2
    assert said in told()
