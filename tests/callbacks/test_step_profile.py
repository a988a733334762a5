"""Time and memory of a step, sorted to the modules they belong to.

Checked to fail: with backward operations left where the engine ran them; with the outermost range instead of the
innermost; with hooks that stay; with AdamW's own operation alone as the optimizer; with all of Lightning's
step as the optimizer's.
"""

from __future__ import annotations

import gzip
import json
import time

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from minifold_pl.callbacks.ema import EMA
from minifold_pl.callbacks.step_profile import StepProfile
from minifold_pl.cli import lightning_cli
from minifold_pl.modules.muon import MUON, MuonAdamW
from minifold_pl.nn.recompute import run_block
from minifold_pl.run import stop


class Slow(torch.autograd.Function):
    """Takes so many seconds forwards, and twice that backwards."""

    @staticmethod
    def forward(ctx, x, seconds):
        ctx.seconds = seconds
        time.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(2 * ctx.seconds)
        return gradient, None


class Part(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.seconds = seconds

    def forward(self, x):
        return self.linear(Slow.apply(x, self.seconds)).sigmoid()


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Part(0.004) for _ in range(2))
        self.head = Part(0.012)

    def training_step(self, batch, batch_idx):
        for block in self.blocks:
            batch = run_block(block, batch, recompute=True)
        batch = self.head(batch)
        time.sleep(0.005)
        return batch.square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2, fused=True)

    def train_dataloader(self):
        return DataLoader(torch.arange(64 * 64 * 24.0).view(-1, 64).sin(), batch_size=64)


# classes of this project are what has a line of its own
Part.__module__ = "minifold_pl.nn.part"


def fit(make_trainer, *callbacks, **settings) -> Model:
    model = Model()
    make_trainer(*callbacks, max_epochs=1, **settings).fit(model)
    return model


@pytest.fixture(autouse=True)
def no_request(monkeypatch):
    monkeypatch.setattr(stop, "_REQUEST", stop._Request())


