"""Lessons 7, 8 and 12 to 15: rates, clipping, dead gradients, saves, NaN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from minifold_pl.callbacks.gradient_tripwire import GradientTripwire, TripwireLimits
from minifold_pl.callbacks.module_clipping import ModuleClipping
from minifold_pl.callbacks.nonfinite_guard import NonFiniteGuard
from minifold_pl.checkpoint.contents import CheckpointError, read_checkpoint
from minifold_pl.checkpoint.io import save
from minifold_pl.modules.optim import OptimizerConfig, build_optimizer
from minifold_pl.run.halt import RunHalted


class Nested(nn.Module):
    """A head inside another module, as v14's."""

    def __init__(self) -> None:
        super().__init__()
        self.denoiser = nn.Module()
        self.denoiser.trunk = nn.Linear(3, 3)
        self.denoiser.backbone_head = nn.Linear(3, 2)
        self.pair_stack = nn.Linear(2, 2)


def rates_by_hasattr(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The write-up's routing: a head is looked for among the attributes of the whole model."""
    groups, taken = [], set()
    for name, factor in config.group_lr.items():
        last = name.split(".")[-1]
        if hasattr(module, last):
            parameters = list(getattr(module, last).parameters())
            groups.append({"params": parameters, "lr": config.lr * factor})
            taken |= set(map(id, parameters))
    rest = [p for p in module.parameters() if id(p) not in taken]
    return torch.optim.AdamW([*groups, {"params": rest, "lr": config.lr}])


def test_lesson_07_a_module_gets_its_rate_wherever_it_sits(holds, mistake) -> None:
    """``hasattr(model, "backbone_head")`` was false: the head trained at 1× instead of 5×.

    Put back by that routing. A prefix that matches nothing, or a parameter under two, is refused:
    ``tests/modules/test_optim.py``.
    """
    module = Nested()
    config = OptimizerConfig(lr=1e-3, group_lr={"denoiser.backbone_head": 5.0, "pair_stack": 3.0})
    made = rates_by_hasattr(module, config) if mistake else build_optimizer(module, config)
    rate = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    with holds():
        for name, parameter in module.named_parameters():
            factor = {"denoiser.b": 5.0, "pair_stack": 3.0}.get(name[:10], 1.0)
            assert rate[id(parameter)] == pytest.approx(factor * 1e-3), name


def test_lesson_08_nothing_enters_the_total_unseen(holds, mistake, diffusion, monkeypatch) -> None:
    """``bb_angle`` was part of the total and in no log. Put back by a total with a term of its own."""
    if mistake:
        from minifold_pl.losses.objective import weighted_total

        def with_hidden_term(terms, weights):
            return weighted_total(terms, weights) + 0.1 * terms["dist"]

        monkeypatch.setattr("minifold_pl.modules.diffusion.weighted_total", with_hidden_term)
    trainer = SimpleNamespace(training=True, world_size=1, current_epoch=2)
    diffusion._trainer = trainer
    diffusion.training_step(diffusion.example_batch(2, 16), 0)
    logged = diffusion.epoch_means.means()
    parts = [value for name, value in logged.items() if name.startswith("loss_weighted/")]
    with holds():
        assert len(parts) >= 9
        assert sum(parts) == pytest.approx(logged["loss/total"], rel=1e-5)


def test_lesson_12_a_large_module_does_not_starve_a_small_one(holds, mistake) -> None:
    """Clipping the whole gradient left the pair stack with a hundredth of its own. Put back by v12's clipping."""
    module = Nested()
    for name, parameter in module.named_parameters():
        parameter.grad = torch.ones_like(parameter) * (100.0 if name.startswith("denoiser") else 0.1)
    own = torch.nn.utils.get_total_norm([p.grad for p in module.pair_stack.parameters()])
    limits: dict[str, float | None] = {"denoiser": 1.0, "pair_stack": 0.5}
    clipping = (
        ModuleClipping(dict.fromkeys(limits), None, whole=1.0)
        if mistake
        else ModuleClipping(limits, rest=1.0)
    )
    clipping.on_fit_start(SimpleNamespace(), module)
    clipping.on_before_optimizer_step(SimpleNamespace(), module, None)
    with holds():
        after = {
            name: torch.nn.utils.get_total_norm([p.grad for p in part.parameters()])
            for name, part in module.named_children()
        }
        assert all(norm <= limits[name] * (1 + 1e-5) for name, norm in after.items())
        assert after["pair_stack"] == pytest.approx(own)


def test_lesson_13_a_module_without_gradient_is_shaken_and_then_halts_the_run(
    holds, mistake, tmp_path
) -> None:
    """A pair stack with dead gradients trained on for epochs. Put back by a tripwire that watches nothing.

    The counts, and what survives a resume: ``tests/callbacks/test_gradient_tripwire.py``.
    """
    module = Nested()
    tripwire = GradientTripwire({} if mistake else {"pair_stack": TripwireLimits()})
    tripwire.on_fit_start(SimpleNamespace(), module)
    trainer = SimpleNamespace(
        global_step=0, is_global_zero=True, loggers=[], current_epoch=0, world_size=1, callbacks=[],
        lightning_module=None, default_root_dir=str(tmp_path),
    )  # fmt: skip
    shaken, halted = None, None
    for step in range(600):
        trainer.global_step = step
        for name, parameter in module.named_parameters():
            parameter.grad = torch.full_like(parameter, 0.0 if name.startswith("pair_stack") else 1.0)
        try:
            tripwire.on_before_optimizer_step(trainer, module, None)
        except RunHalted:
            halted = step + 1
            break
        if shaken is None and module.pair_stack.weight.grad.abs().sum() > 0:
            shaken = step + 1
    with holds():
        assert (shaken, halted) == (50, 500)


def save_in_place(checkpoint, path) -> None:
    """The write-up's first way: over the file that is there."""
    torch.save(checkpoint, path)


def test_lesson_14_a_save_that_is_cut_off_leaves_the_checkpoint_before_it(
    holds, mistake, tmp_path, monkeypatch
) -> None:
    """A job preempted in mid-save had no checkpoint left. Put back by saving in place.

    Real kills at every system call of a save: ``tests/checkpoint/test_io.py`` and ``test_faulty_saves.py``.
    """
    path = tmp_path / "resume.ckpt"
    save({"state_dict": {"w": torch.zeros(1000)}, "global_step": 1}, path)
    write = torch.save

    class Preempted(BaseException):
        pass

    def cut_off(checkpoint, file) -> None:
        write(checkpoint, tmp_path / "whole")
        half = (tmp_path / "whole").read_bytes()[:2000]
        if isinstance(file, Path):
            file.write_bytes(half)
        else:
            file.write(half)
        raise Preempted

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(Preempted):
        (save_in_place if mistake else save)({"state_dict": {"w": torch.ones(1000)}, "global_step": 2}, path)
    with holds():
        try:
            step = read_checkpoint(path)["global_step"]
        except CheckpointError:
            step = None
        assert step == 1


class Slope(pl.LightningModule):
    """One weight with the gradient that each batch says; plain descent."""

    def __init__(self, gradients: Sequence[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.gradients = gradients

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (self.weight * batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.tensor(self.gradients).unsqueeze(1))


def test_lesson_15_a_nan_batch_does_not_poison_the_others_of_its_step(holds, mistake, tmp_path) -> None:
    """One NaN loss made the accumulated gradient, and every weight, NaN. Put back by leaving the guard out.

    What is counted and logged, ranks, fp16: ``tests/callbacks/test_nonfinite_guard.py``.
    """
    module = Slope([1.0, float("nan"), 2.0, 6.0])
    pl.Trainer(
        max_epochs=1, accumulate_grad_batches=4, callbacks=[] if mistake else [NonFiniteGuard()], accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    ).fit(module)  # fmt: skip
    with holds():
        assert module.weight.item() == pytest.approx(-3.0)
