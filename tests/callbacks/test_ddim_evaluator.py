"""What an evaluation measures, when it happens, and that training never notices it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

import gemmi
import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from minifold_pl.callbacks.checkpoints import BestCheckpoint, ResumeCheckpoint
from minifold_pl.callbacks.ddim_evaluator import DDIMEvaluator
from minifold_pl.callbacks.ddim_scores import choose_chains
from minifold_pl.callbacks.ema import EMA
from minifold_pl.callbacks.patience import Patience
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.run import stop

SMALL = {"every_n_epochs": 1, "chains": 3, "batch_size": 2, "samples": 1, "save": 2}


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "ddim.jsonl").read_text().splitlines()]


def cells(record: dict) -> dict[str, float]:
    return {
        f"{row}/{name}/{part}": cell[part]
        for row, cells in record["scores"].items()
        for name, cell in cells.items()
        for part in ("mean", "low", "high", "n")
    }


def means(record: dict) -> dict[str, float]:
    return {
        f"{row}/{name}": cell["mean"]
        for row, cells in record["scores"].items()
        for name, cell in cells.items()
    }


class RandomStates(pl.Callback):
    """Notes the global random states after every validation: training seeds torch's anew for every batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, bytes, int]] = []

    def on_validation_end(self, *_: object) -> None:
        state = torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()
        self.seen.append((*state, hash(random.getstate())))


@pytest.mark.parametrize(
    "setting", [{"every_n_epochs": -1}, {"chains": 0}, {"batch_size": 0}, {"samples": 0}]
)
def test_impossible_settings_are_refused_by_name(setting) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        DDIMEvaluator(**setting)


def test_a_model_that_cannot_sample_is_refused(tiny, make_trainer) -> None:
    with pytest.raises(ValueError, match="samples a DiffusionModule, not a Tiny"):
        make_trainer(DDIMEvaluator(every_n_epochs=1), max_epochs=1).fit(tiny)


@pytest.mark.parametrize("steps", [-1, 40])
def test_it_is_due_every_nth_epoch_and_in_the_last(steps) -> None:
    evaluator = DDIMEvaluator(every_n_epochs=3)

    def due(batch: int, fn: str = "fit", last: bool = True) -> bool:
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(is_last_batch=last)))
        trainer = SimpleNamespace(
            current_epoch=(batch - 1) // 5, max_epochs=8 if steps < 0 else -1, max_steps=steps, global_step=batch,
            state=SimpleNamespace(fn=fn), fit_loop=loop,
        )  # fmt: skip
        found = evaluator._due(trainer)
        if found:
            evaluator._history.append({"step": batch, "finished": trainer.current_epoch + last})
        return found

    assert [epoch for epoch in range(1, 9) if due(5 * epoch)] == [3, 6, 8]
    evaluator._history.clear()
    # Validations in the middle of epochs: the first one after three whole epochs.
    assert [batch for batch in range(2, 40, 2) if due(batch, last=batch % 5 == 0)] == [16, 30]
    assert not due(40, fn="validate")


def test_training_is_the_same_bit_for_bit_with_it_and_without(train_diffusion, tmp_path) -> None:
    found = []
    for evaluator in (DDIMEvaluator(), DDIMEvaluator(**{**SMALL, "samples": 2})):
        torch.manual_seed(3)
        states = RandomStates()
        module, trainer = train_diffusion(evaluator, states, EMA(decay=0.5))
        found.append((states.seen, module.state_dict(), trainer.callback_metrics))
    (states, weights, logged), (states_beside, weights_beside, logged_beside) = found
    assert states == states_beside
    assert all(torch.equal(value, weights_beside[name]) for name, value in weights.items())
    assert logged.keys() < logged_beside.keys()
    assert all(torch.equal(logged[name], logged_beside[name]) for name in logged)


def test_switched_off_it_writes_nothing_and_saves_nothing(train_diffusion, tmp_path) -> None:
    train_diffusion(DDIMEvaluator(), ResumeCheckpoint(), max_epochs=1)
    assert not {"ddim.jsonl", "samples"} & {path.name for path in tmp_path.iterdir()}
    saved = torch.load(next((tmp_path / "checkpoints").glob("*.ckpt")), weights_only=True)
    assert not any("DDIM" in name for name in saved["callbacks"])


