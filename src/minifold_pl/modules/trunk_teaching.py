"""Heads on encoder and pair stack in training: which there are, what they are asked, how well they see contacts."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from minifold_pl.losses.trunk import CONTACTS, DISTOGRAM, HIDDEN_RESIDUES, SECONDARY_STRUCTURE, TrunkLosses
from minifold_pl.metrics.contacts import contact_precision
from minifold_pl.modules.hidden_residues import hide_residues
from minifold_pl.nn.encoder import StructureEncoder
from minifold_pl.nn.trunk_heads import TrunkHeads
from minifold_pl.types import ProteinBatch, SequenceFeatures, TrunkPrediction


def build_heads(
    losses: TrunkLosses, encoder: StructureEncoder, d_pair: int, *, freeze_encoder: bool
) -> TrunkHeads:
    """The heads that ``losses`` weigh, on the single features of ``encoder`` and pair features of ``d_pair`` channels.

    Raises:
        ValueError: a loss that teaches nothing but the encoder, which is frozen.
    """
    names = losses.weights.keys()
    if freeze_encoder and (untaught := sorted(names - {DISTOGRAM})):
        raise ValueError(
            f"trunk_losses has weights for {', '.join(untaught)}, which teach the encoder, but freeze_encoder is "
            "true: set it to false, or these weights to 0"
        )
    return TrunkHeads(
        encoder.d_single,
        d_pair,
        distogram_bins=losses.distogram_bins if DISTOGRAM in names else 0,
        secondary_structure=SECONDARY_STRUCTURE in names,
        residues=HIDDEN_RESIDUES in names,
    )


def freeze_idle_heads(encoder: StructureEncoder, losses: TrunkLosses) -> None:
    """Leave the heads of stage 1 alone that no loss of stage 2 reaches.

    They would only decay, and distributed training would wait for their gradients.
    """
    for head in encoder.stage_1_heads:
        head.requires_grad_(False)
    if CONTACTS not in losses.weights:
        encoder.contacts.requires_grad_(False)


def ask(
    heads: TrunkHeads,
    losses: TrunkLosses,
    encoder: StructureEncoder,
    features: SequenceFeatures,
    pair: Float[Tensor, "b l l p"],
) -> TrunkPrediction:
    """What the heads, and the encoder's own where it is taught, make of the features."""
    said = heads(features.single, pair)
    if CONTACTS in losses.weights:
        said = said._replace(contacts=encoder.contact_logits(features))
    return said


def hide(
    losses: TrunkLosses | None, tokens: Int[Tensor, "b n"], batch: ProteinBatch, *key: int | str
) -> Int[Tensor, "b n"]:
    """``tokens`` with some residues as MASK where there is a head to guess them; else ``tokens`` itself."""
    if losses is None or HIDDEN_RESIDUES not in losses.weights:
        return tokens
    return hide_residues(tokens, losses.hidden_share, batch.names, *key)


def long_range_precision(
    losses: TrunkLosses, distogram: Float[Tensor, "b l l k"], batch: ProteinBatch
) -> dict[str, tuple[Float[Tensor, ""], int]]:
    """Mean share of true contacts among the top L and L/5 of long range, and over how many chains.

    Chains without a pair so far apart are left out; a name without any chain is not there.
    """
    probability = losses.contact_probability(distogram)
    found = {}
    for label, top in (("L", 1), ("L5", 5)):
        share = contact_precision(probability, batch.ca, batch.ca_mask, top=top)
        if (known := share.isfinite()).any():
            found[f"precision_long_{label}"] = share[known].mean(), int(known.sum())
    return found
