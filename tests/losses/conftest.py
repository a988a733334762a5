"""Two chains, the second shorter and broken, with a noisy prediction of them, in model units and float64."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from minifold_pl.geometry.frames import ca_frames, random_rotations
from minifold_pl.geometry.measures import radius_of_gyration
from minifold_pl.geometry.units import center, to_angstrom
from minifold_pl.types import Frames, StructurePrediction, StructureTarget, map_tensors

LENGTH = 14


class Case(NamedTuple):
    """A prediction beside its truth, and what becomes of them when moved, padded or mirrored."""

    prediction: StructurePrediction
    target: StructureTarget

    @property
    def truth(self) -> Case:
        """The truth, as if it had been predicted."""
        perfect = self.prediction._replace(
            x0=self.target.x0,
            rotation=self.target.rotation,
            log_rg=radius_of_gyration(to_angstrom(self.target.x0), self.target.mask).log(),
        )
        return Case(perfect, self.target)

    def moved(self) -> Case:
        """The prediction turned and shifted, frames and points together."""
        turn = random_rotations(1, dtype=torch.float64)[0]
        p = self.prediction
        return self._replace(prediction=p._replace(x0=p.x0 @ turn.T + 4, rotation=turn @ p.rotation))

    def moved_together(self) -> Case:
        """Prediction and truth turned by the same rotation."""
        turn = random_rotations(1, dtype=torch.float64)[0]
        p, t = self
        return Case(
            p._replace(x0=p.x0 @ turn.T, rotation=turn @ p.rotation),
            t._replace(x0=t.x0 @ turn.T, rotation=turn @ t.rotation),
        )

    def mirrored(self) -> Case:
        """The mirror image of the truth as the prediction, with the frames of its own trace."""
        t = self.target
        x0 = t.x0 * torch.tensor([1.0, 1.0, -1.0], dtype=t.x0.dtype)
        return Case(
            self.truth.prediction._replace(x0=x0, rotation=ca_frames(x0, t.mask, t.bonded).rotation), t
        )

    def padded(self, *, by: int = 5, junk: float = 1e3) -> Case:
        """Longer by some masked residues that hold large numbers."""
        p, t = self

        def lengthen(x: Tensor, axes: int, value: float) -> Tensor:
            for axis in range(1, 1 + axes):
                shape = list(x.shape)
                shape[axis] = by
                x = torch.cat((x, torch.full(shape, value, dtype=x.dtype)), dim=axis)
            return x

        return Case(
            p._replace(
                x0=lengthen(p.x0, 1, junk),
                rotation=lengthen(p.rotation, 1, junk),
                distance_logits=lengthen(p.distance_logits, 2, junk),
            ),
            t._replace(
                x0=lengthen(t.x0, 1, -junk),
                rotation=lengthen(t.rotation, 1, -junk),
                mask=lengthen(t.mask, 1, False),
                bonded=lengthen(t.bonded, 1, True),
            ),
        )

    def chain(self, index: int) -> Case:
        """One chain alone."""
        pick = slice(index, index + 1)
        return Case(
            map_tensors(lambda x: x[pick], self.prediction),
            map_tensors(lambda x: x[pick], self.target),
        )

    def to(self, dtype: torch.dtype) -> Case:
        """In another precision."""
        return Case(
            map_tensors(lambda x: x.to(dtype), self.prediction),
            map_tensors(lambda x: x.to(dtype) if x.is_floating_point() else x, self.target),
        )

    @property
    def pred_frames(self) -> Frames:
        """Predicted frames."""
        return Frames(self.prediction.rotation, self.prediction.x0)

    @property
    def true_frames(self) -> Frames:
        """True frames."""
        return Frames(self.target.rotation, self.target.x0)


@pytest.fixture
def case() -> Case:
    """Chain 0: 14 residues. Chain 1: 11, residue 4 missing, a break after residue 7."""
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [11]])
    mask[1, 4] = False
    bonded = mask.clone()
    bonded[0, -1] = bonded[1, 10] = bonded[1, 7] = False
    steps = torch.nn.functional.normalize(torch.randn(2, LENGTH, 3, dtype=torch.float64), dim=-1)
    true = center((0.38 * steps).cumsum(1), mask)
    x0 = true + 0.1 * torch.randn_like(true)
    return Case(
        StructurePrediction(
            x0=x0,
            rotation=random_rotations(2 * LENGTH, dtype=torch.float64).view(2, LENGTH, 3, 3),
            log_rg=torch.randn(2, dtype=torch.float64),
            distance_logits=torch.randn(2, LENGTH, LENGTH, 31, dtype=torch.float64),
        ),
        StructureTarget(x0=true, rotation=ca_frames(true, mask, bonded).rotation, mask=mask, bonded=bonded),
    )