def test_every_score_is_logged_beside_its_baselines_and_written_with_its_settings(
    train_diffusion, tmp_path, capsys
) -> None:
    _, trainer = train_diffusion(DDIMEvaluator(**{**SMALL, "samples": 2, "seed": 5}), max_epochs=1)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    times = (25, 75, 225, 475, 725, 975)
    scores = {
        "tm_score",
        "tm_kabsch",
        "rmsd",
        "gdt_ts",
        "gdt_ha",
        "lddt_ca",
        "rg_ratio",
        "ca_bond_share",
        "diversity",
    }
    assert {f"ddim/{name}" for name in scores} <= logged.keys()
    assert {f"ddim/x0_tm_t{t:03d}" for t in times} <= logged.keys()
    assert {f"baseline/wiener_smoother/x0_tm_t{t:03d}" for t in times} <= logged.keys()
    for row in ("other_chain", "centroid", "ideal_helix", "mirrored_truth", "truth"):
        assert f"baseline/{row}/tm_score" in logged
    assert logged["baseline/truth/tm_score"] == pytest.approx(1, abs=1e-4)
    assert logged["baseline/mirrored_truth/lddt_ca"] == pytest.approx(1, abs=1e-4)
    assert logged["baseline/mirrored_truth/tm_score"] < 0.6
    assert logged["ddim/diversity"] > 0.05  # two samples of a chain are two
    # The noise takes the fold away, whatever guesses it.
    assert logged["baseline/wiener_smoother/x0_tm_t025"] > 3 * logged["baseline/wiener_smoother/x0_tm_t975"]

    (record,) = records(tmp_path)
    settings = {
        "epoch": 1, "step": 2, "chains": 3, "samples": 2, "steps": 3, "eta": 0.0, "guidance": 1.0, "seed": 5,
        "weights": "raw",
    }  # fmt: skip
    assert settings.items() <= record.items()
    for name, cell in record["scores"]["model"].items():
        assert cell["n"] == 3
        assert cell["low"] <= cell["mean"] <= cell["high"]
        assert cell["mean"] in (
            logged.get(f"ddim/{name}"),
            pytest.approx(logged.get(f"ddim/{name}", cell["mean"])),
        )
    shown = capsys.readouterr().out
    assert "tm_score of 3 held-out chains: model 0." in shown
    assert "mirrored truth*" in shown
    assert "wiener smoother" in shown


def test_the_sequence_test_compares_the_real_sequence_with_wrong_ones(train_diffusion) -> None:
    _, trainer = train_diffusion(DDIMEvaluator(**SMALL), max_epochs=1)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for kind in ("shuffled", "mask"):
        gain = logged[f"val/sequence/{kind}"] - logged["val/sequence/real"]
        assert logged[f"val/sequence_gain/{kind}"] == pytest.approx(gain, rel=1e-3, abs=1e-5)
    assert not any("sequence" in name for name in logged if name.startswith("ddim/"))


def test_samples_are_structures_of_the_chosen_chains_in_their_folder(train_diffusion, tmp_path) -> None:
    train_diffusion(DDIMEvaluator(**SMALL), max_epochs=1)
    written = sorted((tmp_path / "samples" / "epoch-001").glob("*.pdb"))
    assert len(written) == 2
    for path in written:
        residues = list(gemmi.read_structure(str(path))[0][0])
        assert 24 <= len(residues) <= 32
        assert all(residue[0].name == "CA" for residue in residues)
        words = " ".join(path.read_text().replace("REMARK  99", "").split())
        assert "steps 3, eta 0.0, step_scale 1.0, guidance 1.0" in words


def test_records_titles_and_files_name_the_sampler_that_drew(train_diffusion, tmp_path, capsys) -> None:
    sampler = SamplerConfig(kind="heun", steps=2, sigma_max=4.0, churn=1.0)
    train_diffusion(
        DDIMEvaluator(**SMALL, sampler=sampler, one_step=False, sequence_test=False, searched=False),
        max_epochs=1,
    )
    (record,) = records(tmp_path)
    told = {"sampler": "heun", "steps": 2, "network_calls": 3, "sigma_max": 4.0, "churn": 1.0}
    assert told.items() <= record.items()
    assert "eta" not in record
    drawn = "Heun, 2 steps (3 network calls), σ 4 to 0.002, churn 1, guidance 1, seed 0"
    assert drawn in " ".join(capsys.readouterr().out.split())
    assert len(list((tmp_path / "samples" / "epoch-001").glob("*.pdb"))) == 2
    for path in (tmp_path / "samples" / "epoch-001").glob("*.pdb"):
        remark = " ".join(path.read_text().split("REMARK  99")).replace("\n", "")
        assert "sampler heun, steps 2" in remark
        assert "DDIM" not in remark.upper()


