"""NaN and infinite losses and gradients, against a training loop written out that leaves those batches out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch.plugins import MixedPrecision
from tests.ports import free_port
from torch import Tensor
from torch.utils.data import DataLoader

from minifold_pl.callbacks.checkpoints import ResumeCheckpoint
from minifold_pl.callbacks.ema import EMA
from minifold_pl.callbacks.module_clipping import ModuleClipping
from minifold_pl.callbacks.nonfinite_guard import NonFiniteGuard
from minifold_pl.callbacks.rollback import Rollback, Rollbacks, RolledBack
from minifold_pl.modules.base import MinifoldModule
from minifold_pl.modules.optim import Constant, OptimizerConfig, build_optimizer
from minifold_pl.run.events import read_events
from minifold_pl.run.folder import RunFolder
from minifold_pl.run.halt import RunHalted

OPTIMIZER = OptimizerConfig(lr=0.05, weight_decay=0.1)
BATCHES = 12


@dataclass(frozen=True)
class Points:
    """A batch; ``steep`` is 0, or what the gradient of the second term is multiplied by."""

    names: tuple[str, ...]
    x: Tensor
    y: Tensor
    steep: float = 0.0

    def to(self, *args: Any, **kwargs: Any) -> Points:
        return replace(self, x=self.x.to(*args, **kwargs), y=self.y.to(*args, **kwargs))

    def __len__(self) -> int:
        return len(self.names)


class Line(MinifoldModule):
    """Two layers, two terms, one of which can have an infinite gradient at a finite value."""

    stage: ClassVar[str] = "contact"

    def __init__(self, batches: Sequence[Points]) -> None:
        super().__init__(optimizer=OPTIMIZER, schedule=Constant(), seed=0)
        generator = torch.Generator().manual_seed(7)
        self.encoder, self.head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
        self.unused = torch.nn.Linear(2, 2).requires_grad_(False)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
        self.batches = batches
        self.written: list[dict[str, float]] = []

    def terms(self, batch: Points) -> dict[str, Tensor]:
        out = self.head(torch.tanh(self.encoder(batch.x)))
        # At 0 the root has the value 0 and an infinite slope.
        root = (0 * self.head.weight.sum()).abs().sqrt() if batch.steep else 0 * out.sum()
        return {"fit": (out.squeeze(-1) - batch.y).square().mean(), "root": batch.steep * root}

    def training_step(self, batch: Points, batch_idx: int) -> Tensor:
        terms = self.terms(batch)
        total = terms["fit"] + terms["root"]
        self.log_losses("loss", total, terms, {"fit": 1.0, "root": 1.0}, len(batch))
        return total

    def log_epoch_means(self) -> None:
        self.written.append(self.epoch_means.means())
        super().log_epoch_means()

    def train_dataloader(self) -> DataLoader[Points]:
        mine = self.batches[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(list(mine), batch_size=None)  # type: ignore[arg-type]


def make_batches(nan: Sequence[int] = (), steep: Sequence[int] = ()) -> list[Points]:
    """Twelve batches, some of them poisoned."""
    generator = torch.Generator().manual_seed(3)
    batches = []
    for i in range(BATCHES):
        x = torch.randn(2, 3, generator=generator)
        y = x.sum(-1) + 3
        if i in nan:
            x[0, 0] = float("nan")
        batches.append(Points((f"chain{2 * i}", f"chain{2 * i + 1}"), x, y, float(i in steep)))
    return batches


def reference(
    batches: Sequence[Points], bad: set[int], window: int, dropped: set[int] = frozenset(), decay: float = 0.5
) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Weights, their average and applied steps of a loop that never meets the bad batches.

    Args:
        batches: All of them.
        bad: Places of those that are left out of their window.
        window: Batches a step.
        dropped: Windows that are left out as a whole.
        decay: Of the average.
    """
    line = Line(batches)
    optimizer = build_optimizer(line, OPTIMIZER)
    average: dict[str, Tensor] = {}
    applied = 0
    for start in range(0, len(batches), window):
        good = [b for i, b in enumerate(batches[start : start + window], start) if i not in bad]
        if not good or start // window in dropped:
            continue
        optimizer.zero_grad()
        for batch in good:
            (sum(line.terms(batch).values()) / len(good)).backward()
        optimizer.step()
        applied += 1
        now = {name: p.detach().clone() for name, p in line.named_parameters()}
        average = {n: decay * average.get(n, p) + (1 - decay) * p for n, p in now.items()}
    return {n: p.detach() for n, p in line.named_parameters()}, average, applied


