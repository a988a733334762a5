"""Where a training step's time and memory go: a few steps under torch's profiler, then a table and a trace."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal

import lightning.pytorch as pl
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from minifold_pl.callbacks.profile_table import (
    AFTER,
    BACKWARD,
    CLOSURE,
    FORWARD,
    MODULE,
    UPDATE,
    Breakdown,
    breakdown,
)
from minifold_pl.checkpoint.atomic import atomic_write_text
from minifold_pl.run import stop

FOLDER: Final = "profile"
TRACE: Final = "trace.json.gz"
_WARM: Final = 3
"""Batches before: caches, compilation, the optimizer's state."""
_FEWEST: Final = 3
"""Batches that are recorded at least; with accumulation whole windows, so that the optimizer's step is among them."""


class StepProfile(pl.Callback):
    """Profile a few warm training steps, by module.

    After three batches the next three (or the whole windows of accumulation that hold three) run under torch's
    profiler. Then a table is printed and written to ``profile/`` in the run folder, as text and JSON, beside the trace
    that chrome://tracing or ui.perfetto.dev shows. No number of the training changes; the recorded steps are slower.
    Under DDP it looks at the first process.

    .. code-block:: sh

        minifold-pl fit --config v13.yaml --data.path STORE --profile        # and goes on
        minifold-pl fit --config v13.yaml --data.path STORE --profile=stop   # and ends there, saved, as by ^C

    Args:
        then: ``go_on`` with the training, or ``stop``.
    """

    def __init__(self, then: Literal["go_on", "stop"]) -> None:
        self.then = then
        self._seen = 0
        self._recorded = 0
        self._done = False
        self._profiler: profile | None = None
        self._begun = 0.0
        self._undo: list[Callable[[], None]] = []

    # --- when ------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to record when training is warm and a window begins."""
        if self._done or not trainer.is_global_zero:
            return
        if (
            self._profiler is None
            and self._seen >= _WARM
            and batch_idx % trainer.accumulate_grad_batches == 0
        ):
            self._begin(trainer, pl_module)
        self._enter(FORWARD)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor
    ) -> None:
        """The forward pass has ended."""
        self._enter(BACKWARD)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What follows is clipping, guards and the optimizer."""
        self._enter(UPDATE)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show what was found when enough is recorded."""
        self._seen += 1
        if self._profiler is None:
            return
        self._recorded += 1
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if whole and self._recorded >= _FEWEST:
            self._finish(trainer, pl_module)
        else:
            self._enter(AFTER)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation is no step: show what there is, if that is a step at all."""
        if self._profiler is not None and self._recorded:
            self._finish(trainer, pl_module)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the module as it was."""
        self._release()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training was too short."""
        if self._done or not trainer.is_global_zero:
            return
        if self._recorded:
            self._finish(trainer, pl_module)
        else:
            self._release()
            print(f"no profile: training ended within {_WARM} batches, which come before the recorded ones")

    # --- what ------------------------------------------------------------------------------------

    def _begin(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        closures = [o.register_step_pre_hook(_name_closure).remove for o in trainer.optimizers]
        self._undo = [*_named_ranges(module), *closures]
        activities = [ProfilerActivity.CPU]
        if module.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(activities=activities, profile_memory=True, acc_events=True)
        self._profiler.__enter__()
        self._begun = perf_counter()

    def _enter(self, part: str) -> None:
        """Mark that a part of the step begins."""
        if self._profiler is not None:
            with record_function(part):
                pass

    def _release(self) -> None:
        if self._profiler is not None:
            self._profiler.__exit__(None, None, None)
            self._profiler = None
        for undo in self._undo:
            undo()
        self._undo = []
        self._done = True

    def _finish(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        profiler, seconds = self._profiler, perf_counter() - self._begun
        assert profiler is not None
        self._release()
        found = breakdown(profiler, batches=self._recorded, device=module.device.type, seconds=seconds)
        folder = Path(trainer.default_root_dir) / FOLDER
        try:
            folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(folder / TRACE))
            atomic_write_text(folder / "table.txt", found.text() + "\n")
            atomic_write_text(folder / "table.json", json.dumps(found.to_dict(), indent=1) + "\n")
        except OSError as error:
            print(f"the profile cannot be written to {folder}: {error.strerror or error}")
        self._show(found, folder)
        if self.then == "stop":
            stop.request("SIGINT")

    def _show(self, found: Breakdown, folder: Path) -> None:
        print(
            f"\n{found.text()}\n\n{folder}/: table.txt, table.json, {TRACE} (for ui.perfetto.dev)", flush=True
        )


def _named_ranges(root: nn.Module) -> Iterator[Callable[[], None]]:
    """Name the forward pass of every part of ``root`` in the profile; yields what undoes it."""
    inside_compiled: set[nn.Module] = set()
    for module in root.modules():
        if _compiled(module) is not None:
            inside_compiled.update(child for child in module.modules() if child is not module)
    for name, module in root.named_modules():
        ours = type(module).__module__.partition(".")[0] == __name__.partition(".")[0]
        if not name or not (ours or "." not in name) or module in inside_compiled:
            continue
        label = MODULE + re.sub(r"\.\d+(?=\.|$)", ".*", name)
        yield _name_plain(module, label) if _compiled(module) is None else _name_compiled(module, label)


def _name_closure(
    optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Before an optimizer's step: what it is handed to run first gets a range of its own."""
    closure = kwargs.get("closure")
    if closure is None:
        return None

    def named() -> Any:
        with record_function(CLOSURE):
            return closure()

    return args, {**kwargs, "closure": named}


def _compiled(module: nn.Module) -> Callable[..., Any] | None:
    """What runs in place of a module's ``forward`` and hooks after ``module.compile()``."""
    return module._compiled_call_impl


def _name_plain(module: nn.Module, label: str) -> Callable[[], None]:
    open_ranges: list[Any] = []

    def begin(module: nn.Module, args: Any) -> None:
        open_ranges.append(record_function(label).__enter__())

    def end(module: nn.Module, args: Any, output: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    # always: recomputation for the backward pass leaves a block as soon as it has what it needs, by an exception
    hooks = module.register_forward_pre_hook(begin), module.register_forward_hook(end, always_call=True)

    def undo() -> None:
        for hook in hooks:
            hook.remove()

    return undo


def _name_compiled(module: nn.Module, label: str) -> Callable[[], None]:
    """Around the compiled code: hooks would become part of it, and have it compiled again."""
    compiled = _compiled(module)
    assert compiled is not None

    def named(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return compiled(*args, **kwargs)

    def undo() -> None:
        module._compiled_call_impl = compiled

    module._compiled_call_impl = named
    return undo
