"""Stage 1: one encoder, trained to tell CATH class, CATH architecture and contacts from the sequence."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from minifold_pl.constants import CATH_CLASSES
from minifold_pl.nn.encoder import ContactEncoder, StructureEncoder, residue_mask
from minifold_pl.nn.masking import pair_mask
from minifold_pl.types import SequenceFeatures


class ContactOutput(NamedTuple):
    """What the classifier predicts, and the features it predicts it from."""

    features: SequenceFeatures
    class_logits: Float[Tensor, "b 4"]
    architecture_logits: Float[Tensor, "b k"]
    contact_logits: Float[Tensor, "b l l"]
    """Symmetric; 0 where either residue is masked."""


class ContactClassifier(StructureEncoder):
    """A :class:`~minifold_pl.nn.encoder.ContactEncoder` with three heads; 1.19 M parameters at the defaults.

    Args:
        architectures: CATH architectures in the training split's label set.
        d: channels of the single and pooled features.
        d_pair: channels of the pair features.
        towers: transformer towers, each with a contact block.
        layers: transformer layers of each tower.
        heads: attention heads of the towers.
        ffn: channels of the towers' transitions.
        outer_hidden: channels of each projection of the outer products.
        pair_heads: heads of the axial attention.
        positions: longest token sequence, CLS and EOS included.
        max_rel: largest sequence separation told apart in the pair features.
        dropout: share of a tower branch's channels dropped while training.
        window: neighbours that each token of a tower reads through one map before it attends; odd, 0 for none.
    """

    def __init__(
        self,
        architectures: int = 40,
        d: int = 128,
        d_pair: int = 64,
        towers: int = 2,
        layers: int = 2,
        heads: int = 8,
        ffn: int = 512,
        outer_hidden: int = 32,
        pair_heads: int = 4,
        positions: int = 512,
        max_rel: int = 32,
        dropout: float = 0.1,
        window: int = 0,
    ) -> None:
        super().__init__()
        if architectures < 1:
            raise ValueError(f"architectures={architectures}: the label set needs at least one entry")
        self.encoder = ContactEncoder(
            d,
            d_pair,
            towers,
            layers,
            heads,
            ffn,
            outer_hidden,
            pair_heads,
            positions,
            max_rel,
            dropout,
            window,
        )
        self.d_single, self.d_pair, self.d_pooled = d, d_pair, d
        self.classes = nn.Linear(d, len(CATH_CLASSES))
        self.architectures = nn.Linear(d, architectures)
        self.contacts = nn.Linear(d_pair, 1)

    @property
    def max_residues(self) -> int:
        """Longest chain that the position table holds."""
        return self.encoder.max_residues

    @property
    def stage_1_heads(self) -> tuple[nn.Module, ...]:
        """CATH class and architecture."""
        return self.classes, self.architectures

    def encode(self, tokens: Int[Tensor, "b n"]) -> SequenceFeatures:
        """Features of the ``n - 2`` residue places, 0 where there is no residue."""
        return self.encoder(tokens)

    def contact_logits(self, features: SequenceFeatures) -> Float[Tensor, "b l l"]:
        """Logit of the event that two residues are in contact; symmetric."""
        return self.contacts(features.pair + features.pair.transpose(1, 2)).squeeze(-1)

    def forward(self, tokens: Int[Tensor, "b n"]) -> ContactOutput:
        """Features and logits."""
        features = self.encode(tokens)
        valid = pair_mask(residue_mask(tokens))
        logits = self.contact_logits(features)
        return ContactOutput(
            features=features,
            class_logits=self.classes(features.pooled),
            architecture_logits=self.architectures(features.pooled),
            contact_logits=logits.masked_fill(~valid, 0.0),
        )
