"""The figures of an evaluation: every number that stands in one is that of ``summary.json``, and no model runs."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import gemmi
import numpy as np
import pytest

from minifold_pl.cli.main import main
from minifold_pl.data.store import write_store
from minifold_pl.data.synthetic import SyntheticConfig, generate

pytest.importorskip("matplotlib")


class Evaluated(NamedTuple):
    """The folder of an evaluation, its summary, and the data set."""

    folder: Path
    summary: dict[str, Any]
    store: Path


@pytest.fixture(scope="module")
def evaluated(untrained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Two samples of fifteen synthetic chains of five folds."""
    place = tmp_path_factory.mktemp("evaluated")
    write_store(place / "store", list(generate(SyntheticConfig(n=15, folds=5, min_length=30, max_length=50))))
    out = place / "evaluation"
    given = ["--ckpt", str(untrained["diffusion"]), "--data", str(place / "store"), "--split", "all"]
    assert (
        main(
            ["evaluate", *given, "--out", str(out), "--num-samples", "2", "--structures", "3", "--steps", "2"]
        )
        == 0
    )
    return Evaluated(out, json.loads((out / "summary.json").read_text()), place / "store")


def _texts(figure: str, source: Path, place: Path, *more: str) -> list[str]:
    """Every line of text in a figure."""
    out = place / f"{figure}.svg"
    assert main(["plot", figure, str(source), "--out", str(out), *more]) == 0
    found = re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", out.read_text())
    return [html.unescape(text).strip() for text in found]


def test_dihedrals_have_the_shares_and_distances_of_the_summary(evaluated: Evaluated, tmp_path: Path) -> None:
    texts = "\n".join(_texts("ramachandran", evaluated.folder, tmp_path))
    told = evaluated.summary["dihedrals"]["pseudo"]
    assert list(told) == ["truth", "DDIM samples", "one step from t = 75"]
    assert told["DDIM samples"]["pairs"] == 2 * told["truth"]["pairs"]
    for one in told.values():
        shares = ", ".join(f"{basin} {share:.1%}" for basin, share in one["shares"].items())
        assert f"n = {one['pairs']:,}, {shares}" in texts
    for name in ("DDIM samples", "one step from t = 75"):
        distance, drawn = (told[name][key] for key in told[name] if key.startswith("jensen"))
        assert f"JS distance {distance:.3f} (truth at this n: {drawn:.3f})" in texts


