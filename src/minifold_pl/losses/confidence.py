"""What a confidence head is taught: the bin of the lDDT-Cα that each residue of a sampled structure really has."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from minifold_pl.geometry.precision import full_precision
from minifold_pl.losses.reduction import PerChain, chain_mean


@dataclass(frozen=True, kw_only=True)
class ConfidenceLoss:
    """A head that says how right each residue of a sampled structure is, and the samples that it learns from.

    x̂0 of a noised true chain, at any timestep that still shows the chain, is far better than what the model draws from
    noise alone: a head taught on it would be far too sure of samples. So each step draws a few whole structures, in few
    steps and without a gradient (AlphaFold 3's rollout: Abramson et al. 2024, fig. 2c), and the head learns from these.
    Nothing but the head does.
    """

    weight: float = 0.05
    """Weight in the total. AdamW divides by the gradient's size: to a head that has no other loss it hardly matters."""
    lr: float = 1e-3
    """Learning rate of the head, with no warmup and no decay: as long as the model changes, so do its samples, and they
    change most while its own rate decays. Measured on the quickstart: with the model's rates the head fell behind
    (error of a residue's lDDT 0.13 in the end), 150 steps at this one and the model as it was brought it to 0.055."""
    bins: int = 50
    """Bins of lDDT, equal parts of 0…1 (AlphaFold 2's)."""
    hidden: int = 128
    """Channels of the head's hidden layers (AlphaFold 2's)."""
    chains: int = 1
    """Structures that are drawn at each step and in each batch of the validation, of as many chains."""
    steps: int = 8
    """Denoising steps of each of them; all else is as ``sampler`` says."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(
                f"confidence.weight is {self.weight}: give a finite number above 0, or null for no confidence"
            )
        if not 0 < self.lr < math.inf:
            raise ValueError(f"confidence.lr is {self.lr}: give a learning rate above 0")
        for name, least in (("bins", 2), ("hidden", 1), ("chains", 1), ("steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"confidence.{name} is {getattr(self, name)}: give at least {least}")


@full_precision
def confidence_per_chain(
    logits: Float[Tensor, "b l n"], lddt: Float[Tensor, "b l"], mask: Bool[Tensor, "b l"]
) -> PerChain:
    r"""Cross-entropy, in nats, of the bin that the true lDDT of each residue lies in.

    .. math:: L = -|M|^{-1} \sum_{i \in M} \log p_i(\lfloor n\, \mathrm{lDDT}_i \rfloor)

    AlphaFold 2, suppl. 1.9.6 (there over residues of structures better than 3 Å in resolution). ln n where nothing is
    known. ``lddt`` 0…1; residues where it is not finite have no neighbours and do not count.
    """
    counted = mask & lddt.isfinite()
    bins = logits.shape[-1]
    true = (lddt.nan_to_num(0.0) * bins).long().clamp(0, bins - 1)
    return chain_mean(cross_entropy(logits.transpose(1, 2), true, reduction="none"), counted)
