"""A run that cannot learn is stopped with the right reason; one that can is neither stopped nor changed."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from tests.ports import free_port
from torch import Tensor, nn

from minifold_pl.callbacks import early_checks, early_signs, early_wiring
from minifold_pl.callbacks.early_checks import EarlyLimits, Finding, Measured
from minifold_pl.callbacks.early_signs import EarlySigns
from minifold_pl.cli.lightning_cli import instantiate_model, resolve_config
from minifold_pl.data.datamodule import ProteinDataModule
from minifold_pl.diffusion import samplers
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.nn.structure_denoiser import StructureDenoiser
from minifold_pl.run.events import read_events
from minifold_pl.run.halt import RunHalted
from minifold_pl.run.settings import changes, fingerprint
from minifold_pl.types import Denoised

EARLY = {
    "first": 1,
    "every_n_steps": 1,
    "patience": 2,
    "chains": 4,
    "floor_after": None,
    "sequence_after": None,
}
"""A check after every step; the second one ends the run."""


@pytest.fixture(scope="session")
def _fresh() -> DiffusionModule:
    torch.manual_seed(0)
    settings = [
        "--model.init_args.schedule.class_path=minifold_pl.modules.optim.Constant",
        "--model.init_args.optimizer.lr=0.001",
        "--model.init_args.noise_draws=1",
        "--model.init_args.trunk_first=0",
        "--model.init_args.sampler.steps=3",
        "--model.init_args.confidence=null",  # it would read the features of denoisers that have none
    ]
    return instantiate_model("v15_small.yaml", settings)


@pytest.fixture
def module(_fresh) -> DiffusionModule:
    return copy.deepcopy(_fresh)


@pytest.fixture
def train(store, make_trainer):
    """Train on four chains, two steps an epoch."""

    def train(
        module: DiffusionModule,
        *callbacks: pl.Callback,
        ckpt_path: str | None = None,
        chains: int = 4,
        **settings: object,
    ) -> pl.Trainer:
        data = ProteinDataModule(str(store), batch_size=2, limit_train=chains, limit_validation=2)
        defaults = {"max_epochs": 2, "use_distributed_sampler": False, "limit_val_batches": 0}
        trainer = make_trainer(*callbacks, **{**defaults, **settings})
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return train


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "events.jsonl") if event["event"] == name]


def test_while_the_trunk_is_taught_alone_nothing_is_asked(module, train, tmp_path) -> None:
    module.trunk_first = 1
    train(module, EarlySigns(action="warn", **EARLY), max_epochs=2)
    assert [event["step"] for event in events(tmp_path, "early_signs")] == [0, 3, 4]


class OneAnswer(StructureDenoiser):
    """Whatever it is given, it answers with the same curve."""

    def __init__(self, timesteps: int, turns: bool = False) -> None:
        super().__init__(timesteps)
        self.curve = nn.Parameter(
            torch.randn(128, 3, generator=torch.Generator().manual_seed(0)).cumsum(0) / 4
        )
        if not turns:
            self.gate_frames(torch.ones(timesteps))  # claims no equivariance

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Any, previous: Any = None, use_previous: Any = None
    ) -> Denoised:
        x0 = self.curve[: x_t.shape[1]].expand_as(x_t) * condition.mask[..., None]
        rotation = torch.eye(3).expand(*x_t.shape[:2], 3, 3)
        atoms = torch.tensor([[-0.05, 0.14, 0.0], [0.0, 0.0, 0.0], [0.15, 0.0, 0.0], [0.2, 0.1, 0.0]])
        unused = (
            0 * condition.pair.mean() + 0 * condition.single.mean()
        )  # reached by the losses, without effect
        return Denoised(x0 + unused, rotation, atoms.expand(*x_t.shape[:2], 4, 3))


# --- a healthy run ---------------------------------------------------------------------------------------------------


def test_a_healthy_run_is_not_stopped_and_its_weights_are_those_of_a_run_without_the_checks(
    module, train, tmp_path
) -> None:
    watched, alone = module, copy.deepcopy(module)
    train(watched, EarlySigns(action="stop", **{**EARLY, "first": 2, "every_n_steps": 2}))
    train(alone)
    own = alone.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in watched.state_dict().items())
    assert not events(tmp_path, "early_sign")
    checks = events(tmp_path, "early_signs")
    assert [event["step"] for event in checks] == [0, 2, 4]
    assert checks[0]["passed"] == ["equivariance", "sampler", "finite", "gradient"]
    assert {"loss", "scale", "mirror", "collapse", "equivariance", "gradient"} <= set(checks[1]["passed"])


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("v13_small.yaml", []),
        ("v15_small.yaml", ["--model.init_args.confidence={}", "--model.init_args.recycles=1"]),
        ("v15_small.yaml", ["--model.init_args.sampler={kind: euler, steps: 20, step_scale: 1.5, churn: 5}"]),
    ],
)
def test_what_is_asked_before_the_first_step_is_answered_well_by_every_shipped_kind_of_model(
    config, more, chains, store
) -> None:
    module = instantiate_model(config, more).eval()
    trainer = SimpleNamespace(datamodule=SimpleNamespace(train_chains=chains, batch_size=2))
    signs = EarlySigns(action="stop", chains=4)
    findings, loss = signs._at_start(trainer, module)
    assert not [finding for finding in findings if finding.wrong]
    assert loss > 0
    claims = config == "v15_small.yaml"
    assert ("equivariance" in [finding.check for finding in findings]) == claims


def test_off_by_default_and_then_nothing_is_asked_or_kept(module, train, tmp_path) -> None:
    signs = EarlySigns()
    train(module, signs, max_epochs=1)
    assert signs.state_dict() == {}
    assert not (tmp_path / "events.jsonl").exists()


# --- runs that cannot learn ------------------------------------------------------------------------------------------


def test_a_learning_rate_of_0_is_a_loss_that_does_not_fall(module, train, tmp_path) -> None:
    module.optimizer_config = replace(module.optimizer_config, lr=1e-12)
    with pytest.raises(RunHalted, match=r"after 2 steps .* it does not fall.*early_signs\.action warn"):
        train(module, EarlySigns(action="stop", **EARLY))
    found = events(tmp_path, "early_sign")
    assert [(event["check"], event["step"], event["in_a_row"]) for event in found] == [
        ("loss", 1, 1),
        ("loss", 2, 2),
    ]
    assert found[0]["figures"]["loss"] == pytest.approx(found[0]["figures"]["loss_at_start"], rel=1e-3)


def test_a_denoiser_that_ignores_its_input_gives_one_answer_for_all(module, train, tmp_path) -> None:
    module.optimizer_config = replace(module.optimizer_config, group_lr={})  # it has no backbone head
    module.denoiser = OneAnswer(module.noise_schedule.timesteps)
    with pytest.raises(RunHalted, match="one answer for all"):
        train(module, EarlySigns(action="stop", **EARLY))


def test_a_denoiser_with_an_axis_fixed_in_space_is_stopped_before_the_first_step(module, train) -> None:
    module.optimizer_config = replace(module.optimizer_config, group_lr={})  # it has no backbone head
    module.denoiser = OneAnswer(module.noise_schedule.timesteps, turns=True)
    with pytest.raises(RunHalted, match=r"after 0 steps .*depends on how a chain lies in space"):
        train(module, EarlySigns(action="stop", **EARLY))


def test_frames_that_are_fixed_in_space_are_seen_before_the_first_step(module, batch) -> None:
    """v15 with the SNR gate's identity: what v11 to v14 live with, and claim nothing of."""
    module.eval()
    assert not early_wiring.equivariance(module, batch, LIMITS, 0).wrong
    gated = instantiate_model("v13_small.yaml").eval()
    assert not early_wiring.turns_along(gated)
    assert early_wiring.equivariance(gated, batch, LIMITS, 0).wrong


