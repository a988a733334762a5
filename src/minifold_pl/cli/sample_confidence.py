"""What ``sample`` writes into the B-factor column: the model's confidence, or how far samples agree."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.generation import told_to_the_user

if TYPE_CHECKING:
    import numpy as np
    import torch

    from minifold_pl.modules.sampling import SamplerConfig
    from minifold_pl.modules.structures import SampledChain
    from minifold_pl.results.calibration import Calibration

_AGREEMENT = {
    True: "0-100: mean lDDT-CA of the residue over the other samples (how reproducible, not how right)",
    False: "0 throughout: one sample agrees with nothing; draw 2 or more for a confidence",
}


@dataclass(frozen=True, kw_only=True)
class BFactors:
    """What the column holds, and how it is made."""

    told: str
    """In words."""
    calibration: Calibration | None = None

    @classmethod
    def of(
        cls, module: Any, args: argparse.Namespace, checkpoint: Mapping[str, Any], sampler: SamplerConfig
    ) -> Self:
        """What the options ask for.

        Raises:
            UserError: This model cannot give it, or the calibration is not its own.
        """
        from minifold_pl.export.plddt import plddt_told

        if module.confidence_head is None:
            asked = {
                "--calibration": args.calibration is not None,
                "--rank-by confidence": args.rank_by == "confidence",
            }
            for flag, given in asked.items():
                if given:
                    raise UserError(
                        f"{flag}: {args.ckpt} has no confidence head; train one with model.init_args.confidence",
                        exit_code=2,
                    )
            return cls(told=_AGREEMENT[args.num_samples > 1])
        if args.calibration is None:
            return cls(told=plddt_told(None))
        found = _calibration(args, checkpoint, sampler)
        return cls(told=plddt_told(found.told), calibration=found)

    def of_sample(self, sample: SampledChain, agreement: torch.Tensor) -> tuple[np.ndarray, dict[str, float]]:
        """The residues' B-factors, and what the manifest says of the sample."""
        from minifold_pl.export.plddt import plddt

        if sample.confidence is None:
            return (100 * agreement).clamp(0, 100).numpy(), {}
        known = sample.confidence.numpy()
        factors = plddt(known if self.calibration is None else self.calibration.map(known))
        return factors, {"plddt": round(float(factors.mean()), 2)}

    def manifest(self) -> dict[str, Any]:
        """What the manifest says of the calibration; nothing without one."""
        one = self.calibration
        if one is None:
            return {}
        about = {"path": one.path, "split": one.split, "chains": one.chains, "settings": dict(one.settings)}
        return {"calibration": about}


def confidences(samples: Sequence[SampledChain]) -> list[float]:
    """Mean confidence of each sample, 0…1, not calibrated: a calibration keeps their order but for ties."""
    return [0.0 if one.confidence is None else float(one.confidence.mean()) for one in samples]


def _calibration(
    args: argparse.Namespace, checkpoint: Mapping[str, Any], sampler: SamplerConfig
) -> Calibration:
    from minifold_pl.results.calibration import read_calibration

    with told_to_the_user(exit_code=2):
        found = read_calibration(args.calibration)
    for what, theirs, own in (
        ("checkpoint", found.sha256, checkpoint["sha256"]),
        ("weights", found.weights, checkpoint["weights"]),
    ):
        if theirs != own:
            raise UserError(
                f"--calibration {found.path} is of other {what} ({theirs[:16]}) than --ckpt ({own[:16]}): evaluate "
                "this one",
                exit_code=2,
            )
    settings = sampler.told()
    other = [
        f"{name} {value}, not {settings[name]}"
        for name, value in found.settings.items()
        if name in settings and value != settings[name]
    ]
    if other:
        print(f"warning: calibrated on samples drawn with {', '.join(other)}", file=sys.stderr)
    if found.split in ("train", "all"):
        print(
            f"warning: calibrated on {found.told}; of chains that the model was trained on it is too sure",
            file=sys.stderr,
        )
    return found
