"""The lineage v8 to v12b: what each version counts, and that it trains, samples and scores."""

from __future__ import annotations

import copy
import csv
import json
import runpy
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from minifold_pl.cli.lightning_cli import instantiate_model, resolve_config
from minifold_pl.cli.main import main
from minifold_pl.data.tokenizer import null_tokens
from minifold_pl.losses.objective import final_weights, weights_at
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.optim import CosineRestarts, build_optimizer, group_rates
from minifold_pl.types import Denoised

REDUCED = runpy.run_path(str(Path(__file__).with_name("reduced.py")))["reduced"]

VERSIONS = ("v8", "v9", "v10", "v11", "v11b", "v12", "v12b")
LATER = ("v13", "v14", "v15")
"""These have tests of their own; here they are held to what holds of every version."""
DISTANCE_BASED = ("v8", "v9", "v10")
MILLIONS = {
    "v10": (14.6, None), "v11": (8.4, None), "v11b": (8.4, None), "v12": (31.1, 29.9), "v12b": (31.1, 29.9),
}  # fmt: skip
"""Parameters, and those that are trained, as the write-up gives them; it gives none for v8 and v9."""


@pytest.fixture(scope="session")
def wide() -> dict[str, DiffusionModule]:
    """Every version at full width, without weights."""
    with torch.device("meta"):
        return {name: instantiate_model(name) for name in VERSIONS}


@pytest.mark.parametrize("name", MILLIONS)
def test_a_version_counts_the_published_parameters(name: str, wide) -> None:
    total, trained = MILLIONS[name]
    counts = [p.numel() / 1e6 for p in wide[name].parameters()]
    assert sum(counts) == pytest.approx(total, rel=0.02)
    if trained is not None:
        found = sum(p.numel() for p in wide[name].parameters() if p.requires_grad) / 1e6
        assert found == pytest.approx(trained, rel=0.02)


def test_v8_and_v9_are_one_model_and_v10_the_same_scaled_up(wide) -> None:
    shapes = [{n: p.shape for n, p in wide[name].named_parameters()} for name in DISTANCE_BASED]
    assert shapes[0] == shapes[1]
    assert shapes[0].keys() == shapes[2].keys()
    assert sum(s.numel() for s in shapes[2].values()) > 2 * sum(s.numel() for s in shapes[0].values())


def test_v11_and_v11b_and_v12_and_v12b_have_the_same_parameters(wide) -> None:
    """So that v11b begins with v11's weights, and v12b with v12's."""
    for before, after in (("v11", "v11b"), ("v12", "v12b")):
        a, b = ({n: p.shape for n, p in wide[name].named_parameters()} for name in (before, after))
        assert a == b


def test_each_version_weighs_its_losses_as_written_up(wide) -> None:
    # β(e) = min(5, 1 + 4 min(e/15, 1))
    ramp = [weights_at(wide["v10"].loss_weights, epoch)["bond"] for epoch in (3, 15, 40)]
    assert ramp == pytest.approx([1.8, 5.0, 5.0])
    weights = {name: final_weights(wide[name].loss_weights) for name in VERSIONS}
    terms = ("fape", "frame_rot", "dist", "bond", "clash", "aux")
    table = {name: tuple(weights[name][term] for term in terms) for name in VERSIONS}
    assert table["v9"] == (0.3, 0.0, 1.0, 5.0, 0.1, 0.0)
    assert table["v10"] == (0.3, 0.0, 1.0, 5.0, 0.0, 0.0)
    assert table["v11"] == (1.0, 0.0, 1.0, 3.0, 0.0, 0.03)
    assert table["v11b"] == table["v12"] == table["v12b"] == (1.0, 0.5, 1.0, 3.0, 0.0, 0.03)
    assert weights["v8"]["chirality"] == weights["v8"]["angle"] == 0
    assert all(weights[name]["chirality"] == 0.1 and weights[name]["angle"] == 0.5 for name in VERSIONS[1:])


