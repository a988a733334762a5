import copy
from dataclasses import replace

import pytest
import torch

from minifold_pl.callbacks.module_clipping import ModuleClipping
from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.geometry.units import to_angstrom
from minifold_pl.metrics.lddt import lddt_ca_per_residue
from minifold_pl.modules.confidence import CONFIDENCE, evaluating, judge, some_chains
from minifold_pl.modules.load import load_module
from minifold_pl.modules.optim import OptimizerConfig, build_optimizer
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.nn.confidence import expected_lddt

HEAD = "confidence_head."
FEW = SamplerConfig(steps=2)


def with_confidence(config: str = "v13_small.yaml", *overrides: str, chains: int = 2):
    option = f"--model.init_args.confidence={{chains: {chains}, steps: 2, bins: 10, hidden: 16}}"
    alone = "--model.init_args.trunk_first=0"  # there is nothing to judge in those epochs
    return instantiate_model(config, [option, alone, *(f"--model.init_args.{o}" for o in overrides)])


@pytest.fixture(scope="module")
def _untouched_judge():
    torch.manual_seed(0)
    return with_confidence()


@pytest.fixture
def judging(_untouched_judge):
    return copy.deepcopy(_untouched_judge)


def silenced(module):
    """Without a trainer: what it would log is returned as it comes."""
    logged = {}

    def log(prefix, total, terms, weights, _):
        logged[f"{prefix}/total"] = total.detach()
        logged.update({f"{prefix}/{name}": (weights[name], term.detach()) for name, term in terms.items()})

    module.log_losses, module.log_dict = log, lambda values, **_: logged.update(values)
    return logged


def trained(module, batch, clip, steps=2):
    """Some steps of training, by the module's own methods."""
    silenced(module)
    module.train()
    clip.on_fit_start(None, module)
    optimizer = build_optimizer(module, OptimizerConfig(lr=1e-3))
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        module.training_step(batch, step).backward()
        clip.on_before_optimizer_step(None, module, optimizer)
        optimizer.step()


@pytest.mark.parametrize(
    ("config", "limits"), [("v13_small.yaml", {"whole": 0.1}), ("v15_small.yaml", {"rest": 0.01})]
)
def test_the_head_changes_nothing_that_the_model_learns_however_gradients_are_clipped(config, limits, batch):
    torch.manual_seed(0)
    without = instantiate_model(
        config, ["--model.init_args.confidence=null", "--model.init_args.trunk_first=0"]
    )
    after = torch.rand(())
    torch.manual_seed(0)
    beside = with_confidence(config)
    assert torch.equal(torch.rand(()), after)
    head = {name: x.clone() for name, x in beside.state_dict().items() if name.startswith(HEAD)}
    trained(without, batch, ModuleClipping({"denoiser": 0.5}, **limits))
    trained(beside, batch, ModuleClipping({"denoiser": 0.5}, **limits))
    found = beside.state_dict()
    for name, expected in without.state_dict().items():
        assert torch.equal(found.pop(name), expected), name
    assert found.keys() == head.keys() and not torch.equal(
        found[f"{HEAD}bins.bias"], head[f"{HEAD}bins.bias"]
    )


def test_everything_about_the_confidence_is_logged_and_the_score_is_without_it(judging, diffusion, batch):
    diffusion.load_state_dict(judging.state_dict(), strict=False)
    logged, plain = silenced(judging.train()), silenced(diffusion.train())
    torch.manual_seed(0)
    diffusion.training_step(batch, 0)
    torch.manual_seed(0)
    judging.training_step(batch, 0)
    weight, loss = logged["loss/confidence"]
    assert weight == judging.confidence.weight
    torch.testing.assert_close(logged["loss/total"], plain["loss/total"] + weight * loss)
    assert 0 <= judging.epoch_means.means()["loss/confidence_error"] <= 0.5
    for module in (judging, diffusion):
        with torch.no_grad():
            module.eval().validation_step(batch, 0)
        module.on_validation_epoch_end()
    assert logged["val/confidence"][1] == pytest.approx(torch.tensor(10.0).log().item(), abs=1e-4)
    assert logged["val/score"] == plain["val/score"] and "val/confidence_error" in logged
    again = silenced(judging)
    with torch.no_grad():
        judging.validation_step(batch, 0)
    assert again["val/confidence"] == logged["val/confidence"]