def test_a_number_that_is_changed_in_the_summary_is_changed_in_its_figure(
    evaluated: Evaluated, tmp_path: Path
) -> None:
    """A figure that counts for itself would not see it."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "figures.npz").write_bytes((evaluated.folder / "figures.npz").read_bytes())
    changed = json.loads(json.dumps(evaluated.summary))
    changed["dihedrals"]["pseudo"]["DDIM samples"]["jensen_shannon_distance"] = 0.123456
    changed["embedding"]["silhouette"]["CATH class"] = 0.654321
    name, one = next(iter(changed["contact_maps"].items()))
    one["scores"]["contact_precision"], one["counts"]["found"] = 0.24681, 98765
    changed["rows"]["model"]["x0_tm_t225"]["mean"] = 0.13579
    (copy / "summary.json").write_text(json.dumps(changed))
    assert any("JS distance 0.123" in text for text in _texts("ramachandran", copy, tmp_path))
    assert any("silhouette 0.654" in text for text in _texts("embedding", copy, tmp_path))
    contacts = _texts("contacts", copy, tmp_path, "--names", name)
    assert any("P 0.247" in text for text in contacts) and "found 98765" in contacts
    assert "0.136" in _texts("xt", copy, tmp_path)


def test_embeddings_have_the_silhouettes_of_the_summary(evaluated: Evaluated, tmp_path: Path) -> None:
    texts = _texts("embedding", evaluated.folder, tmp_path)
    told = evaluated.summary["embedding"]
    assert told["chains"] == 15
    assert -1 <= told["silhouette"]["CATH class"] <= 1
    for name, value in told["silhouette"].items():
        shown = "–" if value is None else f"{value:.3f}"
        assert f"PCA by {name}, silhouette {shown}" in texts
    assert f"PC 1 ({told['explained'][0]:.0%} of the variance)" in texts


def test_contact_maps_have_the_scores_and_counts_of_the_summary(evaluated: Evaluated, tmp_path: Path) -> None:
    texts = _texts("contacts", evaluated.folder, tmp_path)
    told = evaluated.summary["contact_maps"]
    assert len(told) == 3
    for one in told.values():
        assert any(f"P {one['scores']['contact_precision']:.3f}" in text for text in texts)
        assert all(f"{name} {count}" in texts for name, count in one["counts"].items())


def test_contact_maps_of_the_first_stage_have_the_scores_of_the_table_of_chains(
    untrained: dict[str, Path], evaluated: Evaluated, tmp_path: Path
) -> None:
    out = tmp_path / "contact"
    given = ["--ckpt", str(untrained["contact"]), "--data", str(evaluated.store), "--split", "all"]
    assert main(["evaluate", *given, "--out", str(out)]) == 0
    lines = [line.split(",") for line in (out / "per_chain.csv").read_text().splitlines()]
    by_name = {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[1:]}
    for name, one in json.loads((out / "summary.json").read_text())["contact_maps"].items():
        for score, value in one["scores"].items():
            written = by_name[name][score]
            assert value is None if written == "" else value == pytest.approx(float(written), rel=1e-5)


def test_one_step_scores_are_those_of_the_summary(evaluated: Evaluated, tmp_path: Path) -> None:
    texts = _texts("xt", evaluated.folder, tmp_path)
    model = evaluated.summary["rows"]["model"]
    shown = [f"{cell['mean']:.3f}" for name, cell in model.items() if name.startswith("x0_tm_t")]
    assert len(shown) == 6 and all(value in texts for value in shown)


def test_dihedrals_of_the_checkpoint_itself_are_those_of_its_evaluation(
    untrained: dict[str, Path], evaluated: Evaluated, tmp_path: Path
) -> None:
    """What `plot` measures and what `evaluate` writes come about in two ways."""
    numbers = tmp_path / "numbers.json"
    given = [
        "--data",
        str(evaluated.store),
        "--split",
        "all",
        "--chains",
        "15",
        "--steps",
        "2",
        "--dpi",
        "40",
    ]
    out = ["--out", str(tmp_path / "r.png"), "--json", str(numbers)]
    assert main(["plot", "ramachandran", str(untrained["diffusion"]), *given, *out]) == 0
    truth, _, one_step = json.loads(numbers.read_text())["sets"]
    told = evaluated.summary["dihedrals"]["pseudo"]
    assert truth["shares"] == told["truth"]["shares"]
    assert one_step["pairs"] == told["one step from t = 75"]["pairs"]
    assert one_step["distance"] == pytest.approx(
        told["one step from t = 75"]["jensen_shannon_distance"], abs=0.02
    )
    one_sample = json.loads((tmp_path / "numbers.json").read_text())["sets"][1]
    assert one_sample["pairs"] == told["DDIM samples"]["pairs"] // 2


def test_samples_lie_on_their_truths_with_the_scores_of_the_table(evaluated: Evaluated) -> None:
    told = evaluated.summary["structures"]
    names = {one["chain"] for one in told}
    assert len(told) == 6 and len(names) == 3
    lines = [line.split(",") for line in (evaluated.folder / "per_chain.csv").read_text().splitlines()]
    by_name = {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[1:]}
    lengths = sorted(int(row["length"]) for row in by_name.values())
    assert {int(by_name[name]["length"]) for name in names} >= {
        lengths[0],
        lengths[-1],
    }  # short and long ones
    for name in names:
        scores = [one["scores"] for one in told if one["chain"] == name]
        for score in ("tm_score", "rmsd", "lddt_ca"):
            mean = np.mean([one[score] for one in scores])
            assert mean == pytest.approx(float(by_name[name][score]), rel=1e-4)
    for one in told:
        model, truth = (_ca(evaluated.folder / one[key]) for key in ("file", "truth"))
        assert one["superposed"] and len(model) == len(truth) == int(by_name[one["chain"]]["length"])
        # As it lies there, without moving anything.
        distance = np.linalg.norm(model - truth, axis=-1)
        scale = max(1.24 * np.cbrt(len(truth) - 15) - 1.8, 0.5)
        assert (1 / (1 + (distance / scale) ** 2)).mean() == pytest.approx(
            one["scores"]["tm_score"], abs=2e-3
        )
    on_disk = {path.name for path in (evaluated.folder / "samples").iterdir()}
    assert on_disk == {Path(one["file"]).name for one in told}


def _ca(path: Path) -> np.ndarray:
    (chain,) = gemmi.read_structure(str(path))[0]
    return np.array([residue["CA"][0].pos.tolist() for residue in chain])


def test_structures_can_be_left_out_and_go_with_the_results_that_they_belong_to(
    untrained: dict[str, Path], evaluated: Evaluated, tmp_path: Path
) -> None:
    given = ["--ckpt", str(untrained["diffusion"]), "--data", str(evaluated.store), "--out", str(tmp_path)]
    more = ["--split", "all", "--limit", "3", "--steps", "2"]
    assert main(["evaluate", *given, *more, "--structures", "2"]) == 0
    assert len(list(tmp_path.glob("samples/*.pdb"))) == len(list(tmp_path.glob("truths/*.pdb"))) == 2
    (tmp_path / "samples" / "mine.pdb").write_text("")
    assert main(["evaluate", *given, *more, "--structures", "0", "--overwrite"]) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["structures"] == []
    assert [path.name for path in tmp_path.glob("*/*.pdb")] == ["mine.pdb"]
    assert main(["evaluate", *given[:-1], str(tmp_path / "n"), "--structures", "-1"]) == 2


def test_an_evaluation_without_arrays_is_told_in_a_line(evaluated: Evaluated, tmp_path: Path, told) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(evaluated.summary))
    for damage in (None, b"no zip"):
        if damage is not None:
            (tmp_path / "figures.npz").write_bytes(damage)
        assert main(["plot", "embedding", str(tmp_path), "--out", str(tmp_path / "e.png")]) == 1
        assert "figures.npz cannot be read" in told()
    older = {key: value for key, value in evaluated.summary.items() if key != "embedding"}
    (tmp_path / "summary.json").write_text(json.dumps(older))
    assert main(["plot", "embedding", str(tmp_path), "--out", str(tmp_path / "e.png")]) == 1
    assert "holds no embedding" in told()
    assert main(["plot", "ramachandran", str(evaluated.folder), "--kind", "phi-psi"]) == 1
    assert "Cα alone" in told()
