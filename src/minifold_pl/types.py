"""What flows between the rooms: batches, frames, conditions and predictions.

Axis legend, used in every annotation of the project:
``b`` batch · ``n`` token · ``l`` residue · ``i`` query · ``j`` key · ``k`` third residue · ``h`` head ·
``p`` point · ``d`` channel · ``a`` backbone atom (N, Cα, C, O).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minifold_pl.constants import CA_ATOM, PAD

Coordinates = Literal["none", "ca", "backbone"]
"""What must be known of a chain to be of use: its sequence alone, its Cα, or its N, Cα and C."""


class Frames(NamedTuple):
    """Rigid frames: a point ``p`` of frame ``i`` lies at ``rotation[i] @ p + translation[i]``."""

    rotation: Float[Tensor, "*batch 3 3"]
    translation: Float[Tensor, "*batch 3"]


@dataclass(frozen=True, kw_only=True)
class ProteinBatch:
    """Protein chains padded to one length ``l``; tokens have ``n = l + 2`` (CLS, residues, EOS, PAD…).

    Coordinates are in Å. Where an atom is missing its mask is False; a missing Cα inside a chain is
    filled by interpolation along the chain, so that a noised chain has a place for it, every other missing
    atom is 0.
    """

    names: tuple[str, ...]
    tokens: Int[Tensor, "b n"]
    residue_mask: Bool[Tensor, "b l"]
    """Residues of the sequence, with or without coordinates."""
    coords: Float[Tensor, "b l 4 3"]
    """N, Cα, C, O in Å."""
    atom_mask: Bool[Tensor, "b l 4"]
    bonded: Bool[Tensor, "b l"]
    """True at ``i`` when residues ``i`` and ``i + 1`` are joined by a peptide bond."""
    residue_index: Int[Tensor, "b l"]
    """Place in the whole chain, from 0: a crop keeps its places."""
    cath_class: Int[Tensor, " b"]
    """0…3, or ``NO_LABEL``."""
    cath_architecture: Int[Tensor, " b"]
    """Index into the training split's label set, or ``NO_LABEL``."""
    cropped: Bool[Tensor, " b"] | None = None
    """Pieces of longer chains; None where nobody has said."""
    contacts_cut: Float[Tensor, " b"] | None = None
    """Of the contacts of each piece's residues, 12 or more places apart, the share whose other end was cut off; 0 of a
    whole chain."""

    @property
    def ca(self) -> Float[Tensor, "b l 3"]:
        """Cα positions in Å."""
        return self.coords[:, :, CA_ATOM]

    @property
    def ca_mask(self) -> Bool[Tensor, "b l"]:
        """Residues whose Cα was observed."""
        return self.atom_mask[:, :, CA_ATOM] & self.residue_mask

    @property
    def lengths(self) -> Int[Tensor, " b"]:
        """Residues per chain."""
        return self.residue_mask.sum(-1)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> Self:
        """Some of the chains, at the same padding."""
        return replace(self, **self._changed(lambda x: x[rows]), names=self.names[rows])

    def chains(self, places: Sequence[int]) -> Self:
        """The chains at ``places``, in that order, at the same padding."""
        rows = torch.tensor(places, dtype=torch.long, device=self.tokens.device)
        return replace(
            self, **self._changed(lambda x: x[rows]), names=tuple(self.names[place] for place in places)
        )

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The batch on another device (same arguments as :meth:`torch.Tensor.to`)."""
        return replace(self, **self._changed(lambda x: x.to(*args, **kwargs)))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory."""
        return replace(self, **self._changed(Tensor.pin_memory))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}


