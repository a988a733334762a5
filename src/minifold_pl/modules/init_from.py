"""Begin training at the weights of another run, maybe of another version of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.nn import Module

from minifold_pl.checkpoint.contents import (
    PROJECT_KEY,
    RAW_WEIGHTS_KEY,
    CheckpointError,
    load_unverified,
    verify,
)
from minifold_pl.checkpoint.finite import non_finite_tensors
from minifold_pl.modules.weight_matching import (
    FATES,
    Matching,
    lies_under,
    match_weights,
    prefixes_without_parameters,
    shown,
)

_SETTING: Final = "model.init_args.init_from"
_NAMED: Final = 8
_TRIES: Final = 3
_LINEAGE: Final = 20
"""How many ancestors are remembered."""


@dataclass(frozen=True, kw_only=True)
class InitFrom:
    """The checkpoint whose weights a new run begins with.

    Weights alone are taken over: optimizer, schedule, epochs and averages begin anew, and settings are this config's.
    A run that goes on has its weights already and does not read the checkpoint again.
    """

    ckpt: str | None = None
    """A checkpoint of the same stage, of this version or another one; null begins at random."""
    weights: Literal["ema", "raw"] = "ema"
    """``ema`` for the averaged weights, or the only ones where there was no average; ``raw`` for those beside them."""
    match: tuple[str, ...] = ()
    """Modules, as name prefixes, that must be the same in both: every tensor, with its shape."""
    fresh: tuple[str, ...] = ()
    """Modules, as name prefixes, that begin at random also where the checkpoint has something that fits; what lies
    here is left out of ``match``."""

    def __post_init__(self) -> None:
        if self.ckpt is not None and not self.ckpt.strip():
            raise ValueError(f"{_SETTING}.ckpt is empty: give a checkpoint, or null for none")
        for name in ("match", "fresh"):
            if not all(prefix.strip() for prefix in getattr(self, name)):
                raise ValueError(f"{_SETTING}.{name} holds an empty name: {list(getattr(self, name))}")
        both = [prefix for prefix in self.match if lies_under(prefix, self.fresh)]
        if both:
            raise ValueError(
                f"{both} are named in {_SETTING}.match, and lie in {_SETTING}.fresh {list(self.fresh)}: "
                "what begins at random cannot match"
            )


NOWHERE: Final = InitFrom()


class Initialisation:
    """The weights of a checkpoint and how they fit a module; nothing is changed before :meth:`apply`.

    Args:
        module: Begins with them.
        checkpoint: As read; its stage is checked.
        config: What to take over.
        elsewhere: Name prefixes that are not taken over for another reason than the config's, and the reason.

    Raises:
        ValueError: ``match`` or ``fresh`` name nothing of this model, or something that is taken from elsewhere.
        CheckpointError: The weights asked for are not there, or are no weights.
    """

    def __init__(
        self,
        module: Module,
        checkpoint: Mapping[str, Any],
        config: InitFrom,
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        elsewhere = elsewhere or {}
        self.config = config
        self.own: dict[str, Tensor] = dict(module.named_parameters())
        self.weights = _weights(checkpoint, config)
        for name, known in (("match", self.own), ("fresh", self.own | self.weights)):
            if absent := list(prefixes_without_parameters(known, getattr(config, name))):
                here = sorted({key.split(".")[0] for key in known})
                raise ValueError(
                    f"no parameter lies under {absent} of {_SETTING}.{name}; modules here: {here}"
                )
        for prefix, reason in elsewhere.items():
            if any(lies_under(wanted, (prefix,)) for wanted in config.match):
                raise ValueError(
                    f"{_SETTING}.match names {prefix}, which is not taken over: {reason}; leave it out"
                )
        buffers = {name for name, _ in module.named_buffers()}
        self.matching: Matching = match_weights(
            self.own, self.weights, fresh=(*config.fresh, *elsewhere), ignored=buffers
        )
        self._checkpoint = checkpoint

    def check(self) -> None:
        """Refuse weights that do not do what they were asked to.

        Raises:
            ValueError: A module that was to match does not, or nothing that is trained matches at all.
            CheckpointError: Weights that would be taken over are not finite.
        """
        for prefix in self.config.match:
            if differing := self.matching.differing(prefix):
                raise ValueError(
                    f"{prefix} was to match {self.config.ckpt} ({_SETTING}.match), and {len(differing)} of its tensors "
                    f"do not: {'; '.join(differing[:2])}{' …' if len(differing) > 2 else ''}"
                )
        matched = self.matching.names("matched")
        if not self.config.match and not any(self.own[name].requires_grad for name in matched):
            what = "nothing but frozen parameters" if matched else "nothing"
            theirs = sorted({shown(name.split(".")[0]) for name in self.weights})
            more = f" and {len(theirs) - _NAMED} more" if len(theirs) > _NAMED else ""
            raise ValueError(
                f"{what} of {self.config.ckpt} matches this model: it has "
                f"{', '.join(theirs[:_NAMED]) or 'no weights'}{more}"
            )
        if bad := non_finite_tensors({"state_dict": self._taken()}):
            first = bad[0].removeprefix("state_dict.")
            raise CheckpointError(
                f"{len(bad)} tensors of {self.config.ckpt} hold NaN or infinity, {first} among them"
            )

    @torch.no_grad()
    def apply(self) -> None:
        """Fill the module's matched parameters; call :meth:`check` first."""
        for name, value in self._taken().items():
            self.own[name].copy_(value)

    def text(self, sha256: str) -> str:
        """What came from where, for the screen."""
        about = self.origin(sha256)
        how = {"ema": "averaged weights", "raw": "raw weights", "only": "weights, no EMA"}[about["weights"]]
        return (
            f"initialised from {self.config.ckpt} ({how}, step {about['step']}, sha256 {sha256[:16]}); "
            f"optimizer and schedule begin anew\n{self.matching.table()}"
        )

    def origin(self, sha256: str) -> dict[str, Any]:
        """What checkpoints and the run folder keep of it: plain values."""
        project = self._checkpoint.get(PROJECT_KEY) or {}
        modules = self.matching.modules()
        counts = {fate: len(self.matching.names(fate)) for fate in FATES}
        earlier = project.get("initialised")
        now = {
            "ckpt": str(self.config.ckpt),
            "sha256": sha256,
            "step": _number(self._checkpoint.get("global_step")),
            "epoch": _number(self._checkpoint.get("epoch")),
            "weights": self.config.weights if RAW_WEIGHTS_KEY in self._checkpoint else "only",
        }
        return {
            **now,
            "tensors": counts,
            "whole": [module for module, tallies in modules.items() if tallies.keys() == {"matched"}],
            "modules": {
                module: {fate: asdict(tally) for fate, tally in tallies.items()}
                for module, tallies in modules.items()
            },
            "other_shape": dict(self.matching.unlike),
            "missing": self.matching.names("missing"),
            "unexpected": self.matching.names("unexpected"),
            "before": _lineage(earlier),
        }

    def _taken(self) -> dict[str, Tensor]:
        return {name: self.weights[name].to(self.own[name].dtype) for name in self.matching.names("matched")}