def events(folder: Path, name: str = "nonfinite_batch") -> list[dict[str, Any]]:
    return [e for e in read_events(RunFolder(folder).events) if e["event"] == name]


def fit(make_trainer, line: Line, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    trainer = make_trainer(*callbacks, **{"max_epochs": 1, "limit_val_batches": 0, **settings})
    trainer.fit(line, ckpt_path=settings.pop("ckpt_path", None))
    return trainer


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def weights(line: Line) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in line.named_parameters()}


@pytest.mark.parametrize(
    ("window", "nan"), [(1, {2, 3, 7}), (4, {1, 6}), (4, {4, 5, 6, 7}), (4, {0, 1, 2, 3, 9, 10, 11})]
)
def test_training_is_as_if_batches_with_a_nan_loss_were_not_there(
    make_trainer, tmp_path, window, nan
) -> None:
    batches = make_batches(nan=sorted(nan))
    line, guard, ema = Line(batches), NonFiniteGuard(), EMA(decay=0.5, warmup=False)
    trainer = fit(make_trainer, line, ema, guard, accumulate_grad_batches=window)
    _, average, applied = reference(batches, nan, window)
    same(weights(line), average)  # the average is left in place at the end
    same({n: p.detach() for n, p in ema._average_model.module.named_parameters()}, average)
    assert guard.applied_steps == applied
    assert guard.nonfinite_batches == len(nan)
    assert trainer.global_step == BATCHES // window  # time goes on
    found = events(tmp_path)
    assert sorted(i for e in found for i in (b["batch"] for b in e["batches"])) == sorted(nan)
    assert {c for e in found for c in e["chains"]} == {f"chain{2 * i + k}" for i in nan for k in (0, 1)}
    assert all("loss/fit" in e["terms"] for e in found)


def test_the_raw_weights_too_are_those_of_the_good_batches(make_trainer) -> None:
    batches = make_batches(nan=[1, 6])
    line = Line(batches)
    fit(make_trainer, line, NonFiniteGuard(), accumulate_grad_batches=4)
    same(weights(line), reference(batches, {1, 6}, 4)[0])


def test_a_window_whose_gradient_is_infinite_is_dropped_and_its_modules_named(make_trainer, tmp_path) -> None:
    batches = make_batches(steep=[5])
    line = Line(batches)
    fit(make_trainer, line, NonFiniteGuard(), ModuleClipping(rest=1e9), accumulate_grad_batches=4)
    same(weights(line), reference(batches, set(), 4, dropped={1})[0])
    (event,) = events(tmp_path)
    assert (event["what"], event["modules"], event["step"]) == ("gradient", ["head.weight"], 1)


def test_the_means_of_the_epoch_are_those_of_the_good_batches(make_trainer) -> None:
    batches = make_batches(nan=[2, 3])
    line = Line(batches)
    fit(make_trainer, line, NonFiniteGuard(), ModuleClipping(rest=1.0))
    (means,) = [w for w in line.written if w]
    assert all(torch.tensor(v).isfinite() for v in means.values())
    assert {"loss/fit", "grad/rest"} <= means.keys()


def test_a_guard_that_finds_nothing_changes_not_one_bit(make_trainer, tmp_path) -> None:
    with_guard, without = Line(make_batches()), Line(make_batches())
    fit(make_trainer, with_guard, EMA(), NonFiniteGuard(), accumulate_grad_batches=4)
    fit(make_trainer, without, EMA(), accumulate_grad_batches=4)
    for name, value in weights(without).items():
        assert torch.equal(weights(with_guard)[name], value), name
    assert events(tmp_path) == []
    assert "training_step" not in with_guard.__dict__


