"""Which sampler a model draws with: its settings, what it costs, and that a record tells both truly.

Checked to fail: with ``heun`` wired to order 1; with ``network_calls`` of ``heun`` counted as its steps; with ``churn``
or ``step_scale`` not handed on; with another kind's settings left in a record.
"""

from __future__ import annotations

import copy
import json
from dataclasses import fields, replace

import pytest
import torch

from minifold_pl.cli.lightning_cli import resolve_config
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.diffusion.edm import edm, edm_timesteps
from minifold_pl.diffusion.samplers import ddim
from minifold_pl.geometry.units import to_angstrom
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.modules.load import build_module
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.types import Denoised

CHAINS = [("one", 12), ("two", 17), ("three", 9), ("four", 14)]
KINDS = [
    SamplerConfig(steps=4),
    SamplerConfig(kind="heun", steps=4),
    SamplerConfig(kind="heun", steps=4, churn=2.0, churn_min=0.05, churn_max=50.0, noise_scale=1.003),
    SamplerConfig(kind="euler", steps=4, churn=2.0, step_scale=1.5),
]


@pytest.fixture
def model(diffusion):
    with torch.no_grad():
        for parameter in diffusion.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return diffusion.eval()


class Counted(torch.nn.Module):
    """A denoiser that notes the size of each batch it is called with."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser = denoiser
        self.batches: list[int] = []

    def prepare(self, condition):
        return self.denoiser.prepare(condition)

    def forward(self, x_t, t, condition, previous=None, use_previous=None):
        self.batches.append(len(x_t))
        return self.denoiser(x_t, t, condition, previous)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("sampler", KINDS, ids=lambda s: s.kind)
def test_as_many_network_calls_are_told_as_there_are(model, make_batch, sampler, guidance) -> None:
    batch = make_batch(CHAINS)
    model.denoiser = counted = Counted(model.denoiser)
    sampler = replace(sampler, guidance=guidance)
    model.sample(batch, sampler, seed=0, keys=batch.names)
    assert len(counted.batches) == sampler.network_calls == sampler.told()["network_calls"]
    assert sampler.network_calls == (7 if sampler.kind == "heun" else 4)
    assert set(counted.batches) == {len(CHAINS) * (1 if guidance == 1 else 2)}


@pytest.mark.parametrize("sampler", KINDS[1:], ids=lambda s: f"{s.kind} {s.churn}")
def test_the_settings_reach_the_sampler(model, make_batch, sampler) -> None:
    batch = make_batch(CHAINS)
    with torch.no_grad():
        condition = model.condition(batch, model.encode(batch.tokens))
        expected = edm(
            lambda x_t, t, previous: model.denoiser(x_t, t, condition, previous),
            model.noise_schedule,
            batch.residue_mask,
            generators=[keyed_generator(3, "sample", name) for name in batch.names],
            times=edm_timesteps(model.noise_schedule, 4),
            order=2 if sampler.kind == "heun" else 1,
            churn=sampler.churn,
            churn_min=sampler.churn_min,
            churn_max=50.0 if sampler.churn_max else float("inf"),
            noise_scale=sampler.noise_scale,
            step_scale=sampler.step_scale,
        )
    drawn = model.sample(batch, sampler, seed=3, keys=batch.names).x0
    assert torch.equal(drawn, to_angstrom(expected.x0))
    for other in KINDS:
        if other != sampler:
            another = model.sample(batch, other, seed=3, keys=batch.names).x0
            assert not torch.allclose(drawn, another, atol=0.05)


@pytest.mark.parametrize("scale", [1.0, 1.1])
def test_the_settings_reach_ddim(model, make_batch, scale) -> None:
    batch = make_batch(CHAINS)
    with torch.no_grad():
        condition = model.condition(batch, model.encode(batch.tokens))
        expected, other = (
            ddim(
                lambda x_t, t, previous: model.denoiser(x_t, t, condition, previous),
                model.noise_schedule,
                batch.residue_mask,
                generators=[keyed_generator(3, "sample", name) for name in batch.names],
                steps=4,
                eta=0.5,
                step_scale=given,
            )
            for given in (scale, 2.0)
        )
    drawn = model.sample(
        batch, SamplerConfig(steps=4, eta=0.5, step_scale=scale), seed=3, keys=batch.names
    ).x0
    assert torch.equal(drawn, to_angstrom(expected.x0))
    assert not torch.allclose(drawn, to_angstrom(other.x0), atol=0.05)


@pytest.mark.parametrize("sampler", KINDS[1:], ids=lambda s: f"{s.kind} {s.churn}")
def test_a_chains_sample_does_not_depend_on_its_company(model, make_batch, sampler) -> None:
    def samples(names: list[str]) -> dict[str, torch.Tensor]:
        batch = make_batch([(name, dict(CHAINS)[name]) for name in names])
        x0 = model.sample(batch, sampler, seed=1, keys=batch.names).x0
        return {name: x0[k, : dict(CHAINS)[name]] for k, name in enumerate(names)}

    everyone = samples([name for name, _ in CHAINS])
    for company in (["one"], ["three", "one"], ["four", "three", "two"]):
        for name, x0 in samples(company).items():
            # Å. Another batch rounds differently, no more.
            torch.testing.assert_close(x0, everyone[name], atol=5e-3, rtol=0)
    again = samples([name for name, _ in CHAINS])
    assert all(torch.equal(again[name], x0) for name, x0 in everyone.items())


@pytest.mark.parametrize("sampler", KINDS, ids=lambda s: f"{s.kind} {s.churn}")
def test_a_denoiser_that_knows_the_answer_is_followed_to_it(model, make_batch, sampler) -> None:
    batch = make_batch([("one", 40), ("two", 33)])
    target = model.target(batch)

    class Oracle(torch.nn.Module):
        def prepare(self, condition):
            return condition

        def forward(self, x_t, t, condition, previous=None, use_previous=None):
            return Denoised(target.x0, target.rotation)

    wired = copy.copy(model)
    wired._modules = {**model._modules, "denoiser": Oracle()}
    drawn = wired.sample(batch, sampler, seed=0, keys=batch.names).x0
    assert tm_kabsch(drawn, batch.ca, batch.ca_mask).min() > 0.9995


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "dpm"}, "kind of sampler is 'dpm'; allowed are ddim, heun, euler"),
        ({"kind": "heun", "eta": 0.5}, "eta is 0.5, but the sampler (kind) is heun: it is a setting of ddim"),
        ({"churn": 1.0}, "churn is 1.0, but the sampler (kind) is ddim: it is a setting of heun and euler"),
        ({"sigma_max": 10.0}, "sigma_max is 10.0, but the sampler (kind) is ddim"),
        (
            {"kind": "heun", "step_scale": 1.5},
            "step_scale is 1.5, but the sampler (kind) is heun: it is a setting of ddim and euler",
        ),
        ({"kind": "heun", "sigma_min": 5.0, "sigma_max": 2.0}, "sigma_min is 5.0 and sigma_max 2.0"),
        ({"kind": "heun", "sigma_min": 0.0}, "sigma_min is 0.0"),
        ({"kind": "heun", "churn": -1.0}, "churn must be 0 or more, got -1.0"),
        ({"kind": "heun", "churn": float("nan")}, "churn must be 0 or more, got nan"),
        (
            {"kind": "heun", "churn": 1.0, "churn_min": 2.0, "churn_max": 1.0},
            "churn_max is 1.0; give a number from churn_min 2.0 on, or null",
        ),
        # No JSON that others read has an infinity.
        ({"kind": "heun", "churn": 1.0, "churn_max": float("inf")}, "churn_max is inf; give a number"),
        ({"kind": "euler", "noise_scale": 0.0}, "noise_scale must be above 0, got 0.0"),
        ({"kind": "euler", "rho": float("inf")}, "rho must be above 0, got inf"),
        ({"guidance": float("nan")}, "guidance is nan; give a finite number"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(wrong, said) -> None:
    with pytest.raises(ValueError) as error:
        SamplerConfig(**wrong)
    assert said in str(error.value)


def test_a_config_chooses_the_sampler_of_predict_and_of_the_evaluations() -> None:
    flags = [f"--model.init_args.sampler.{given}" for given in ("kind=heun", "steps=3", "churn_max=50.0")]
    model = resolve_config("v13_small.yaml", [*flags, "--ddim.sampler.kind=euler", "--ddim.sampler.steps=2"])
    assert build_module(model["model"]).sampler == SamplerConfig(kind="heun", steps=3, churn_max=50.0)
    assert (model["ddim"]["sampler"]["kind"], model["ddim"]["sampler"]["steps"]) == ("euler", 2)


def test_ddim_is_what_it_was_where_nothing_is_said() -> None:
    sampler = SamplerConfig()
    assert (sampler.kind, sampler.steps, sampler.eta, sampler.guidance, sampler.self_condition) == (
        "ddim", 50, 0.0, 1.0, True,
    )  # fmt: skip


def test_a_record_tells_the_settings_that_meant_something_and_no_others() -> None:
    shared = {"sampler", "steps", "guidance", "guidance_space", "self_condition", "network_calls"}
    levels = {"sigma_max", "sigma_min", "rho", "churn", "churn_min", "churn_max", "noise_scale"}
    assert SamplerConfig().told().keys() == shared | {"eta", "step_scale"}
    assert SamplerConfig(kind="heun").told().keys() == shared | levels
    assert SamplerConfig(kind="euler").told().keys() == shared | levels | {"step_scale"}
    # All that there is but how it is computed, so that a sample can be drawn again from its record.
    everything = {f.name for f in fields(SamplerConfig)} - {"kind", "compile"}
    assert everything <= shared | levels | {"eta", "step_scale"}
    for sampler in KINDS:
        told = json.loads(json.dumps(sampler.told()))
        del told["network_calls"]
        assert SamplerConfig(kind=told.pop("sampler"), **told) == sampler


def test_figures_say_which_sampler_it_was() -> None:
    assert KINDS[0].in_words() == "DDIM, 4 steps, η 0, guidance 1"
    assert KINDS[2].in_words() == "Heun, 4 steps (7 network calls), σ 80 to 0.002, churn 2, guidance 1"
    assert "step scale 1.5" in KINDS[3].in_words()
    assert (
        SamplerConfig(steps=4, step_scale=1.1).in_words() == "DDIM, 4 steps, η 0, step scale 1.1, guidance 1"
    )


def test_another_kind_leaves_the_settings_of_the_first_behind() -> None:
    stochastic = SamplerConfig(steps=25, eta=0.5, guidance=2.0)
    assert stochastic.changed(kind="heun", churn=3.0) == SamplerConfig(
        kind="heun", steps=25, churn=3.0, guidance=2.0
    )
    scaled = SamplerConfig(kind="euler", churn=3.0, step_scale=1.5)
    assert scaled.changed(kind="heun") == SamplerConfig(kind="heun", churn=3.0)
    assert scaled.changed(kind="ddim", steps=9) == SamplerConfig(steps=9, step_scale=1.5)
    assert scaled.changed(churn=1.0) == replace(scaled, churn=1.0)
    for given in ({"kind": "heun", "eta": 0.5}, {"kind": "heun", "step_scale": 1.5}, {"kind": "dpm"}):
        with pytest.raises(ValueError, match=r"kind"):
            stochastic.changed(**given)


def test_more_steps_than_there_are_timesteps_are_refused(model) -> None:
    for sampler, said in (
        (SamplerConfig(steps=1000), "steps is 1000; a schedule of 1000 timesteps allows 1 to 999"),
        (SamplerConfig(kind="heun", steps=993), "allow 1 to 992"),
        (
            SamplerConfig(kind="heun", steps=20, sigma_min=1.0, sigma_max=1.02),
            "of 1000 timesteps allow 1 to 7",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            sampler.times(model.noise_schedule)
