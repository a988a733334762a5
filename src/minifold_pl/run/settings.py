"""What has changed in a run's settings since it was last started, and what of it matters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

HARMLESS: Final = (
    "run", "table", "throughput", "checkpoints", "best", "patience", "ddim", "hang_watch",
    "early_signs",
    "data.num_workers", "data.pin_memory", "data.prefetch_factor", "data.persistent_workers", "data.timeout",
    "trainer.max_epochs", "trainer.min_epochs", "trainer.max_steps", "trainer.min_steps", "trainer.max_time",
    "trainer.val_check_interval", "trainer.check_val_every_n_epoch", "trainer.limit_val_batches",
    "trainer.limit_test_batches", "trainer.limit_predict_batches", "trainer.num_sanity_val_steps",
    "trainer.logger", "trainer.callbacks", "trainer.profiler", "trainer.log_every_n_steps",
    "trainer.enable_checkpointing", "trainer.enable_progress_bar", "trainer.enable_model_summary",
    "trainer.enable_autolog_hparams", "trainer.accelerator", "trainer.deterministic", "trainer.benchmark",
    "trainer.detect_anomaly", "trainer.inference_mode", "trainer.default_root_dir", "trainer.model_registry",
    "trainer.devices", "trainer.num_nodes", "model.init_args.sampler", "model.init_args.checkpoint_activations",
    "model.init_args.pair_stack.init_args.checkpoint_activations",
    "model.init_args.denoiser.init_args.checkpoint_activations",
)  # fmt: skip
"""Settings, with all below them, that change neither what is trained nor on what: when training ends, what is
measured, kept and shown, and on what machine (how many processes that makes is pinned as a fact of its own:
:func:`minifold_pl.run.begin.pin_facts`). Every other setting is held to be part of the run."""
MOMENTARY: Final = (
    "run.fresh", "run.allow_changes", "run.accept_changes", "run.after_halt", "run.after_stop", "run.wait",
    "run.profile",
    "ckpt_path", "config",
)  # fmt: skip
"""What concerns one start only."""
LIMITS: Final = (
    "trainer.max_epochs", "trainer.min_epochs", "trainer.max_steps", "trainer.min_steps", "patience",
)  # fmt: skip
"""Settings that say when a run is done."""
MISSING: Final = "(none)"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One setting that is not what it was."""

    name: str
    """With dots, as a flag: ``model.init_args.p_uncond``."""
    before: Any
    """:data:`MISSING` where the setting was not there."""
    after: Any

    @property
    def harmless(self) -> bool:
        """Whether the run stays what it is."""
        return _below(self.name, HARMLESS)

    @property
    def limit(self) -> bool:
        """Whether it says when the run is done."""
        return _below(self.name, LIMITS)

    def __str__(self) -> str:
        return f"{self.name}: {_short(self.before)} → {_short(self.after)}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """The settings that differ, by name; a list is one setting."""
    old, new = flat(before), flat(after)
    return tuple(
        Change(name=name, before=old.get(name, MISSING), after=new.get(name, MISSING))
        for name in sorted(old.keys() | new.keys())
        if not _below(name, MOMENTARY) and old.get(name, MISSING) != new.get(name, MISSING)
    )


def fingerprint(config: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that depend on every setting that is part of the run, and on no other."""
    kept = {name: value for name, value in flat(config).items() if not _below(name, (*HARMLESS, *MOMENTARY))}
    return sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under names with dots; an empty section is a setting."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def _below(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _short(value: Any) -> str:
    text = value if value == MISSING else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"