def test_too_many_in_a_row_halt_with_a_diagnosis(make_trainer, tmp_path) -> None:
    line = Line(make_batches(nan=range(4, 12)))
    with pytest.raises(RunHalted) as halt:
        fit(make_trainer, line, NonFiniteGuard(max_in_a_row=3, rollbacks=0))
    for words in ("3 steps in a row (4 to 6)", "loss/fit", "chain12", "all weights are finite"):
        assert words in halt.value.reason
    assert len(events(tmp_path)) == 3


def test_clean_steps_between_start_the_count_again(make_trainer) -> None:
    line, guard = Line(make_batches(nan=[0, 1, 3, 4, 6, 7])), NonFiniteGuard(max_in_a_row=3)
    fit(make_trainer, line, guard)
    assert guard.in_a_row == 0
    assert guard.nonfinite_batches == 6


def test_a_run_with_broken_weights_goes_back_once_and_then_halts(make_trainer, tmp_path) -> None:
    """The weight is made NaN from outside, as a fault of the machine would."""

    class Break(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 6:
                with torch.no_grad():
                    pl_module.head.weight[0, 0] = float("nan")

    def attempt(*more: pl.Callback) -> Line:
        line = Line(make_batches())
        checkpoints = sorted((tmp_path / "checkpoints").glob("resume-*.ckpt"))
        save = ResumeCheckpoint(every_n_epochs=0, every_n_steps=2, keep_last=-1)
        trainer = make_trainer(
            NonFiniteGuard(max_in_a_row=1, rollbacks=1), *more, save, max_epochs=1, limit_val_batches=0
        )
        trainer.fit(line, ckpt_path=str(checkpoints[-1]) if checkpoints else None, weights_only=True)
        return line

    with pytest.raises(RolledBack, match=r"weights of head\.weight.*goes on from step 4"):
        attempt(Break())
    (rollback,) = Rollbacks(tmp_path / "rollbacks.json").read()
    assert (rollback.to_step, rollback.at_step, rollback.leave_out) == (4, 6, None)
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("*superseded")) == [
        "resume-00000006.ckpt.superseded"
    ]
    with pytest.raises(RunHalted, match="gone back 1 times"):
        attempt(Break())


def test_what_a_rollback_leaves_out_is_passed_over_without_being_computed(make_trainer, tmp_path) -> None:
    batches = make_batches()
    Rollbacks(tmp_path / "rollbacks.json").add(Rollback(why="x", at_step=5, to_step=3, leave_out=(3, 5)))
    line, guard = Line(batches), NonFiniteGuard(max_in_a_row=1)
    trainer = fit(make_trainer, line, guard)
    same(weights(line), reference(batches, {3, 4, 5}, 1)[0])
    assert (trainer.global_step, guard.applied_steps) == (12, 9)
    assert events(tmp_path) == []


def test_the_count_goes_on_after_a_resume(make_trainer, tmp_path) -> None:
    """Five in a row, with a stop after the third, are five in a row."""
    poisoned = make_batches(nan=range(1, 6))
    first = NonFiniteGuard(max_in_a_row=5, rollbacks=0)
    fit(make_trainer, Line(poisoned[:4]), first, ResumeCheckpoint(every_n_steps=1), max_epochs=1)
    assert first.in_a_row == 3
    second = NonFiniteGuard(max_in_a_row=5, rollbacks=0)
    trainer = make_trainer(second, max_epochs=2, limit_val_batches=0)
    with pytest.raises(RunHalted, match=r"5 steps in a row \(1 to 5\)"):
        trainer.fit(
            Line([*poisoned[4:6], *poisoned[:2]]),
            ckpt_path=str(tmp_path / "checkpoints" / "resume-00000004.ckpt"),
            weights_only=True,
        )
    assert second.nonfinite_batches == 5


