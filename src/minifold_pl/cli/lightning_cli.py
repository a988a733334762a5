"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI around a run folder."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentError
from lightning.pytorch.callbacks.progress import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from minifold_pl.callbacks.checkpoints import BestCheckpoint, ResumeCheckpoint
from minifold_pl.callbacks.data_workers import kill_workers, notice_deaths_at_the_loader, worker_loss
from minifold_pl.callbacks.ddim_evaluator import DDIMEvaluator
from minifold_pl.callbacks.early_signs import EarlySigns
from minifold_pl.callbacks.ema import EMA
from minifold_pl.callbacks.exact_resume import ExactResume
from minifold_pl.callbacks.gradient_tripwire import GradientTripwire
from minifold_pl.callbacks.hang_watch import HangWatch
from minifold_pl.callbacks.lease_keeper import LeaseKeeper
from minifold_pl.callbacks.live_bar import use_live_bar
from minifold_pl.callbacks.loss_spike import LossSpike
from minifold_pl.callbacks.lost_rank import rank_loss
from minifold_pl.callbacks.module_clipping import ModuleClipping
from minifold_pl.callbacks.nonfinite_guard import NonFiniteGuard
from minifold_pl.callbacks.patience import Patience
from minifold_pl.callbacks.progress import EpochLines
from minifold_pl.callbacks.record_quarantine import RecordQuarantine
from minifold_pl.callbacks.run_events import RunEvents
from minifold_pl.callbacks.step_profile import StepProfile
from minifold_pl.callbacks.stop_on_signal import StopOnSignal
from minifold_pl.callbacks.structure_files import StructureFiles
from minifold_pl.callbacks.throughput import Throughput
from minifold_pl.checkpoint.contents import CheckpointError, read_checkpoint
from minifold_pl.checkpoint.io import AtomicCheckpointIO
from minifold_pl.checkpoint.newest import set_aside_later
from minifold_pl.cli.configs import expand_config_arguments
from minifold_pl.cli.errors import UserError
from minifold_pl.cli.processes import leave_time_to_the_main_process
from minifold_pl.cli.run_config import RunConfig
from minifold_pl.cli.run_start import AlreadyDone, Entered, enter, newest_whole
from minifold_pl.data.datamodule import ProteinDataModule
from minifold_pl.loggers.metrics_csv import MetricsCSV
from minifold_pl.loggers.wandb_logger import wandb_logger
from minifold_pl.modules.base import MinifoldModule
from minifold_pl.modules.load import build_module
from minifold_pl.modules.parsing import configure_parsing
from minifold_pl.run.begin import kept_precision, pin_facts
from minifold_pl.run.folder import RunFolder, fresh_folder
from minifold_pl.run.starts import forgive_start
from minifold_pl.run.stop import RunInterrupted, ignore_in_worker
from minifold_pl.run.stop_order import RunStopped, stop_order, told_stopped

configure_parsing()

STANDARD_CALLBACKS: dict[str, type[pl.Callback]] = {
    "nan_guard": NonFiniteGuard,
    "ema": EMA,
    "tripwire": GradientTripwire,
    "clipping": ModuleClipping,
    "spike": LossSpike,
    "early_signs": EarlySigns,
    "quarantine": RecordQuarantine,
    "throughput": Throughput,
    "ddim": DDIMEvaluator,
    "patience": Patience,
    "best": BestCheckpoint,
    "checkpoints": ResumeCheckpoint,
    "table": EpochLines,
    "hang_watch": HangWatch,
}
"""Sections of a config, in the order in which the callbacks run; more come under ``trainer.callbacks``."""

SHORT = {
    "--fresh": "--run.fresh=true",
    "--accept-changes": "--run.accept_changes=true",
    "--profile": "--run.profile=go_on",
    "--profile=stop": "--run.profile=stop",
}
"""Flags that have a short form."""