def test_mirrored_targets_are_told_by_the_hand_of_the_predictions(module, train, monkeypatch) -> None:
    plain = DiffusionModule.target
    mirror = torch.tensor([1.0, 1.0, -1.0])
    monkeypatch.setattr(
        DiffusionModule,
        "target",
        lambda self, batch: plain(self, replace(batch, coords=batch.coords * mirror)),
    )
    limits = EarlyLimits(oracle_tm=0.01)  # the sampler's answer is mirrored, too
    with pytest.raises(RunHalted, match="learns mirrored chains"):
        train(module, EarlySigns(action="stop", limits=limits, **EARLY))


def test_mirrored_targets_are_seen_at_the_start_by_what_the_sampler_reaches(
    module, train, monkeypatch
) -> None:
    plain = DiffusionModule.target
    mirror = torch.tensor([1.0, 1.0, -1.0])
    monkeypatch.setattr(
        DiffusionModule,
        "target",
        lambda self, batch: plain(self, replace(batch, coords=batch.coords * mirror)),
    )
    with pytest.raises(RunHalted, match=r"after 0 steps .* wired wrongly"):
        train(module, EarlySigns(action="stop", **EARLY))


def test_a_sampler_whose_noise_is_not_the_schedules_is_stopped(module, train, monkeypatch) -> None:
    drawn = samplers.centered_noise
    monkeypatch.setattr(samplers, "centered_noise", lambda *args: 2 * drawn(*args))
    with pytest.raises(RunHalted, match=r"after 0 steps .* wired wrongly"):
        train(module, EarlySigns(action="stop", **EARLY))