def test_a_sample_that_went_astray_is_told_and_training_goes_on(train_diffusion, tmp_path) -> None:
    # Two steps from σ = 80 with a network that has learned nothing: thousands of Å.
    sampler = SamplerConfig(kind="heun", steps=2)
    evaluator = DDIMEvaluator(**SMALL, sampler=sampler, one_step=False, sequence_test=False, searched=False)
    with pytest.warns(UserWarning, match="a sample cannot be written .* training goes on"):
        train_diffusion(evaluator)
    assert [record["epoch"] for record in records(tmp_path)] == [1, 2]


def test_it_samples_the_averaged_weights(train_diffusion, tmp_path, monkeypatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    plain = DiffusionModule.sample

    def spy(self, *args, **kwargs):
        seen.append({name: value.clone() for name, value in self.named_parameters()})
        assert not self.training
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(DiffusionModule, "sample", spy)
    module, _ = train_diffusion(DDIMEvaluator(**SMALL), EMA(decay=0.9, warmup=False), max_epochs=1)
    # After training the module holds the average; one epoch, so it is the one that was sampled.
    assert all(torch.equal(value, seen[-1][name]) for name, value in module.named_parameters())
    assert records(tmp_path)[0]["weights"] == "ema"


def test_the_same_weights_score_the_same_again_and_batches_do_not_matter(train_diffusion, tmp_path) -> None:
    # A learning rate of the warm-up's first step moves nothing that six digits show; so evaluate one state twice.
    first = DDIMEvaluator(**SMALL)
    _, trainer = train_diffusion(first, max_epochs=1)
    module = trainer.lightning_module
    module.eval()
    with torch.no_grad():
        found = []
        for size in (1, 3, 3):
            again = DDIMEvaluator(**{**SMALL, "batch_size": size})
            chains = trainer.datamodule.validation_chains
            chosen = choose_chains(chains, 3, 0)
            rows, _ = again._scores(trainer, module, chains, chosen, 0)
            found.append(rows)
    for row, cells in found[0].items():
        for name, value in cells.items():
            assert torch.equal(found[1][row][name].nan_to_num(), found[2][row][name].nan_to_num())
            torch.testing.assert_close(found[1][row][name], value, atol=2e-3, rtol=1e-3, equal_nan=True)


def test_it_drives_best_and_patience_in_the_validations_that_it_measured(
    train_diffusion, tmp_path, monkeypatch
) -> None:
    values = iter([0.3, 0.2])

    def evaluate(self, trainer, module):
        self._unfinished = {
            "epoch": trainer.current_epoch + 1, "step": trainer.global_step, "finished": trainer.current_epoch + 1
        }  # fmt: skip
        return {"ddim/tm_score": next(values)}

    monkeypatch.setattr(DDIMEvaluator, "_evaluate", evaluate)
    patience = Patience("ddim/tm_score", patience=2, mode="max")
    said: list[str] = []

    class Notes(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            said.append(patience.status)

    train_diffusion(
        DDIMEvaluator(every_n_epochs=2),
        patience,
        BestCheckpoint("ddim/tm_score", mode="max"),
        Notes(),
        max_epochs=4,
    )
    assert said == ["", "NEW BEST", "", "pat 1"]
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.parametrize(
    ("every", "monitor"), [(0, "ddim/tm_score"), (1, "ddim/tmscore"), (1, "val/sequence/other")]
)
def test_a_monitored_score_that_nothing_measures_is_named(train_diffusion, every, monitor) -> None:
    evaluator = DDIMEvaluator(**{**SMALL, "every_n_epochs": every})
    with pytest.raises(ValueError, match=f"{monitor} is monitored, but"):
        train_diffusion(evaluator, BestCheckpoint(monitor, mode="max"), max_epochs=1)


def test_a_stop_between_batches_leaves_and_the_validation_is_repeated_whole(
    train_diffusion, tmp_path, monkeypatch
) -> None:
    asked: list[str | None] = [None, "SIGTERM"]
    monkeypatch.setattr(stop, "requested", lambda: asked.pop(0) if asked else None)
    evaluator = DDIMEvaluator(**SMALL)
    with pytest.raises(stop.RunInterrupted, match="SIGTERM"):
        train_diffusion(evaluator, max_epochs=1)
    assert evaluator.state_dict() == {"history": [], "unwritten": []}
    assert not (tmp_path / "ddim.jsonl").exists()


def test_a_step_that_is_evaluated_again_replaces_its_row(train_diffusion, tmp_path) -> None:
    checkpoints = tmp_path / "checkpoints"
    train_diffusion(DDIMEvaluator(**SMALL), ResumeCheckpoint(), max_epochs=3)
    whole = records(tmp_path)
    assert [record["step"] for record in whole] == [2, 4, 6]
    with open(tmp_path / "ddim.jsonl", "a") as file:
        file.write('{"epoch": 4, "ste')  # what a kill in the middle of a write of another program leaves
    resumed = DDIMEvaluator(**SMALL)
    train_diffusion(
        resumed, ResumeCheckpoint(), max_epochs=3, ckpt_path=str(checkpoints / "resume-00000004.ckpt")
    )
    again = records(tmp_path)
    assert [record["step"] for record in again] == [2, 4, 6]
    assert means(again[-1]) == pytest.approx(means(whole[-1]))
    assert [past["step"] for past in resumed.state_dict()["history"]] == [2, 4, 6]


def test_an_evaluation_that_was_cut_off_after_its_row_was_written_is_done_again(
    train_diffusion, tmp_path
) -> None:
    class Kill(pl.Callback):
        def on_validation_batch_end(self, trainer, *_) -> None:
            if trainer.global_step == 4 and (tmp_path / "ddim.jsonl").read_text().count("\n") == 2:
                raise KeyboardInterrupt

    evaluator = DDIMEvaluator(**SMALL)
    with pytest.raises(SystemExit):
        train_diffusion(evaluator, Kill())
    assert [past["step"] for past in evaluator.state_dict()["history"]] == [2]
    assert [record["step"] for record in records(tmp_path)] == [2, 4]


def test_a_disk_that_takes_nothing_for_a_while_costs_the_samples_and_no_record(
    train_diffusion, tmp_path
) -> None:
    class Clear(pl.Callback):
        def on_train_epoch_start(self, trainer, *_) -> None:
            if trainer.current_epoch == 2:
                assert not (tmp_path / "ddim.jsonl").is_file()
                (tmp_path / "ddim.jsonl").rmdir()
                (tmp_path / "samples").unlink()

    (tmp_path / "ddim.jsonl").mkdir()
    (tmp_path / "samples").write_text("in the way")
    with pytest.warns(UserWarning, match="ddim.jsonl cannot be written"):
        train_diffusion(DDIMEvaluator(**SMALL), Clear(), max_epochs=3)
    assert [record["step"] for record in records(tmp_path)] == [2, 4, 6]
    assert [folder.name for folder in (tmp_path / "samples").iterdir()] == ["epoch-003"]


def test_records_that_were_not_written_when_a_run_ended_are_in_its_checkpoint(
    train_diffusion, tmp_path
) -> None:
    checkpoints = tmp_path / "checkpoints"
    (tmp_path / "ddim.jsonl").mkdir()
    with pytest.warns(UserWarning, match="ddim.jsonl cannot be written"):
        train_diffusion(DDIMEvaluator(**SMALL), ResumeCheckpoint(), max_epochs=2)
    (tmp_path / "ddim.jsonl").rmdir()
    last = str(checkpoints / "resume-00000004.ckpt")
    train_diffusion(DDIMEvaluator(**SMALL), ResumeCheckpoint(), max_epochs=3, ckpt_path=last)
    assert [record["step"] for record in records(tmp_path)] == [2, 4, 6]


@pytest.mark.slow
def test_two_processes_report_and_write_what_one_does(train_diffusion, tmp_path) -> None:
    found = []
    for devices, strategy in ((1, "auto"), (2, "ddp_spawn")):
        folder = tmp_path / str(devices)
        # The first steps of the warm-up move no weight by more than 1e-6.
        train_diffusion(
            DDIMEvaluator(**{**SMALL, "chains": 5, "samples": 2}),
            max_epochs=1, strategy=strategy, devices=devices, default_root_dir=folder,
        )  # fmt: skip
        found.append((records(folder), sorted(path.name for path in folder.glob("samples/*/*"))))
    (one, files), (two, files_of_two) = found
    assert len(one) == len(two) == 1
    assert files == files_of_two
    assert one[0]["chains"] == two[0]["chains"] == 5
    # Chains meet others in their batches, so that sums round differently.
    assert cells(two[0]) == pytest.approx(cells(one[0]), rel=1e-3, abs=2e-3)