def token_mask(tokens: Int[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """The attention mask: everything but padding."""
    return tokens.ne(PAD)


class SequenceFeatures(NamedTuple):
    """What a sequence encoder hands to the second stage; CLS and EOS are gone."""

    single: Float[Tensor, "b l d"]
    pair: Float[Tensor, "b l l p"]
    pooled: Float[Tensor, "b e"]
    """One attention-pooled embedding a chain."""


class Prepared(NamedTuple):
    """What a denoiser makes of a condition on its own, computed once for all steps of a sampler."""

    single: Float[Tensor, "b l d"]
    """The single features, projected to the denoiser's channels."""
    pair_bias: tuple[Float[Tensor, "b h i j"], ...] = ()
    """What the pair features add to the logits of each layer's attention."""


class Condition(NamedTuple):
    """Everything the denoiser reads that depends neither on ``x_t`` nor on ``t``."""

    single: Float[Tensor, "b l d"]
    pair: Float[Tensor, "c l l p"]
    """As many rows as the others, or one for every k of them: noised copies of a chain, which lie copy-major (all
    chains, then all chains again), share theirs."""
    mask: Bool[Tensor, "b l"]
    bonded: Bool[Tensor, "b l"]
    prepared: Prepared | None = None
    """Of the very denoiser that reads the condition; None: it computes that itself, at every call."""


class Denoised(NamedTuple):
    """A denoiser's prediction, in model units."""

    x0: Float[Tensor, "b l 3"]
    rotation: Float[Tensor, "b l 3 3"]
    local_atoms: Float[Tensor, "b l 4 3"] | None = None
    """N, Cα, C and O seen from each residue's frame, from a denoiser with a backbone head."""
    confidence: Float[Tensor, "b l"] | None = None
    """Expected lDDT-Cα of each residue, 0…1, of samples from a model with a confidence head; not calibrated."""


class Denoiser(Protocol):
    """Any callable that predicts the clean chain from a noised one."""

    def __call__(
        self,
        x_t: Float[Tensor, "b l 3"],
        t: Int[Tensor, " b"],
        condition: Condition,
        previous: Denoised | None = None,
        use_previous: Bool[Tensor, " b"] | None = None,
    ) -> Denoised:
        """``x_t`` in model units, centred; ``previous`` is the self-conditioning estimate.

        ``use_previous`` says which chains of the batch use it; None means all.
        """
        ...


class TrunkPrediction(NamedTuple):
    """What heads on encoder and pair stack say of each sequence; logits, None where there is no such head."""

    distogram: Float[Tensor, "b l l k"] | None = None
    """Logit ``k`` of the event that the Cα–Cα distance lies in bin ``k``."""
    secondary_structure: Float[Tensor, "b l 3"] | None = None
    """Of coil, helix and strand."""
    residues: Float[Tensor, "b l v"] | None = None
    """Of the 20 amino acids."""
    contacts: Float[Tensor, "b l l"] | None = None
    """Of a contact."""


class StructurePrediction(NamedTuple):
    """Everything the objective of the second stage looks at, in model units."""

    x0: Float[Tensor, "b l 3"]
    rotation: Float[Tensor, "b l 3 3"]
    log_rg: Float[Tensor, " b"]
    """Natural logarithm of the radius of gyration in Å."""
    distance_logits: Float[Tensor, "c l l k"]
    """Logit ``k`` of the event that the Cα–Cα distance exceeds edge ``k``."""
    local_atoms: Float[Tensor, "b l 4 3"] | None = None
    """N, Cα, C and O seen from each residue's frame."""
    contacts: Float[Tensor, "b l l"] | None = None
    """Probability that two residues are in contact, as the sequence encoder sees it."""
    trunk: TrunkPrediction | None = None
    """Of the chains themselves: one row for each, however many noised copies of it the others hold."""


class StructureTarget(NamedTuple):
    """The truth beside a :class:`StructurePrediction`, in model units."""

    x0: Float[Tensor, "b l 3"]
    rotation: Float[Tensor, "b l 3 3"]
    mask: Bool[Tensor, "b l"]
    """Residues whose Cα was observed."""
    bonded: Bool[Tensor, "b l"]
    unit: Float[Tensor, " b"] | None = None
    """Å in a model unit of each chain where that is the chain's own size; None: 10 Å."""
    atoms: Float[Tensor, "b l 4 3"] | None = None
    """N, Cα, C and O, where a model predicts them; ``rotation`` is then that of N, Cα and C."""
    atom_mask: Bool[Tensor, "b l 4"] | None = None
    """Which of them were observed."""
    snr: Float[Tensor, " b"] | None = None
    """Signal-to-noise ratio of the noised chain that the prediction was made from."""
    clamped: Float[Tensor, " b"] | None = None
    """Share of FAPE that is clamped: 1 or 0 where it was drawn, None for what is expected of the draw."""
    hidden: Int[Tensor, "b l"] | None = None
    """The amino acids, 0…19, of residues that the model was shown as MASK among others; ``NO_LABEL`` elsewhere."""


_Parts = TypeVar("_Parts", bound=tuple[Any, ...])


def map_tensors(change: Callable[[Tensor], Tensor], parts: _Parts) -> _Parts:
    """``parts``, a NamedTuple of tensors, nested ones and None, with every tensor changed."""
    changed = (
        change(x) if isinstance(x, Tensor) else map_tensors(change, x) if isinstance(x, tuple) else x
        for x in parts
    )
    return type(parts)(*changed) if hasattr(parts, "_fields") else type(parts)(changed)


def detach(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same scalars without their graph, for logging."""
    return {name: torch.as_tensor(term).detach() for name, term in terms.items()}