def _weights(checkpoint: Mapping[str, Any], config: InitFrom) -> dict[str, Tensor]:
    key = "state_dict"
    if config.weights == "raw":
        if RAW_WEIGHTS_KEY not in checkpoint:
            raise CheckpointError(
                f"{config.ckpt} holds one set of weights only, it was trained without EMA: "
                f"set {_SETTING}.weights to ema"
            )
        key = RAW_WEIGHTS_KEY
    weights = checkpoint.get(key)
    if not isinstance(weights, Mapping):
        raise CheckpointError(
            f"there are no weights in {config.ckpt}: its {key!r} is a {type(weights).__name__}"
        )
    foreign = [
        name for name, value in weights.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if foreign:
        raise CheckpointError(f"{key!r} of {config.ckpt} holds something else than tensors: {foreign[0]!r}")
    return dict(weights)


def _lineage(earlier: object) -> list[dict[str, Any]]:
    """The origins before this one, the nearest first: an ancestor's own record without its table."""
    if not isinstance(earlier, Mapping) or not earlier:
        return []
    before = earlier.get("before")
    entries = [earlier, *(before if isinstance(before, list) else [])]
    # Only what is known: a file may hold anything under these names, and it would travel on.
    kept = ("ckpt", "sha256", "step", "epoch", "weights")
    return [
        {name: entry[name] for name in kept if type(entry.get(name)) in (str, int)}
        for entry in entries[:_LINEAGE]
        if isinstance(entry, Mapping)
    ]


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def read_unchanged(path: Path) -> tuple[dict[str, Any], str]:
    """A checkpoint, and the sha256 of the very file it was read from; nothing in it is run.

    The run that writes it may still train, and put a newer one in its place at any moment.

    Raises:
        CheckpointError: Missing, damaged, no plain state, or replaced again and again.
    """
    for _ in range(_TRIES):
        before = _identity(path)
        digest = verify(path).sha256
        # The moments, two thirds of the file, stay on the disk.
        checkpoint = load_unverified(path, mmap=True)
        if before == _identity(path):
            return checkpoint, digest
    raise CheckpointError(f"{path} was replaced while it was read, {_TRIES} times: give a copy of it")


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