def test_a_part_that_no_loss_reaches_is_named(module, train, monkeypatch) -> None:
    plain = type(module.pair_stack).forward
    monkeypatch.setattr(type(module.pair_stack), "forward", lambda *args, **kw: plain(*args, **kw).detach())
    with pytest.raises(RunHalted, match=r"after 0 steps .* but not pair_stack"):
        train(module, EarlySigns(action="stop", **EARLY))


def test_a_part_whose_gradient_stays_0_is_named_once_the_model_has_trained(module, chains, batch) -> None:
    module.eval()
    assert not early_wiring.gradients(module, batch[:2], 0, trained=False).wrong
    # The pair stack is behind layers that begin at 0: taking part is enough at first, and no more later.
    for head in (module.trunk_heads, module.aux):
        head.requires_grad_(False)
    found = early_wiring.gradients(module, batch[:2], 0, trained=True)
    assert found.wrong
    assert "pair_stack" in found.told.split("but not")[1]


def test_a_sequence_that_never_reaches_the_denoiser_is_not_read(module, train, monkeypatch) -> None:
    plain = DiffusionModule.encode
    monkeypatch.setattr(DiffusionModule, "encode", lambda self, tokens: plain(self, tokens.clamp(max=4)))
    early = {**EARLY, "sequence_after": 1}
    with pytest.raises(RunHalted, match="does not read the sequence"):
        train(module, EarlySigns(action="stop", **early))


@pytest.mark.slow
@pytest.mark.parametrize("meaningless", [False, True])
def test_sequences_drawn_anew_in_each_step_are_told_from_sequences_that_can_be_learned(
    module, train, monkeypatch, tmp_path, meaningless
) -> None:
    """Eight chains learned by heart: with their own sequences the model tells them apart at t ≥ 700."""
    module.optimizer_config = replace(module.optimizer_config, lr=2e-3)
    early = {**EARLY, "first": 150, "every_n_steps": 75, "sequence_after": 150, "chains": 8}
    signs = EarlySigns(action="stop", limits=EarlyLimits(gain=0.05), **early)
    if meaningless:
        plain = DiffusionModule._drop_conditions

        def drop(self: DiffusionModule, batch: Any, epoch: int) -> Tensor:
            draw = torch.Generator().manual_seed(self.global_step)
            drawn = torch.randint(4, 24, batch.tokens.shape, generator=draw)
            tokens = torch.where(batch.tokens >= 4, drawn, batch.tokens)
            return plain(self, replace(batch, tokens=tokens), epoch)

        monkeypatch.setattr(DiffusionModule, "_drop_conditions", drop)
        with pytest.raises(RunHalted, match="does not read the sequence"):
            train(module, signs, max_epochs=57, chains=8)
    else:
        train(module, signs, max_epochs=57, chains=8)
        assert "sequence" in events(tmp_path, "early_signs")[-1]["passed"]


