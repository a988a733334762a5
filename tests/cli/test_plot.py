import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from minifold_pl.cli.main import main
from minifold_pl.data.store import ChainStore
from minifold_pl.export.structure import PredictedChain, pdb_text
from minifold_pl.loggers.csv_table import CsvTable


@pytest.fixture
def run(tmp_path):
    """A run of one epoch, with an evaluation."""
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    table = CsvTable(folder / "metrics.csv")
    table.add(9, {"epoch": "0", "loss/total": "2.5", "loss/fape": "1.5", "grad/denoiser": "0.5"})
    table.add(9, {"val/total": "2.25", "val/fape": "nan", "lr/rest": "0.001"})
    table.flush()
    cell = {"mean": 0.4375, "low": 0.4, "high": 0.5, "n": 3}
    row = {"epoch": 1, "step": 10, "chains": 3, "scores": {"model": {"x0_tm_t025": cell}}}
    (folder / "ddim.jsonl").write_text(json.dumps(row) + "\n")
    return folder


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _numbers(path):
    return json.loads(path.read_text())


def test_losses_are_drawn_in_several_formats_and_their_numbers_are_those_of_the_file(run, out, capsys):
    assert (
        main(
            [
                "plot",
                "losses",
                str(run),
                "--out",
                "a.png",
                "--out",
                "a.svg",
                "--json",
                "a.json",
                "--dpi",
                "50",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.split() == ["a.png", "a.svg", "a.json"]
    assert (out / "a.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (out / "a.svg").read_text()
    (told,) = _numbers(out / "a.json")["runs"]
    assert told["best"] == {"value": 2.25, "epoch": 1.0, "step": 10}
    assert told["train"]["fape"]["value"] == [1.5] and told["val"]["fape"]["value"] == [None]


def test_the_default_file_is_named_after_the_figure(run, out):
    assert main(["plot", "xt", str(run), "--dpi", "50"]) == 0
    assert (out / "xt.png").is_file()


def test_one_step_scores_of_several_sources_have_their_names(run, out):
    noise = {"levels": [{"t": 75, "rows": {"model": {"tm_kabsch": {"mean": 0.25, "low": 0.2, "high": 0.3}}}}]}
    (out / "noise.json").write_text(json.dumps(noise))
    assert (
        main(["plot", "xt", str(run), "noise.json", "--json", "x.json", "--names", "a", "b", "--dpi", "50"])
        == 0
    )
    curves = _numbers(out / "x.json")["curves"]
    assert [(c["name"], c["t"], c["mean"]) for c in curves] == [("a", [25], [0.4375]), ("b", [75], [0.25])]


def test_gradients_take_the_cosines_of_diagnose(run, out):
    pairs = [
        {"terms": ["fape", "dist"], "modules": {"all shared": {"cosine": -0.5}, "denoiser": {"cosine": 1}}}
    ]
    (out / "cosines.json").write_text(
        json.dumps({"checkpoint": {"step": 3}, "data": {"chains": 2}, "cosines": pairs})
    )
    assert (
        main(["plot", "gradients", str(run), "--cosines", "cosines.json", "--json", "g.json", "--dpi", "50"])
        == 0
    )
    told = _numbers(out / "g.json")
    assert told["norms"]["denoiser"]["value"] == [0.5]
    assert told["cosines"] == {"terms": ["fape", "dist"], "matrix": [[1.0, -0.5], [-0.5, 1.0]]}


def test_contact_scores_are_those_of_evaluate(untrained, helix_store, out):
    model = str(untrained["contact"])
    args = ["--data", str(helix_store), "--split", "test"]
    assert main(["evaluate", "--ckpt", model, *args, "--out", "ev"]) == 0
    assert (
        main(
            ["plot", "contacts", model, *args, "--names", "h11.A", "h13.A", "--json", "c.json", "--dpi", "40"]
        )
        == 0
    )
    chains = _numbers(out / "c.json")["chains"]
    lines = [line.split(",") for line in (out / "ev" / "per_chain.csv").read_text().splitlines()]
    assert set(chains) == {"h11.A", "h13.A"}
    checked = 0
    for line in lines[1:]:
        for score, value in chains.get(line[0], {}).items():
            written = line[lines[0].index(score)]
            assert value == pytest.approx(float(written), rel=1e-5) if written else value is None
            checked += bool(written)
    assert checked > 6


def test_embeddings_of_either_stage_have_a_map_and_a_silhouette(untrained, helix_store, out):
    for stage in ("contact", "diffusion"):
        args = ["plot", "embedding", str(untrained[stage]), "--data", str(helix_store), "--split", "all"]
        assert main([*args, "--json", f"{stage}.json", "--dpi", "40"]) == 0
        told = _numbers(out / f"{stage}.json")
        assert told["data"]["chains"] == 16 and 0 < sum(told["explained"]) <= 1 + 1e-9
        assert told["silhouette"] == {"CATH class": None, "architecture": None}  # all helices: one label


def test_dihedrals_of_truth_and_samples_are_counted_at_the_same_places(untrained, helix_store, out):
    args = [
        "plot",
        "ramachandran",
        str(untrained["diffusion"]),
        "--data",
        str(helix_store),
        "--split",
        "test",
    ]
    assert main([*args, "--chains", "4", "--json", "r.json", "--dpi", "40"]) == 0
    truth, samples, one_step = _numbers(out / "r.json")["sets"]
    assert truth["shares"] == {"helix": 1.0, "strand": 0.0} and truth["distance"] is None
    assert truth["pairs"] == samples["pairs"] == one_step["pairs"] > 50
    assert 0.3 < samples["distance"] <= 1


def test_structures_are_matched_with_the_chains_of_the_store_and_scored(helix_store, out, run):
    store = ChainStore.open(helix_store)
    for epoch in (1, 2):
        folder = run / "samples" / f"epoch-{epoch:03d}"
        folder.mkdir(parents=True)
        for name in ("h0.A", "h1.A"):
            record = store[store.find(name)]
            ca = record.coords[:, 1] @ np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32) + epoch
            ca = ca + (epoch == 1) * np.random.default_rng(0).normal(size=ca.shape)
            chain = PredictedChain(
                name=name, sequence=record.sequence, coords=ca[:, None].astype(np.float32),
                confidence=np.zeros(len(ca), np.float32), title="", remarks=(),
            )  # fmt: skip
            (folder / f"{name}.pdb").write_text(pdb_text(chain))
    assert (
        main(["plot", "structure", str(run), "--data", str(helix_store), "--json", "s.json", "--dpi", "40"])
        == 0
    )
    told = _numbers(out / "s.json")["structures"]
    assert [one["name"] for one in told] == ["h0.A", "h1.A"] and {one["told"] for one in told} == {
        "after epoch 2"
    }
    assert all(one["tm_score"] == pytest.approx(1, abs=1e-3) for one in told)


@pytest.mark.parametrize(
    ("args", "code", "why"),
    [
        (["losses", "missing"], 1, "does not exist"),
        (["losses", "."], 1, "no folder of a run"),
        (["losses", "RUN", "RUN"], 2, "given twice"),
        (["losses", "RUN", "--names", "a", "b"], 2, "2 names for 1 paths"),
        (["losses", "RUN", "--out", "a.gif"], 2, "ends in one of .png"),
        (["losses", "RUN", "--out", "no/a.png"], 2, "does not exist"),
        (["losses", "RUN", "--json", "no/a.json"], 2, "does not exist"),
        (["gradients", "RUN", "--cosines", "RUN/ddim.jsonl"], 1, "diagnose gradients"),
        (["gradients", "RUN", "--cosines", "none"], 1, "cannot be read"),
        (["xt", "."], 1, "nothing was evaluated yet"),
        (["xt", "RUN", "--epoch", "3"], 1, "there are 1"),
        (["structure", "missing"], 2, "does not exist"),
        (["structure", "RUN/ddim.jsonl"], 2, "compared with"),
        (["structure", "RUN"], 2, "--data"),
        (["contacts", "RUN"], 2, "checkpoints/best.ckpt"),
    ],
)
def test_mistakes_are_told_in_a_line(args, code, why, run, out, told):
    assert main(["plot", *[arg.replace("RUN", str(run)) for arg in args]]) == code
    assert why in told()
    assert not list(out.glob("*.png"))


def test_named_chains_that_are_not_there_and_angles_that_are_not_predicted(untrained, helix_store, out, told):
    assert (
        main(["plot", "contacts", str(untrained["contact"]), "--data", str(helix_store), "--names", "zz"])
        == 2
    )
    assert "zz: not in" in told()
    phi = [
        "plot",
        "ramachandran",
        str(untrained["diffusion"]),
        "--data",
        str(helix_store),
        "--kind",
        "phi-psi",
    ]
    assert main(phi) == 2
    assert "no φ and ψ" in told()


def test_a_file_that_may_not_be_read_is_named_in_a_line(run, out, told):
    (run / "events.jsonl").mkdir()
    assert main(["plot", "losses", str(run)]) == 1
    assert "events.jsonl: Is a directory" in told()


def test_without_matplotlib_it_is_said_what_to_install(run, out, told, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    assert main(["plot", "losses", str(run)]) == 2
    assert "minifold-pl[plots]" in told()


def test_help_loads_neither_matplotlib_nor_torch():
    code = (
        "import sys; from minifold_pl.cli.main import build_parser; build_parser(); "
        "print([m for m in ('matplotlib', 'torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