class MinifoldCLI(LightningCLI):
    """LightningCLI with a run folder: config, checkpoints, metrics and events of a run lie in one place."""

    run_folder: RunFolder
    entered: Entered

    def __init__(self, args: Sequence[str], default_folder: str, exits: contextlib.ExitStack) -> None:
        self.default_folder = default_folder
        self.chosen = args[0]
        self._exits = exits
        super().__init__(
            MinifoldModule,
            ProteinDataModule,
            subclass_mode_model=True,
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=_Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=list(args),
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static there
        """The one in use: the parsers of the others would double the time a start takes."""
        return {self.chosen: LightningCLI.subcommands()[self.chosen]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the ``run`` section, and one for each standard callback so that overlays and flags can change it."""
        add_project_arguments(parser, self.default_folder)

    def before_instantiate_classes(self) -> None:
        """Find the run folder and what to go on from."""
        config = self.config[self.subcommand]
        run = config.run
        self.run_folder = RunFolder(Path(run.dir).expanduser())
        if self.subcommand == "fit":
            if run.fresh:
                self.run_folder = RunFolder(fresh_folder(self.run_folder.path))
                run.dir = str(self.run_folder.path)
            if config.trainer.precision is None:
                kept = kept_precision(self.run_folder)
                config.trainer.precision = kept or machine_precision(config.trainer.accelerator)
            chosen = self._origin()
            self._explicit = chosen is not None
            self.entered = enter(self.run_folder, run, self._config_to_keep(), chosen, self._exits)
            if chosen is None and self.entered.checkpoint is not None:
                config.ckpt_path = str(self.entered.checkpoint)
        elif config.get("ckpt_path") is None:
            best = self.run_folder.checkpoints / "best.ckpt"
            newest = best if best.is_file() else newest_whole(self.run_folder)
            if newest is None:
                raise UserError(
                    f"nothing to {self.subcommand}: no checkpoint in {self.run_folder.checkpoints}; "
                    "give --ckpt_path, or --run.dir of a trained run",
                    exit_code=2,
                )
            config.ckpt_path = str(newest)
        else:
            read_checkpoint(Path(config.ckpt_path))
        config.trainer.default_root_dir = str(self.run_folder.path)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """A trainer whose checkpoints, loggers and events go to the run folder."""
        config = self.config[self.subcommand]
        self.run_folder.create()
        lease = self.entered.lease if self.subcommand == "fit" else None
        self.metrics = MetricsCSV(self.run_folder.metrics)
        loggers: list[Any] = []
        if self.subcommand == "fit":
            loggers.append(self.metrics)
            dashboard = wandb_logger(self.run_folder, config.run.wandb, config.run.wandb_project)
            if dashboard is not None:
                loggers.append(dashboard)
        configured = self._get(self.config_init, "trainer").get("logger")
        if configured not in (None, True, False):
            loggers += configured if isinstance(configured, list) else [configured]
        plugins = self._get(self.config_init, "trainer").get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list) else [plugins]
        if config.trainer.precision is None:
            kwargs["precision"] = machine_precision(config.trainer.accelerator)
        if config.trainer.enable_progress_bar is None:
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
        trainer = super().instantiate_trainer(
            logger=loggers or False,
            plugins=[*plugins, AtomicCheckpointIO(None if lease is None else lease.check)],
            **kwargs,
        )
        chosen = self._get(self.config_init, "trainer").get("callbacks") or []
        if not any(isinstance(callback, ProgressBar) for callback in chosen):
            use_live_bar(trainer)
        if isinstance(trainer.strategy, DDPStrategy):
            # Which parameters a batch uses is drawn for it: without self-conditioning, its map has no gradient.
            trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        if self.subcommand == "fit":
            origin = self._origin()
            ours = origin is not None and origin.parent == self.run_folder.checkpoints
            resumed = None if origin is None else origin.name if ours else str(origin)
            callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
            profiled = config.run.profile
            callbacks[:] = [
                *([] if lease is None else [LeaseKeeper(lease)]),
                *([] if profiled in ("off", False) else [StepProfile(profiled)]),
                ExactResume(),
                *callbacks,
                StopOnSignal(),
                RunEvents(self.run_folder, resumed),
            ]
            # Signals have one owner, run/stop.py: Lightning's handlers save inside the handler or end with code 0.
            trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
            self.datamodule.worker_init = ignore_in_worker
            leave_time_to_the_main_process()
            notice_deaths_at_the_loader()
        if self.subcommand == "predict":
            trainer.callbacks.append(StructureFiles())  # type: ignore[attr-defined]
        return trainer

    def after_fit(self) -> None:
        """Say what there is now, and what to do next."""
        folder = self.run_folder
        best = folder.checkpoints / "best.ckpt"
        if not self.trainer.is_global_zero or not best.is_file():
            return
        print(f"\nrun folder  {folder.path}\ncheckpoint  {best}\nnext:")
        if self.model.stage == "contact":
            print(
                f"  minifold-pl fit --config v13.yaml --data.path {self.datamodule.path}"
                f" --model.init_args.encoder_ckpt {best}"
            )
        else:
            print(f"  minifold-pl sample --ckpt {best} --sequence MKTAYIAKQRQISFVKSHFSRQLEE --out samples")
        print(
            f"  minifold-pl evaluate --ckpt {best} --data {self.datamodule.path} --split test --out evaluation"
        )

    def after_instantiate_classes(self) -> None:
        """Let the module know the config it was built from: checkpoints carry it."""
        assert isinstance(self.model, MinifoldModule)
        self.model.model_config = self.plain_config()["model"]

    def plain_config(self) -> dict[str, Any]:
        """The resolved config of the subcommand as plain values."""
        return _plain(self._parser(self.subcommand), self.config[self.subcommand])

    def fit(self, model: MinifoldModule, **kwargs: Any) -> None:
        """Train in the run folder, alone in it."""
        folder, origin = self.run_folder, self._origin()
        if self.trainer.is_global_zero:
            run = self.config[self.subcommand].run
            # ``devices: auto`` and an open precision make another run on another machine.
            facts = {"processes": self.trainer.world_size, "precision": str(self.trainer.precision)}
            pin_facts(folder, facts, trained=origin is not None, accept_changes=run.accept_changes)
            if origin is not None and self._explicit and origin.parent == folder.checkpoints:
                # The newer ones would win at the next start.
                set_aside_later(folder.checkpoints, self.entered.step)
            self.metrics.resume_from(self.entered.step, self.entered.metrics)
            if origin is not None:
                print(f"resuming {folder.path} from {origin.name} (step {self.entered.step})", flush=True)
        try:
            self.trainer.fit(
                model, weights_only=True, **{k: v for k, v in kwargs.items() if k != "weights_only"}
            )
        except RunInterrupted as interrupted:
            if self.entered.lease is not None:
                forgive_start(folder.starts)
            order = stop_order(folder)
            if order is not None:
                raise RunStopped(told_stopped(folder, order)) from interrupted
            raise
        except (RuntimeError, OSError, EOFError) as error:
            lost = worker_loss(error) or rank_loss(error, self.trainer.world_size)
            if lost is None:
                raise
            raise lost from error
        except SystemExit as stop:
            # Lightning turns an interruption into an exit of its own, after a signal even with code 0.
            if self.trainer.interrupted:
                raise KeyboardInterrupt from stop
            raise
        finally:
            # A stopped one would never end by itself, and this process waits for it at its end.
            kill_workers()

    def _origin(self) -> Path | None:
        """The checkpoint that this start goes on from, found here or given by ``--ckpt_path``."""
        path = self.config[self.subcommand].get("ckpt_path")
        return None if path is None else Path(path)

    def _config_to_keep(self) -> dict[str, Any]:
        """The settings of the run without those of this start: ``fit --config`` on it goes on with the run."""
        config = self.plain_config()
        once = {
            name: getattr(RunConfig(), name)
            for name in ("fresh", "accept_changes", "after_halt", "after_stop", "wait", "profile")
        }
        return {**config, "ckpt_path": None, "run": {**config["run"], **once}}


class _Parser(LightningArgumentParser):
    """A parser that raises instead of printing a usage of several screens, and guesses no name from its start."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "exit_on_error": False, "allow_abbrev": False})


def run(args: Sequence[str]) -> int:
    """Run one of the four subcommands.

    Args:
        args: The arguments, the subcommand first.
    """
    try:
        cli(args)
    except AlreadyDone as done:
        print(done)
    return 0


def cli(args: Sequence[str]) -> MinifoldCLI:
    """Parse ``args``, build everything and run the subcommand; returns the finished CLI.

    Raises:
        UserError: A wrong setting, a missing file, a run in use …
    """
    arguments, names = expand_config_arguments(args)
    arguments = [SHORT.get(a, a) for a in arguments]
    quiet_libraries()
    folder = str(Path("runs") / (names[-1] if names else "run"))
    with user_errors(), contextlib.ExitStack() as exits:
        return MinifoldCLI(arguments, default_folder=folder, exits=exits)


def add_project_arguments(parser: LightningArgumentParser, default_folder: str | None) -> None:
    """The sections that are ours: ``run``, and the standard callbacks."""
    parser.add_argument(
        "--run", type=RunConfig, default=RunConfig(dir=default_folder), help="Run folder and dashboards."
    )
    for section, callback in STANDARD_CALLBACKS.items():
        parser.add_lightning_class_args(callback, section)


def resolve_config(config: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A config with everything it is based on and every default, as plain values.

    Args:
        config: Path or shipped name.
        overrides: Further arguments such as ``--model.init_args.p_uncond=0``.

    Raises:
        UserError: No such config, or a wrong setting in it.
    """
    arguments, _ = expand_config_arguments(["--config", config, *overrides])
    parser = _Parser()
    parser.add_argument("-c", "--config", action=ActionConfigFile)
    parser.add_argument("--seed_everything", type=bool | int, default=0)
    parser.add_lightning_class_args(pl.Trainer, "trainer")
    parser.add_lightning_class_args(MinifoldModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(ProteinDataModule, "data")
    add_project_arguments(parser, None)
    parser.set_defaults({"data.path": ""})
    quiet_libraries()
    with user_errors():
        return _plain(parser, parser.parse_args(arguments))


def instantiate_model(config: str, overrides: Sequence[str] = ()) -> MinifoldModule:
    """The model of a config, without data, trainer or run folder; arguments as in :func:`resolve_config`."""
    resolved = resolve_config(config, overrides)
    with user_errors():
        return build_module(resolved["model"])


def machine_precision(accelerator: object = "auto") -> str:
    """Where the config leaves ``trainer.precision`` open: the fastest safe one of this machine.

    Args:
        accelerator: what ``trainer.accelerator`` says.
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _plain(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    return yaml.safe_load(parser.dump(config, skip_unset=False))


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn what users get wrong into :class:`UserError`; anything unforeseen keeps its traceback."""
    try:
        yield
    except ArgumentError as error:
        raise UserError(_one_or_two_lines(str(error)), exit_code=2) from error
    except (ValueError, CheckpointError, MisconfigurationException) as error:
        raise UserError(_one_or_two_lines(str(error))) from error
    except OSError as error:
        raise UserError(
            f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
        ) from error


def _one_or_two_lines(text: str) -> str:
    """The telling part of a library's message.

    jsonargparse reports, level by level, every type of a union that did not fit, and repeats the whole value.
    """
    lines = [" ".join(line.split()).removeprefix("- ") for line in text.splitlines() if line.strip()]
    noise = (
        "Subtypes:", "Given value", "Errors:", "Does not validate", "Expected a <class 'NoneType'>",
        "Problem with given class_path",
    )  # fmt: skip
    told = [line for line in lines if not line.startswith(noise)] or lines[:1] or ["unknown error"]
    if len(told) > 1 and told[0].endswith(":"):
        told[0:2] = [f"{told[0]} {told[1]}"]
    return "\n".join(told[:2])


def quiet_libraries() -> None:
    """Silence what libraries say about choices that are made here on purpose."""
    for message in (
        ".*args parameter is intended to run from within Python.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*does not have many workers.*",
        ".*The number of training batches .* is smaller than the logging interval.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*resuming from a checkpoint that ended before the epoch ended.*",
        ".*recommended to use `self.log\\(.*sync_dist=True.*",
        ".*find_unused_parameters=True was specified.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