@pytest.mark.parametrize("name", DISTANCE_BASED)
def test_the_first_versions_restart_a_cosine_to_0_every_15_epochs_as_torch_does(name: str, wide) -> None:
    """A setting that a config leaves out is taken from v13's schedule, not from the class: both had other values."""
    assert wide[name].schedule_config == CosineRestarts(interval="epoch", period_epochs=15, eta_min=0.0)


def test_v12b_trains_the_pair_stack_at_three_times_the_rate_and_v12_does_not(wide) -> None:
    rates = {
        name: group_rates(build_optimizer(wide[name], wide[name].optimizer_config))
        for name in ("v12", "v12b")
    }
    assert rates["v12"] == {"rest": 2e-5}
    assert rates["v12b"] == pytest.approx({"pair_stack": 6e-5, "rest": 2e-5})


def test_v12_clips_the_whole_gradient_and_v12b_each_module_and_watches_the_pair_stack() -> None:
    before, after = resolve_config("v12"), resolve_config("v12b")
    assert before["clipping"]["whole"] == 1.0
    assert set(before["clipping"]["max_norm"].values()) == {None}
    assert not before["tripwire"]["watch"]
    assert after["clipping"]["whole"] is None
    assert after["clipping"]["max_norm"] == {"denoiser": 1.0, "pair_stack": 0.5, "aux": 0.5}
    limits = after["tripwire"]["watch"]["pair_stack"]
    assert {k: limits[k] for k in ("noise_below", "patience", "noise_scale", "halt_below", "halt_total")} == {
        "noise_below": 0.01, "patience": 50, "noise_scale": 0.01, "halt_below": 0.001, "halt_total": 500,
    }  # fmt: skip


# --- at reduced width ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _narrow(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DiffusionModule]:
    """Each version, built once: reading a config takes longer than most tests."""

    @cache
    def build(name: str) -> DiffusionModule:
        path = tmp_path_factory.mktemp("reduced") / f"{name}_reduced.yaml"
        path.write_text(yaml.safe_dump(REDUCED(name)))
        module = instantiate_model(str(path))
        assert isinstance(module, DiffusionModule)
        return module

    return build


@pytest.fixture
def small(_narrow) -> Callable[[str], DiffusionModule]:
    """A version at reduced width, of its own."""
    return lambda name: copy.deepcopy(_narrow(name))


def _unreached(module: DiffusionModule, weights: Mapping[str, float]) -> list[str]:
    """Trained parameters that a self-conditioned step teaches nothing; of a frame update, what turns and what moves.

    The confidence head learns from samples alone, which tests/modules/test_confidence.py watches.
    """
    module.confidence_head = None
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                0.02 * torch.randn_like(parameter)
            )  # maps that start at 0 stop every gradient behind them
    batch = module.example_batch(2, 12)
    batch.coords.add_(torch.randn_like(batch.coords))
    draws = module._training_draws(batch, 0)
    tokens = batch.tokens.clone()
    tokens[1] = null_tokens(tokens)[1]  # one chain without its condition, which may have features of its own
    prediction, target = module.predict_structure(batch, tokens, module.target(batch), draws, True)
    terms = module.objective(prediction, target)
    torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
    return [
        name
        for full_name, parameter in module.named_parameters()
        # the same number for every key leaves a softmax as it is: its gradient is 0, or what rounding makes of it
        if parameter.requires_grad and not full_name.endswith("attention.pair_bias.bias")
        for name, gradient in _parts(full_name, parameter)
        if gradient is None or not gradient.any()
    ]


def _parts(name: str, parameter: Tensor) -> Iterator[tuple[str, Tensor | None]]:
    """The last map of a frame update in two: its first three rows are the rotation's."""
    if ".frame_update." in name and len(parameter) == 6 and parameter.grad is not None:
        yield f"{name} turn", parameter.grad[:3]
        yield f"{name} move", parameter.grad[3:]
    else:
        yield name, parameter.grad


