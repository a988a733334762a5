"""How a model of structures draws them: its trunk once for each sequence, then the sampler around its denoiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from minifold_pl.data.tokenizer import null_tokens
from minifold_pl.diffusion.draws import keyed_generator
from minifold_pl.diffusion.guidance import GuidedDenoiser
from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.geometry.units import Scale, predicted_unit, to_angstrom
from minifold_pl.modules.base import MinifoldModule
from minifold_pl.modules.compiling import ReplayedDenoiser
from minifold_pl.modules.confidence import confidence_logits
from minifold_pl.modules.hidden_residues import without_residues
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.modules.trunks import Trunk, Trunks
from minifold_pl.nn.confidence import ConfidenceHead, expected_lddt
from minifold_pl.nn.encoder import StructureEncoder
from minifold_pl.nn.heads import RgHead
from minifold_pl.nn.null_condition import NullCondition
from minifold_pl.nn.structure_denoiser import StructureDenoiser
from minifold_pl.types import Condition, Denoised, Denoiser, ProteinBatch, SequenceFeatures


class Drawn(NamedTuple):
    """Sampled structures, and what else is known of their chains."""

    structure: Denoised
    """Å."""
    condition: Condition
    unit: Tensor | None
    """(b) Å in a model unit of each chain; None: 10."""


class StructureSampling(MinifoldModule):
    """A module whose structures can be drawn; its networks and settings come from the class that trains them."""

    encoder: StructureEncoder
    denoiser: StructureDenoiser
    rg_head: RgHead
    null_condition: NullCondition | None
    confidence_head: ConfidenceHead | None
    """Judges what is drawn."""
    noise_schedule: CosineSchedule
    scale: Scale
    sampler: SamplerConfig
    """The settings where a call gives none."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._trunks: Trunks | None = None
        self._graphs: ReplayedDenoiser | None = None

    def encode(self, tokens: Tensor) -> SequenceFeatures:
        """Features of the sequences."""
        raise NotImplementedError

    def _known(
        self,
        features: SequenceFeatures,
        tokens: Tensor,
        mask: Tensor,
        places: Tensor,
        recycles: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Single and pair features for the denoiser."""
        raise NotImplementedError

    @contextmanager
    def sharing_trunks(self) -> Iterator[Trunks]:
        """Within it all calls of :meth:`sample` run encoder and pair stack once for each different sequence.

        Weights, device and precision must stay as they are. Nested, the outermost one counts.
        """
        if self._trunks is not None:
            yield self._trunks
            return
        self._trunks = Trunks(self._trunk)
        try:
            yield self._trunks
        finally:
            self._trunks = None

    def _trunk(self, tokens: Tensor, mask: Tensor, residue_index: Tensor) -> Trunk:
        null = self.null_condition
        if null is not None and bool(without_residues(tokens).all()):
            single, pair = null(mask, residue_index)
            return Trunk(single, pair, single.new_zeros(len(single), self.encoder.d_pooled))
        features = self.encode(tokens)
        return Trunk(*self._known(features, tokens, mask, residue_index), features.pooled)

    @torch.no_grad()
    def sample(
        self,
        batch: ProteinBatch,
        sampler: SamplerConfig | None = None,
        *,
        seed: int,
        keys: Sequence[str],
        confidence: bool = True,
    ) -> Denoised:
        """Draw one structure for each sequence of ``batch``; its coordinates are not looked at.

        Args:
            batch: Sequences; only tokens, masks, residue places and bonds are read.
            sampler: Settings; the module's own where None.
            seed: Seed of the noise.
            keys: One a chain: the same seed and key give the same noise in any batch.
            confidence: Have a confidence head judge them, where there is one: one more call of the denoiser.

        Returns:
            Cα positions in Å, centred, rotations, and N, C and O in their frames where the denoiser predicts them.
        """
        drawn = self._draw(batch, sampler or self.sampler, seed, keys)
        if not confidence or self.confidence_head is None:
            return drawn.structure
        expected = expected_lddt(self._judged(self.confidence_head, drawn, seed, keys))
        return drawn.structure._replace(confidence=expected.masked_fill(~batch.residue_mask, 0.0))

    def _judged(self, head: ConfidenceHead, drawn: Drawn, seed: int, keys: Sequence[str]) -> Tensor:
        """Logits of the confidence in each residue, (b l n)."""
        generators = [keyed_generator(seed, "confidence", key) for key in keys]
        return confidence_logits(
            head, self.denoiser, drawn.condition, drawn.structure.x0, drawn.unit, generators
        )

    def _draw(self, batch: ProteinBatch, sampler: SamplerConfig, seed: int, keys: Sequence[str]) -> Drawn:
        with self.sharing_trunks() as trunks:
            known = trunks.of(batch.tokens, batch.residue_mask, batch.residue_index)
            unconditional = None
            if sampler.guidance != 1:
                null = trunks.of(null_tokens(batch.tokens), batch.residue_mask, batch.residue_index)
                unconditional = Condition(null.single, null.pair, batch.residue_mask, batch.bonded)
        condition = Condition(known.single, known.pair, batch.residue_mask, batch.bonded)
        denoise = GuidedDenoiser(
            denoiser=self._replayed() if sampler.compile == "graphs" else self.denoiser,
            schedule=self.noise_schedule,
            conditional=condition,
            unconditional=unconditional,
            weight=sampler.guidance,
            space=sampler.guidance_space,
            prepare=self.denoiser.prepare,
        )
        generators = [keyed_generator(seed, "sample", key) for key in keys]
        result = sampler.draw(denoise, self.noise_schedule, batch.residue_mask, generators)
        unit = predicted_unit(self.scale, self.rg_head(known.pooled, batch.residue_mask))
        atoms = None if result.local_atoms is None else to_angstrom(result.local_atoms)
        structure = Denoised(to_angstrom(result.x0, unit), result.rotation, atoms)
        return Drawn(structure, condition, unit)

    def _replayed(self) -> Denoiser:
        if self.device.type != "cuda":
            rank_zero_warn(
                f"sampler.compile: graphs acts on a GPU alone; on {self.device.type} it changes nothing"
            )
            return self.denoiser
        if self._graphs is None:
            self._graphs = ReplayedDenoiser(self.denoiser)
        return self._graphs

    def on_predict_start(self) -> None:
        """All batches share what is known of a length."""
        self._trunks = Trunks(self._trunk)

    def on_predict_end(self) -> None:
        """Forget it."""
        self._trunks = None

    def predict_step(self, batch: ProteinBatch, batch_idx: int) -> Denoised:
        """One structure for each chain of the batch."""
        return self.sample(batch, seed=self.seed, keys=batch.names)