# --- when and how ----------------------------------------------------------------------------------------------------


def test_a_resumed_run_goes_on_counting_and_stops_where_the_undisturbed_one_does(
    module, train, tmp_path
) -> None:
    module.optimizer_config = replace(module.optimizer_config, lr=1e-12)
    first, second = module, copy.deepcopy(module)
    early = {**EARLY, "patience": 3}
    trainer = train(first, EarlySigns(action="stop", **early), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "at2.ckpt")
    with pytest.raises(RunHalted, match="after 3 steps"):
        train(second, EarlySigns(action="stop", **early), ckpt_path=str(tmp_path / "at2.ckpt"))
    assert [event["step"] for event in events(tmp_path, "early_signs")] == [0, 1, 2, 3]


def test_a_run_that_began_without_the_checks_is_not_measured_against_a_start_that_nobody_saw(
    module, train, tmp_path
) -> None:
    module.optimizer_config = replace(module.optimizer_config, lr=1e-12)
    first, second = module, copy.deepcopy(module)
    trainer = train(first, EarlySigns(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "at2.ckpt")
    train(second, EarlySigns(action="stop", **EARLY), ckpt_path=str(tmp_path / "at2.ckpt"))
    assert not events(tmp_path, "early_sign")


def test_steps_at_half_the_rate_count_half() -> None:
    def trainer(step: int, lr: float) -> Any:
        group = {"lr": lr, "initial_lr": 0.2}
        return SimpleNamespace(global_step=step, optimizers=[SimpleNamespace(param_groups=[group])])

    signs = EarlySigns(action="warn", first=3)
    for step, lr in enumerate([0.1, 0.1, 0.2], start=1):
        signs.on_train_batch_end(trainer(step, lr), nn.Module(), None, None, 0)
    assert signs.state_dict()["taken"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("taken", "checked", "due"),
    [
        (199.0, 0.0, False),
        (200.0, 0.0, True),
        (200.7, 200.0, False),
        (700.0, 200.0, True),
        (1500.0, 700.0, True),
        (10_001.0, 700.0, False),
    ],
)
def test_checks_come_after_first_then_in_every_interval_and_none_after_last(taken, checked, due) -> None:
    signs = EarlySigns(action="warn")
    signs._taken, signs._checked = taken, checked
    assert signs._due() is due


def test_all_ranks_do_what_the_first_one_found(module, monkeypatch, tmp_path) -> None:
    sign = Finding("loss", True, "it does not fall", {})
    monkeypatch.setattr(early_signs, "from_all_ranks", lambda world, mine: [([sign], 1.0), mine])
    trainer = SimpleNamespace(
        global_step=0,
        world_size=2,
        is_global_zero=False,
        current_epoch=0,
        default_root_dir=tmp_path,
        loggers=[],
    )
    with pytest.raises(RunHalted, match="it does not fall"):
        EarlySigns(action="stop").on_train_start(trainer, module)
    assert not (tmp_path / "events.jsonl").exists()  # the first rank writes


@pytest.mark.slow
def test_two_processes_halt_together_with_one_word_on_it(store, tmp_path) -> None:
    shared = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "NODE_RANK": "0",
        "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.callbacks.ddp_early_signs", str(tmp_path), str(store)]
    processes = [
        subprocess.Popen(command, env={**shared, "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        told = "".join(process.communicate(timeout=300)[0] for process in processes)
    finally:
        for process in processes:
            process.kill()
    ended = sorted(line for line in told.splitlines() if line.startswith("ended"))
    assert len(ended) == 2
    assert all("halted after 2 steps" in line for line in ended)
    assert [event["step"] for event in events(tmp_path, "early_signs")] == [0, 1, 2]


def test_the_settings_are_no_part_of_the_run() -> None:
    off = resolve_config("v15_small.yaml", ["--early_signs.action=null"])
    on = resolve_config("v15_small.yaml", ["--early_signs.action=stop", "--early_signs.limits.fall=0.02"])
    assert on["early_signs"]["limits"]["fall"] == 0.02
    assert fingerprint(off) == fingerprint(on)
    assert all(change.harmless for change in changes(off, on))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"action": "halt"}, "action"), ({"first": 0}, "first"), ({"every_n_steps": 0}, "every_n_steps"),
        ({"chains": 1}, "chains"), ({"last": 10}, "last"), ({"patience": 0}, "patience"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_named(setting, told) -> None:
    with pytest.raises(ValueError, match=told):
        EarlySigns(**setting)


@pytest.mark.parametrize("limit", [{"fall": -1}, {"oracle_tm": 0}, {"alike": 2}, {"scale": 1}, {"floor": 1}])
def test_a_limit_that_cannot_be_is_named(limit) -> None:
    with pytest.raises(ValueError, match=next(iter(limit))):
        EarlyLimits(**limit)


def test_another_stage_is_refused_with_what_to_do(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"early_signs\.action to null"):
        EarlySigns(action="stop").on_train_start(SimpleNamespace(global_step=0), pl.LightningModule())


# --- judgements ------------------------------------------------------------------------------------------------------


def measured(**changed: Any) -> Measured:
    ones = torch.ones(4, 12, dtype=torch.float64)
    plain = Measured(
        (225, 475, 725, 975), 2 * ones, 3 * ones, 8 * ones, 4 * ones, ones, 0.1, 0.1, 0.5 * ones[0], 2.0
    )
    return plain._replace(**changed)


SCHEDULE = SimpleNamespace(noise_schedule=SimpleNamespace(timesteps=1000))
LIMITS = EarlyLimits()


@pytest.mark.parametrize("ratio", [0.4, 2.5, float("nan")])
def test_a_wrong_scale_is_a_sign(ratio) -> None:
    assert not early_checks.right_scale(SCHEDULE, measured(), LIMITS).wrong
    rg = torch.full((4, 12), ratio, dtype=torch.float64)
    assert early_checks.right_scale(SCHEDULE, measured(rg_ratio=rg), LIMITS).wrong


def test_below_the_floor_means_surely_below() -> None:
    assert not early_checks.above_floor(SCHEDULE, measured(), LIMITS).wrong
    worse = measured(rmsd=torch.full((4, 12), 5.5, dtype=torch.float64))
    assert early_checks.above_floor(SCHEDULE, worse, LIMITS).wrong
    spread = 5.2 + torch.linspace(-3, 3, 12, dtype=torch.float64).expand(4, 12)
    assert not early_checks.above_floor(SCHEDULE, measured(rmsd=spread), LIMITS).wrong


def test_a_small_gain_that_is_sure_counts_as_reading() -> None:
    assert not early_checks.reads_sequence(measured(), LIMITS).wrong
    assert not early_checks.reads_sequence(measured(gain=torch.full((12,), 0.001)), LIMITS).wrong
    assert early_checks.reads_sequence(measured(gain=torch.zeros(12)), LIMITS).wrong
    assert early_checks.reads_sequence(measured(gain=torch.linspace(-1, 1, 12)), LIMITS).wrong


def test_chains_that_are_all_alike_may_be_answered_alike() -> None:
    assert early_checks.told_apart(measured(alike=0.95), LIMITS).wrong
    assert not early_checks.told_apart(measured(alike=0.95, alike_truth=0.8), LIMITS).wrong


@pytest.mark.parametrize("now", [float("nan"), float("inf"), 2.0])
def test_a_loss_that_is_no_number_has_not_fallen(now) -> None:
    loss = torch.full((4, 12), now, dtype=torch.float64)
    assert early_checks.fallen(measured(loss=loss), 2.0, LIMITS).wrong
    assert early_checks.finite_losses(measured(loss=loss)).wrong is (now != 2.0)


def test_one_chain_without_a_finite_loss_is_no_sign() -> None:
    loss = torch.ones(4, 12, dtype=torch.float64)
    loss[:, 0] = torch.inf
    assert not early_checks.finite_losses(measured(loss=loss)).wrong
    assert not early_checks.fallen(measured(loss=loss), 2.0, LIMITS).wrong