@pytest.mark.parametrize("name", (*VERSIONS, *LATER))
def test_gradients_reach_everything_but_the_rotations_that_v11_discards(name: str, small) -> None:
    """v11's x0 and frames do not depend on what the last layer turns, whatever the loss.

    Every term weighs 1 here: a head is to be reached by its own loss also where a version lets that weigh nothing.
    """
    module = small(name)
    unreached = _unreached(module, dict.fromkeys(final_weights(module.loss_weights), 1.0))
    update = "denoiser.layers.2.frame_update.update"
    assert unreached == ([f"{update}.weight turn", f"{update}.bias turn"] if name == "v11" else [])


@pytest.mark.parametrize("name", (*VERSIONS, *LATER))
def test_at_a_versions_own_weights_only_heads_that_weigh_nothing_stay_untaught(name: str, small) -> None:
    module = small(name)
    unreached = _unreached(module, final_weights(module.loss_weights))
    tops = {n.split(".")[0] for n in unreached}
    assert tops == ({"aux"} if name in DISTANCE_BASED else {"denoiser"} if name == "v11" else set())


def test_the_distogram_of_v10_teaches_itself_and_nothing_else(small) -> None:
    module = small("v10")
    _, terms = module.losses(module.example_batch(2, 12))
    terms["aux"].backward()
    assert {n.split(".")[0] for n, p in module.named_parameters() if p.grad is not None} == {"aux"}
    assert terms["aux"].item() == pytest.approx(torch.tensor(96.0).log().item(), rel=0.1)


def test_the_clash_term_of_v9_penalises_nearly_every_pair_and_that_of_v10_not_one(small) -> None:
    """Three radii of gyration against 3 Å, on a truth without a clash."""
    found = {}
    for name in ("v9", "v10"):
        module = small(name)
        batch = module.example_batch(1, 40)
        target = module.target(batch)
        features = module.encode(batch.tokens)
        perfect = module.assemble(
            Denoised(target.x0, target.rotation),
            module.rg_head(features.pooled, batch.residue_mask),
            module.aux(
                features, batch.residue_mask, batch.residue_index, module.condition(batch, features).pair
            ),
        )
        found[name] = module.objective(perfect, target)["clash"].item()
    apart = torch.cdist(target.x0, target.x0)
    assert (apart < 3).float().mean() > 0.9
    assert found["v9"] > 1 and found["v10"] == 0


@pytest.mark.parametrize("name", (*VERSIONS, "v13", "v15"))
def test_a_version_fits_samples_and_evaluates(name: str, reduced_config, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = str(reduced_config(name))
    data = [
        "--data.path", "store", "--data.synthetic.n", "20", "--data.synthetic.folds", "5",
        "--data.synthetic.min_length", "24", "--data.synthetic.max_length", "32", "--data.batch_size", "4",
    ]  # fmt: skip
    assert main(["fit", "--config", config, *data, "--run.dir", "run", "--trainer.max_epochs", "1",
                 "--trainer.limit_train_batches", "3", "--trainer.accumulate_grad_batches", "1",
                 "--checkpoints.background", "false", "--model.init_args.sampler.steps", "2",
                 "--ddim.chains", "2"]) == 0  # fmt: skip
    best = "run/checkpoints/best.ckpt"
    with open("run/metrics.csv") as lines:
        rows = list(csv.DictReader(lines))
    values = {
        k: float(v) for row in rows for k, v in row.items() if v and k.startswith(("loss/", "val/", "ddim/"))
    }
    assert values.keys() >= {"loss/total", "val/total", "val/aux", "val/clash", "val/frame_rot", "ddim/rmsd"}
    assert all(torch.isfinite(torch.tensor(v)) for k, v in values.items() if not k.startswith("ddim/"))
    assert main(["sample", "--ckpt", best, "--sequence", "MKTAYIAKQRQISFVKSHFSRQ", "--out", "samples",
                 "--steps", "2"]) == 0  # fmt: skip
    assert list(Path("samples").glob("*.pdb"))
    assert main(["evaluate", "--ckpt", best, "--data", "store", "--split", "validation", "--out", "evaluation",
                 "--steps", "2"]) == 0  # fmt: skip
    assert json.loads(Path("evaluation/summary.json").read_text())