def test_no_gradient_of_the_confidence_leaves_the_head(judging, batch):
    judging.judged_samples(batch, "here").loss.mean().backward()
    reached = {name for name, p in judging.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in judging.named_parameters() if name.startswith(HEAD)}


def test_every_part_goes_back_to_its_own_mode(judging):
    judging.train()
    judging.denoiser.eval()
    before = [part.training for part in judging.modules()]
    with evaluating(judging):
        assert not any(part.training for part in judging.modules())
    assert [part.training for part in judging.modules()] == before


def test_the_head_learns_how_right_each_residue_of_samples_is(judging, batch):
    judging.eval()
    optimizer = torch.optim.Adam(judging.confidence_head.parameters(), 1e-2)
    losses, errors = [], []
    for _ in range(60):
        judged = judging.judged_samples(batch, "the same")
        losses.append(judged.loss.mean().item())
        errors.append(judged.error.mean().item())
        optimizer.zero_grad()
        judged.loss.mean().backward()
        optimizer.step()
    assert losses[0] == pytest.approx(torch.tensor(10.0).log().item(), abs=1e-4)
    assert losses[-1] < 0.6 * losses[0] and errors[-1] < 0.5 * errors[0]


def test_what_is_taught_is_the_lddt_of_the_very_sample(judging, batch):
    judged = judging.judged_samples(batch, "some")
    chains = some_chains(batch, 2, judging.seed, CONFIDENCE, "some")
    keys = [f"{CONFIDENCE}/some/{name}" for name in chains.names]
    sampled = judging.eval().sample(chains, replace(judging.sampler, steps=2), seed=judging.seed, keys=keys)
    lddt = lddt_ca_per_residue(sampled.x0, chains.ca, chains.ca_mask)
    for row in range(2):
        real = lddt[row][lddt[row].isfinite()]
        # An untrained head says 0.5 everywhere.
        assert judged.error.value[row].item() == pytest.approx((real - 0.5).abs().mean().item(), abs=1e-6)


def test_chains_that_are_judged_follow_from_key_and_names(make_batch):
    batch = make_batch([(f"chain {k}", 8) for k in range(12)])
    names = some_chains(batch, 3, 0, "x").names
    assert some_chains(batch, 3, 0, "x").names == names != some_chains(batch, 3, 0, "y").names
    turned = batch.chains(list(range(11, -1, -1)))
    assert set(some_chains(turned, 3, 0, "x").names) == set(names)
    picked = some_chains(batch, 3, 0, "x")
    for row, name in enumerate(picked.names):
        assert torch.equal(picked.ca[row], batch.ca[batch.names.index(name)])


@pytest.mark.parametrize("overrides", [(), ("snr_gated_frames=false", "scaled_start=true")])
def test_coordinates_are_the_same_whether_confidence_is_asked_for_or_not(batch, overrides):
    torch.manual_seed(0)
    judging = with_confidence("v13_small.yaml", *overrides).eval()
    plain = judging.sample(batch, FEW, seed=1, keys=batch.names, confidence=False)
    asked = judging.sample(batch, FEW, seed=1, keys=batch.names)
    assert plain.confidence is None and asked.confidence is not None
    assert torch.equal(plain.x0, asked.x0) and torch.equal(plain.rotation, asked.rotation)
    assert asked.confidence.shape == batch.residue_mask.shape
    assert (asked.confidence[batch.residue_mask] > 0).all() and not asked.confidence[
        ~batch.residue_mask
    ].any()