def test_under_fp16_a_gradient_that_overflows_lowers_the_scale_and_is_no_fault(
    make_trainer, tmp_path
) -> None:
    """2^20 is far too large a scale for fp16's gradients; it halves until they fit."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=1000)
    precision = MixedPrecision(precision="16-mixed", device="cpu", scaler=scaler)
    batches = [replace(b, y=b.y * 100) for b in make_batches()]
    line, guard = Line(batches), NonFiniteGuard(max_in_a_row=1)
    fit(make_trainer, line, guard, ModuleClipping(rest=1.0), plugins=[precision], max_epochs=3)
    assert events(tmp_path) == []
    assert scaler.get_scale() < 2.0**20
    assert 0 < guard.applied_steps < 36
    assert all(p.isfinite().all() for p in line.parameters())


def test_under_fp16_too_training_is_as_if_the_bad_batches_were_not_there(make_trainer) -> None:
    def train(batches: list[Points]) -> Line:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
        line = Line(batches)
        plugins = [MixedPrecision(precision="16-mixed", device="cpu", scaler=scaler)]
        fit(make_trainer, line, NonFiniteGuard(), plugins=plugins)
        return line

    batches, bad = make_batches(nan=[2, 3, 7]), {2, 3, 7}
    with_bad, without = train(batches), train([b for i, b in enumerate(batches) if i not in bad])
    for name, value in weights(without).items():
        assert torch.equal(weights(with_bad)[name], value), name


def test_limits_of_norms_meet_gradients_without_fp16s_scale(make_trainer) -> None:
    """Lightning leaves unscaling to fused optimizers: their gradients would be 1,024 times too large here."""

    def norm(**settings: Any) -> float:
        line = Line(make_batches())
        fit(make_trainer, line, NonFiniteGuard(), ModuleClipping(rest=1e9), **settings)
        return line.written[0]["grad/rest"]

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    fp16 = norm(plugins=[MixedPrecision(precision="16-mixed", device="cpu", scaler=scaler)])
    assert fp16 == pytest.approx(norm(), rel=0.05)


@pytest.mark.parametrize("kwargs", [{"max_in_a_row": 0}, {"rollbacks": -1}])
def test_impossible_settings_are_refused(kwargs: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        NonFiniteGuard(**kwargs)


def _one_rank(rank: int, port: int, folder: str, nan: tuple[int, ...], window: int, strategy: str) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", NODE_RANK="0", LOCAL_RANK=str(rank),
        GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    torch.set_num_threads(1)
    line, guard = Line(make_batches(nan=nan)), NonFiniteGuard()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=2, strategy=strategy, logger=False, default_root_dir=folder,
        use_distributed_sampler=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, accumulate_grad_batches=window,
        callbacks=[guard, ModuleClipping(rest=1e9)],
    )  # fmt: skip
    trainer.fit(line)
    torch.save({"weights": weights(line), "guard": guard.state_dict()}, f"{folder}/rank{rank}.pt")


@pytest.mark.parametrize(
    ("window", "nan", "strategy"),
    [(1, (3, 4, 5), "ddp"), (2, (1, 4, 5, 6, 7), "ddp_find_unused_parameters_true")],
)
def test_a_nan_on_one_of_two_ranks_leaves_the_other_ones_gradient(tmp_path, window, nan, strategy) -> None:
    """Batches 2k and 2k + 1 are step k of ranks 0 and 1; both, one or none of them may be bad."""
    port = free_port()
    mp.spawn(_one_rank, args=(port, str(tmp_path), nan, window, strategy), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2)]
    expected = reference(make_batches(nan=nan), set(nan), 2 * window)[0]
    for rank in ranks:
        same(rank["weights"], expected)
        assert rank["guard"]["nonfinite_batches"] == len(nan)
    assert ranks[0]["guard"] == ranks[1]["guard"]
    named = {c for e in events(tmp_path) for c in e["chains"]}
    assert named == {f"chain{2 * i + k}" for i in nan for k in (0, 1)}
