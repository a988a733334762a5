"""v14: what it counts, what it needs, and that the backbones it writes can exist."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from minifold_pl.callbacks.structure_files import write_structures
from minifold_pl.checkpoint.io import save
from minifold_pl.cli.generation import sequence_batch
from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.cli.main import main
from minifold_pl.constants import CA_ATOM
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store import write_store
from minifold_pl.geometry.backbone import backbone_from_torsions
from minifold_pl.losses.objective import final_weights, weighted_total
from minifold_pl.metrics.rmsd import rmsd
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.optim import build_optimizer, group_rates
from minifold_pl.modules.structures import final_structures, predicted_atoms
from minifold_pl.types import ProteinBatch

SEQUENCE = "MKTAYIAKQRQISFPKSHFSRQPEERLG"


@pytest.fixture
def config(reduced_config: Callable[[str], Path]) -> str:
    return str(reduced_config("v14"))


@pytest.fixture
def untrained(config: str, tmp_path: Path) -> Path:
    """A checkpoint with fresh weights that samples in three steps."""
    torch.manual_seed(0)
    module = instantiate_model(config, ["--model.init_args.sampler.steps=3"])
    checkpoint = {"state_dict": module.state_dict(), "global_step": 0, "epoch": 0, "callbacks": {}}
    module.on_save_checkpoint(checkpoint)
    save(checkpoint, tmp_path / "untrained.ckpt")
    return tmp_path / "untrained.ckpt"


@pytest.fixture(scope="module")
def wide() -> DiffusionModule:
    """v14 at full width, without weights."""
    with torch.device("meta"):
        module = instantiate_model("v14")
    assert isinstance(module, DiffusionModule)
    return module


def test_at_full_width_it_counts_35_to_40_million_and_its_head_0_135(wide: DiffusionModule) -> None:
    assert 35e6 < sum(p.numel() for p in wide.parameters()) < 40e6
    assert sum(p.numel() for p in wide.denoiser.backbone_head.parameters()) == pytest.approx(
        0.135e6, rel=0.01
    )
    assert sum(p.numel() for p in wide.parameters()) == pytest.approx(35.2e6, rel=0.02)


def test_the_head_learns_at_five_times_the_rate_wherever_it_lies(wide: DiffusionModule) -> None:
    """``hasattr(model, "backbone_head")`` was false for a head in the denoiser, which got the plain rate."""
    module = copy.deepcopy(wide)
    rates = group_rates(build_optimizer(module, module.optimizer_config))
    assert rates == pytest.approx({"pair_stack": 6e-5, "aux": 4e-5, "backbone_head": 1e-4, "rest": 2e-5})
    module.backbone_head = module.denoiser.backbone_head  # the same head, at the top
    del module.denoiser.backbone_head
    rates = group_rates(build_optimizer(module, module.optimizer_config))
    assert rates["backbone_head"] == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "options", [["--num-samples", "2"], ["--guidance", "1.5", "--eta", "0.5"], ["--backbone"]]
)
def test_a_sample_of_an_untrained_model_has_ideal_bonds_angles_and_planes(
    options: list[str], untrained: Path, tmp_path: Path, assert_sound_peptides
) -> None:
    """Its Cα trace is a cloud: what is written is the nearest chain that can exist, and says how far that is."""
    out = tmp_path / "out"
    arguments = [
        "--ckpt",
        str(untrained),
        "--sequence",
        SEQUENCE,
        "--out",
        str(out),
        "--format",
        "both",
        *options,
    ]
    assert main(["sample", *arguments]) == 0
    files = [*out.glob("*.pdb"), *out.glob("*.cif")]
    assert files
    assert {assert_sound_peptides(path) for path in files} == {len(SEQUENCE)}
    told = json.loads((out / "manifest.json").read_text())
    assert "closed" in told["atoms"]
    assert all(sample["ca_moved"] > 3 for sample in told["chains"][0]["samples"])
    text = next(out.glob("*.pdb")).read_text()
    assert "PREDICTED BACKBONE" in text
    assert "this moved CA by" in text
    assert "RECONSTRUCTED" not in text


def test_it_trains_and_all_it_writes_on_the_way_has_sound_peptides(
    config: str, tmp_path: Path, monkeypatch, assert_sound_peptides, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    data = [
        "--data.path", "store", "--data.synthetic.n", "20", "--data.synthetic.folds", "5",
        "--data.synthetic.min_length", "24", "--data.synthetic.max_length", "32", "--data.batch_size", "4",
        "--model.init_args.sampler.steps", "2",
    ]  # fmt: skip
    assert main(["fit", "--config", config, *data, "--run.dir", "run", "--trainer.max_epochs", "1",
                 "--trainer.limit_train_batches", "2", "--trainer.accumulate_grad_batches", "1",
                 "--checkpoints.background", "false", "--ddim.chains", "3",
                 "--ddim.every_n_epochs", "1"]) == 0  # fmt: skip
    with open("run/metrics.csv") as lines:
        rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(lines)]
    logged = {k: float(v) for row in rows for k, v in row.items() if k[:4] in ("loss", "val/", "val_")}
    for term in ("bb_fape", "bb_bond", "bb_angle", "omega", "phi_psi"):
        assert np.isfinite(logged[f"loss/{term}"])
        assert logged[f"loss_weighted/{term}"] == pytest.approx(
            (0.1 if term == "phi_psi" else 0.2) * logged[f"loss/{term}"], rel=1e-5
        )
        assert f"val/{term}" in logged
    saved = list(Path("run/samples").rglob("*.pdb"))
    assert len(saved) == 3
    best = "run/checkpoints/best.ckpt"
    assert main(["predict", "--config", config, *data, "--run.dir", "run", "--ckpt_path", best]) == 0
    predicted = list(Path("run/samples/predict").glob("*.pdb"))
    assert predicted
    assert all(assert_sound_peptides(path) > 20 for path in [*saved, *predicted])

    capsys.readouterr()
    assert main(["evaluate", "--ckpt", best, "--data", "store", "--split", "validation", "--out", "evaluation",
                 "--num-samples", "2"]) == 0  # fmt: skip
    told = json.loads(Path("evaluation/summary.json").read_text())
    model, truth = told["rows"]["model"], told["rows"]["truth"]
    assert {"backbone_rmsd", "phi_psi_error", "share_alpha", "ca_moved"} <= model.keys()
    assert "ca_moved" not in truth
    assert 30 < model["phi_psi_error"]["mean"] < 130
    assert truth["share_alpha"]["mean"] + truth["share_beta"]["mean"] > 0.8
    # the Cα trace of a chain of ideal geometry has its Cα 3.8 Å apart, whatever was predicted
    assert model["ca_bond_share"]["mean"] > 0.9
    found = told["ramachandran"]
    assert found["shares"]["truth"].keys() == found["shares"]["model"].keys()
    assert 1 >= found["jensen_shannon_distance"] > found["jensen_shannon_distance_of_as_many_true_pairs"] > 0
    assert found["pairs"]["model"] == 2 * found["pairs"]["truth"]
    shown = capsys.readouterr().out
    assert "phi_psi_error" in shown
    assert "Jensen–Shannon" in shown


def test_a_store_of_calpha_traces_is_refused_and_in_a_mixed_one_they_are_left_out(
    config: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    draw = np.random.default_rng(0)

    def record(name: str, split: str, whole: bool) -> ChainRecord:
        coords = np.cumsum(draw.normal(size=(24, 4, 3)), 0).astype(np.float32)
        coords[:, :, 0] += 3.8 * np.arange(24, dtype=np.float32)[:, None]
        if not whole:
            coords[:, [k for k in range(4) if k != CA_ATOM]] = np.nan
        return ChainRecord(name=name, sequence="A" * 24, coords=coords, split=split)

    splits = ("train", "train", "validation", "validation")
    write_store(tmp_path / "traces", [record(f"t{k}", split, False) for k, split in enumerate(splits)])
    arguments = [
        "--config",
        config,
        "--run.dir",
        "run",
        "--trainer.max_steps",
        "1",
        "--ddim.every_n_epochs",
        "0",
    ]
    assert main(["fit", *arguments, "--data.path", "traces"]) != 0
    told = capsys.readouterr().err
    assert "N, Cα and C" in told
    assert "only Cα coordinates" in told
    mixed = [record(f"w{k}", split, True) for k, split in enumerate(splits)]
    mixed += [record(f"t{k}", split, False) for k, split in enumerate(splits)]
    write_store(tmp_path / "mixed", mixed)
    assert main(["fit", *arguments, "--data.path", "mixed", "--run.dir", "run2"]) == 0
    said = capsys.readouterr()
    assert "only Cα coordinates" in said.out + said.err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"denoiser": {"init_args": {"backbone_head": None}}}, "backbone_weights"),
        ({"scale": "rg"}, "fixed scale"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change: dict, told: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"base": "v14_small.yaml", "model": {"init_args": change}}))
    with pytest.raises(Exception, match=told):
        instantiate_model(str(path))


@pytest.mark.slow
def test_a_sample_of_an_overfitted_model_is_near_its_chain_and_has_sound_peptides(
    config: str, tmp_path: Path, assert_sound_peptides
) -> None:
    """300 steps on one chain of 20 residues, a minute: Cα within 4 Å (before training 6 Å), closed by less than 2 Å.

    Raw, the bonds between residues are not sound (C–N 2.0 ± 0.5 Å): the negative control of the closing.
    """
    torch.manual_seed(0)
    module = instantiate_model(config, [
        "--model.init_args.scaled_start=true", "--model.init_args.p_uncond=0", "--model.init_args.noise_draws=8",
        "--model.init_args.sampler.steps=20", "--model.init_args.loss_weights.frame_rot=0.1",
    ])  # fmt: skip
    assert isinstance(module, DiffusionModule)
    turns = torch.rand(2, 1, 20) - 1.5
    coords = backbone_from_torsions(turns[0], turns[1])[0]
    batch = sequence_batch(["one"], [SEQUENCE[:20]])
    batch.coords[0, :20] = coords
    batch.atom_mask[0, :20] = True
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / 20, 1, max(0.02, (300 - k) / 120))
    )
    weights = final_weights(module.loss_weights)
    before = _rmsd(module, batch)
    for step in range(300):
        draws = module._training_draws(batch, step)
        found = module.predict_structure(batch, batch.tokens, module.target(batch), draws, step % 4 == 0)
        optimizer.zero_grad()
        weighted_total(module.objective(*found), weights).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 3.0)
        optimizer.step()
        schedule.step()
    assert _rmsd(module, batch) < 4 < before
    sampled = module.eval().sample(batch, seed=0, keys=batch.names)
    atoms = predicted_atoms(sampled)
    assert atoms is not None
    peptide = (atoms[0, 1:20, 0] - atoms[0, :19, 2]).norm(dim=-1)
    assert ((peptide - 1.329).abs() > 0.05).any()
    (chain,) = final_structures(sampled, batch)
    assert chain.ca_moved is not None
    assert chain.ca_moved < 2
    (path,) = write_structures(tmp_path / "written", batch, [chain], set())
    assert assert_sound_peptides(path) == 20


def _rmsd(module: DiffusionModule, batch: ProteinBatch) -> float:
    """Of the Cα that are written."""
    (chain,) = final_structures(module.eval().sample(batch, seed=0, keys=batch.names), batch)
    module.train()
    return rmsd(chain.ca[None], batch.ca[:, :20], batch.ca_mask[:, :20]).item()