def test_confidence_depends_on_neither_batch_nor_padding(judging, batch):
    torch.nn.init.normal_(judging.confidence_head.bins.weight)
    judging.eval()
    together = judging.sample(batch, FEW, seed=1, keys=batch.names).confidence
    for row, length in enumerate(batch.lengths.tolist()):
        alone = judging.sample(batch[row : row + 1], FEW, seed=1, keys=batch.names[row : row + 1]).confidence
        torch.testing.assert_close(alone[0, :length], together[row, :length], atol=2e-4, rtol=0)


def test_a_structure_that_agrees_with_the_second_guess_is_told_from_one_that_does_not(judging, batch):
    # A head that reads the agreement to 1 Å alone, and votes for the top bin where it is there.
    head = judging.confidence_head
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    head.agreement.weight.data[0, 2] = 1.0
    head.hidden[1].weight.data[0, 0] = 1.0
    head.bins.weight.data[-1, 0] = 50.0
    judging.eval()
    drawn = judging._draw(batch, FEW, 1, batch.names)
    guesses = []
    judging.denoiser.register_forward_hook(
        lambda *_: pytest.fail("the guess is not one of the sampler's calls")
    )
    plain = judging.denoiser.with_features
    judging.denoiser.with_features = lambda *a: guesses.append(plain(*a)) or guesses[-1]
    far = expected_lddt(judging._judged(head, drawn, 1, batch.names))
    same = drawn._replace(structure=drawn.structure._replace(x0=to_angstrom(guesses[0][0].x0)))
    near = expected_lddt(judging._judged(head, same, 1, batch.names))
    near_by = torch.cdist(same.structure.x0, same.structure.x0) < 15
    nobody = ((near_by & batch.residue_mask[:, None]).sum(-1) == 1) & batch.residue_mask
    others = batch.residue_mask & ~nobody
    assert (near[others] > 0.9).all() and far[others].mean() < 0.8
    torch.testing.assert_close(near[nobody], torch.full_like(near[nobody], 0.5))


def test_a_truth_with_no_number_in_it_ends_nothing(judging, batch):
    broken = replace(batch, coords=batch.coords.clone())
    broken.coords[0, 4] = torch.nan
    logits = torch.zeros(*batch.residue_mask.shape, 10)
    judged = judge(logits, batch.ca, broken)
    assert judged.loss.value.isfinite().all() and judged.loss.counted.all()


def test_a_checkpoint_without_a_head_loads_and_samples_without_confidence(diffusion_checkpoint, saved, batch):
    module = load_module(saved(diffusion_checkpoint), "diffusion").eval()
    assert module.confidence_head is None
    assert module.sample(batch, FEW, seed=0, keys=batch.names).confidence is None


def test_what_a_step_costs_is_told_of_shapes_alone():
    with torch.device("meta"):
        module = with_confidence().to("meta")
        total, terms = module.losses(module.example_batch(2, 24))
    total.backward()
    assert CONFIDENCE not in terms


def test_more_steps_than_the_schedule_has_are_refused_at_once():
    with pytest.raises(Exception, match="steps is 5000"):
        instantiate_model("v13_small.yaml", ["--model.init_args.confidence={steps: 5000}"])


@pytest.mark.parametrize("config", ["v10.yaml", "v14_small.yaml"])
def test_other_denoisers_are_judged_too(config, batch, make_batch):
    small = ()
    if config == "v10.yaml":
        small = ("denoiser.init_args.layers=2", "denoiser.init_args.d=32", "pair_stack.init_args.blocks=1")
    torch.manual_seed(0)
    module = with_confidence(config, *small, chains=1)
    loss = module.judged_samples(batch, "here").loss.mean()
    loss.backward()
    assert loss.isfinite() and module.confidence_head.bins.bias.grad.any()
    module.eval()
    assert module.sample(batch, FEW, seed=0, keys=batch.names).confidence.isfinite().all()