def test_each_part_has_its_time_forwards_again_and_backwards(make_trainer, tmp_path, capsys) -> None:
    fit(make_trainer, StepProfile("go_on"), EMA(decay=0.5), accumulate_grad_batches=2)
    found = json.loads((tmp_path / "profile" / "table.json").read_text())
    assert found["batches"] == 4  # two whole windows of accumulation hold three batches
    lines = {line["name"]: line for line in found["lines"]}
    blocks, head = lines["blocks.*"], lines["head"]
    assert blocks["calls"] == 2
    assert head["calls"] == 1
    # milliseconds, of a machine that may be slow
    assert 8 < blocks["forward_ms"] < 80
    assert 8 < blocks["again_ms"] < 80
    assert 8 < blocks["backward_ms"] < 80  # the first one's input needs no gradient
    assert 12 < head["forward_ms"] < 120
    assert head["again_ms"] == 0
    assert 24 < head["backward_ms"] < 240
    assert lines["losses and all else outside of modules"]["forward_ms"] >= 0
    assert "average of the weights (EMA)" in lines
    assert "optimizer (AdamW)" in lines
    # head: 64 × 64 floats each of the clone, of the output; blocks: their outputs alone
    assert head["kept_mb"] == pytest.approx(2 * 64 * 64 * 4 / 1e6, rel=0.6)
    assert found["peak_mb"] > head["kept_mb"]
    text = (tmp_path / "profile" / "table.txt").read_text()
    assert text.strip() in capsys.readouterr().out
    with gzip.open(tmp_path / "profile" / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert {"module: head", "module: blocks.*"} <= {event.get("name") for event in events}
    assert stop.requested() is None


class Sleepy(torch.optim.AdamW):
    """Does more than AdamW's own part, before and after it, as Muon does; and holds most memory."""

    def step(self, closure=None):
        loss = closure()
        time.sleep(0.02)
        torch.ones(4_000_000).add_(1)
        super().step()
        torch.ones(10_000).add_(1)
        time.sleep(0.02)
        return loss


class SleepyModel(Model):
    def configure_optimizers(self):
        return Sleepy(self.parameters(), lr=1e-2, fused=True)

    def configure_gradient_clipping(self, *args, **kwargs):
        time.sleep(0.01)
        torch.ones(100).add_(1)


def test_the_whole_step_of_any_optimizer_is_its_own_and_clipping_is_not(make_trainer, tmp_path) -> None:
    torch.optim.AdamW([nn.Parameter(torch.zeros(1))])  # from now on AdamW's own step is a range too
    model = SleepyModel()
    make_trainer(StepProfile("go_on"), max_epochs=1).fit(model)
    found = json.loads((tmp_path / "profile" / "table.json").read_text())
    lines = {line["name"]: line for line in found["lines"]}
    assert [name for name in lines if name.startswith("optimizer")] == ["optimizer (Sleepy)"]
    optimizer = lines["optimizer (Sleepy)"]
    assert 40 < optimizer["forward_ms"] < 400
    assert optimizer["again_ms"] == optimizer["backward_ms"] == 0
    # forward pass and clipping run inside of the optimizer's step, and are none of it
    assert lines["head"]["forward_ms"] > 12
    assert optimizer["forward_ms"] + 10 < found["total_ms"] - lines["head"]["forward_ms"]
    assert 0 < lines["clipping and guards"]["forward_ms"] < optimizer["forward_ms"] / 2
    assert found["peak_in"] == "optimizer (Sleepy)"
    assert not model.trainer.optimizers[0]._optimizer_step_pre_hooks


def test_a_peak_outside_of_modules_is_that_of_the_part_of_the_step_it_was_in(make_trainer, tmp_path) -> None:
    class Wasteful(Model):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            torch.ones(4_000_000).add_(1)
            return loss

    make_trainer(StepProfile("go_on"), max_epochs=1).fit(Wasteful())
    found = json.loads((tmp_path / "profile" / "table.json").read_text())
    assert found["peak_mb"] > 16
    assert found["peak_in"] == "losses and all else outside of modules"


def test_muon_is_named_with_all_it_does(make_trainer, tmp_path) -> None:
    class WithMuon(Model):
        def configure_optimizers(self):
            matrices = [p for p in self.parameters() if p.ndim == 2]
            vectors = [p for p in self.parameters() if p.ndim < 2]
            return MuonAdamW([{"params": matrices, MUON: True}, {"params": vectors}], lr=1e-2, fused=True)

    make_trainer(StepProfile("go_on"), max_epochs=1).fit(WithMuon())
    with gzip.open(tmp_path / "profile" / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    products = [event["dur"] for event in events if event.get("name") == "aten::baddbmm"]
    lines = {
        line["name"]: line for line in json.loads((tmp_path / "profile" / "table.json").read_text())["lines"]
    }
    assert products
    assert lines["optimizer (MuonAdamW)"]["forward_ms"] > sum(products) / 1e3 / 3


def test_training_is_what_it_would_have_been(make_trainer) -> None:
    plain, profiled = fit(make_trainer), fit(make_trainer, StepProfile("go_on"))
    for one, other in zip(plain.parameters(), profiled.parameters(), strict=True):
        assert torch.equal(one, other)
    for module in profiled.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_it_may_ask_to_stop_when_it_is_done(make_trainer) -> None:
    fit(make_trainer, StepProfile("stop"))
    assert stop.requested() == "SIGINT"


def test_a_training_that_is_too_short_says_so(make_trainer, tmp_path, capsys) -> None:
    model = fit(make_trainer, StepProfile("stop"), limit_train_batches=2)
    assert "no profile" in capsys.readouterr().out
    assert not (tmp_path / "profile").exists()
    assert stop.requested() is None
    assert not any(module._forward_hooks for module in model.modules())


def test_compiled_parts_keep_their_names_and_their_code(make_trainer, tmp_path) -> None:
    model = Model()
    calls = []

    def compiled(x):
        calls.append(len(x))
        return model.head._call_impl(x)

    model.head._compiled_call_impl = compiled
    make_trainer(StepProfile("go_on"), max_epochs=1).fit(model)
    lines = {
        line["name"]: line for line in json.loads((tmp_path / "profile" / "table.json").read_text())["lines"]
    }
    assert lines["head"]["calls"] == 1
    assert len(calls) == 24
    assert model.head._compiled_call_impl is compiled


def test_the_flag_is_short_for_a_setting_of_this_start() -> None:
    assert lightning_cli.SHORT["--profile"] == "--run.profile=go_on"
    assert lightning_cli.SHORT["--profile=stop"] == "--run.profile=stop"
