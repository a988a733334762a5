"""The contact predictor that knows nothing but the separation of two residues."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from minifold_pl.metrics.contacts import contact_map


class SeparationBaseline(nn.Module):
    """Contact probability by |i − j|, counted on training chains.

    The line that every contact score has to beat. Its two tables are buffers, so it is saved and moved
    like any module; :meth:`update` adds chains, and nothing is learned by gradient. Separations from
    ``separations`` − 1 on share the last entry.
    """

    contacts: Tensor
    pairs: Tensor

    def __init__(self, separations: int = 512) -> None:
        super().__init__()
        if separations < 2:
            raise ValueError(f"separations is {separations}; the table needs at least 2 entries")
        self.register_buffer("contacts", torch.zeros(separations, dtype=torch.long))
        self.register_buffer("pairs", torch.zeros(separations, dtype=torch.long))

    @torch.no_grad()
    def update(self, ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]) -> None:
        """Count the contacts of a batch; Cα in Å."""
        separation = self._separations(mask.shape[1])
        pair = (mask[:, :, None] & mask[:, None, :]).triu(1)
        for table, counted in ((self.pairs, pair), (self.contacts, contact_map(ca) & pair)):
            table.index_add_(0, separation.flatten(), counted.sum(0).flatten())

    def probabilities(self) -> Float[Tensor, " s"]:
        """Probability by separation, with half a contact and half a miss added so that none is 0 or 1."""
        return (self.contacts + 0.5) / (self.pairs + 1.0)

    def forward(self, length: int, pos_weight: float = 1.0) -> Float[Tensor, "l l"]:
        """Contact logits of any chain of ``length`` residues.

        ``pos_weight`` is that of the cross-entropy to compare with: log(pos_weight) added to the log odds
        is what minimises it.
        """
        logits = self.probabilities().logit() + torch.log(torch.tensor(pos_weight))
        return logits[self._separations(length)]

    def _separations(self, length: int) -> Tensor:
        place = torch.arange(length, device=self.pairs.device)
        return (place[:, None] - place[None, :]).abs().clamp(max=len(self.pairs) - 1)
