"""Stage 2: a diffusion model of Cα frames, conditioned on sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from minifold_pl.diffusion.process import add_noise
from minifold_pl.diffusion.schedule import CosineSchedule
from minifold_pl.geometry.frames import backbone_frames, ca_frames
from minifold_pl.geometry.units import Scale, center, to_model_units, true_unit
from minifold_pl.losses.backbone_objective import BackboneObjective, BackboneWeights, with_backbone
from minifold_pl.losses.ca_geometry import CLASH_THRESHOLD
from minifold_pl.losses.confidence import ConfidenceLoss
from minifold_pl.losses.denoising import MIN_SNR, DenoisingWeights, SNRWeighting
from minifold_pl.losses.objective import (
    DiffusionObjective,
    LossWeights,
    TermWeights,
    by_term,
    final_weights,
    weighted_total,
    weights_at,
)
from minifold_pl.losses.trunk import TrunkLosses
from minifold_pl.modules.band_losses import BandLosses, named_band_losses
from minifold_pl.modules.base import CHECKPOINT_KEY
from minifold_pl.modules.compiling import CompileMode, compile_blocks
from minifold_pl.modules.confidence import CONFIDENCE, Judgement, evaluating, judge, some_chains
from minifold_pl.modules.draws import (
    Draws,
    conditions_dropped,
    fixed_draws,
    recycles_drawn,
    self_conditions,
    training_draws,
)
from minifold_pl.modules.encoder_checkpoint import load_encoder
from minifold_pl.modules.epoch_means import EpochMeans
from minifold_pl.modules.hidden_residues import hidden_residues, without_residues
from minifold_pl.modules.init_from import NOWHERE, InitFrom
from minifold_pl.modules.optim import LRSchedule, OptimizerConfig, ThreePhase
from minifold_pl.modules.recomputing import Recomputed, recompute_activations
from minifold_pl.modules.sampling import SamplerConfig
from minifold_pl.modules.structure_sampling import StructureSampling
from minifold_pl.modules.trunk_teaching import ask, build_heads, freeze_idle_heads, hide, long_range_precision
from minifold_pl.nn import cuequivariance
from minifold_pl.nn.confidence import ConfidenceHead
from minifold_pl.nn.encoder import StructureEncoder
from minifold_pl.nn.formulation import Formulation, set_formulation
from minifold_pl.nn.heads import DistanceHead, RgHead
from minifold_pl.nn.null_condition import NullCondition
from minifold_pl.nn.pair_attention import repeat_rows
from minifold_pl.nn.pair_stack import PairStack
from minifold_pl.nn.recycling import Recycling, recycled
from minifold_pl.nn.structure_denoiser import StructureDenoiser
from minifold_pl.nn.trunk_heads import TrunkHeads
from minifold_pl.types import (
    Condition,
    Denoised,
    ProteinBatch,
    SequenceFeatures,
    StructurePrediction,
    StructureTarget,
    TrunkPrediction,
    map_tensors,
)

_V13_OPTIMIZER = OptimizerConfig()
_V13_SCHEDULE = ThreePhase()
_V13_WEIGHTS = LossWeights()
_COSINE = CosineSchedule()
_DDIM = SamplerConfig()


class DiffusionModule(StructureSampling):
    """Trains encoder → pair stack → denoiser to predict the clean chain from a noised one.

    Every draw (timestep, noise, condition dropout, self-conditioning) is a function of ``seed``, the epoch and the
    chain's name or the batch's place, so that neither workers nor restarts change it.

    Args:
        encoder: Sequence encoder; usually read from a stage-1 checkpoint.
        pair_stack: Pair representation of the sequence.
        denoiser: Predicts x0 and frames from x_t.
        aux: Distance head; its loss never reaches ``pair_stack``.
        rg_head: Predicts the radius of gyration from the sequence.
        encoder_ckpt: Stage-1 checkpoint whose encoder is used. Without one the encoder starts at random.
        freeze_encoder: Leave the encoder as it is; false trains it jointly.
        noise_schedule: Noise schedule.
        scale: What a model unit is: ``fixed``, 10 Å, or ``rg``, each chain's own radius of gyration; a sample then gets
            its size from ``rg_head``. The noise is of variance 1 in model units, the losses are in them.
        snr_gated_frames: Blend frames built from x_t towards the identity as the signal fades.
        scaled_start: Start the frames at √ᾱ x_t, the best linear guess of the clean chain, instead of at x_t.
        null_condition: What stands for no sequence: ``mask``, encoder and pair stack over MASK tokens, or ``learned``,
            features of its own that cost no such pass.
        recycles: Passes through the pair stack after the first, each with what the last one made of the sequence; in
            training drawn from 0 to this number, batch by batch, with a gradient through the last alone.
        self_conditioning: Probability of a step with a first pass whose estimate starts the second.
        p_uncond: Probability, for each example, that its residues are replaced by MASK.
        loss_weights: Weight of each term; one with weight 0 is still logged.
        backbone_weights: Weight of each term on N, C and O, for a denoiser with a ``backbone_head``; null takes the
            defaults.
        denoising_weights: Weight of the rigid-aligned squared error of x0 and of smooth lDDT; null leaves both out.
        x0_weighting: Weight of a timestep in the former: a function of its signal-to-noise ratio, inside the term.
        trunk_losses: Losses, and weights, of heads on encoder and pair stack; null for none.
        trunk_first: First epochs, in which these losses, where there are any, are taught alone: such a step runs no
            denoiser, which has little to learn from a trunk that knows nothing.
        confidence: A head that says how right each residue of a sampled structure is (pLDDT), and what it learns from;
            null for none. Nothing else learns from it.
        fape_clamp: Clamp of FAPE in Å; null for none.
        fape_clamp_share: Share of the noised chains whose FAPE is clamped in training, drawn chain by chain; validation
            counts each chain as clamped to this share.
        clash_threshold: Å; nearer residues clash.
        clash_unit: ``model`` takes ``clash_threshold`` in model units, a mistake kept for the comparison.
        clash_contacts: Weigh the overlap of a pair by 1 + 2c, c the contact that the encoder predicts for it.
        noise_draws: Noised copies of each chain in a step; they share one pass through encoder and pair stack.
        val_draws: Noised copies of each validation chain, at timesteps spread evenly; the same in every epoch.
        sampler: Settings of ``predict`` and of the DDIM evaluator.
        checkpoint_activations: What computes its activations again in the backward pass instead of keeping them:
            ``pair_stack``, ``denoiser``, ``both`` or ``off``; null leaves it to the parts' own settings of that name.
        compile: ``blocks`` has torch compile every block for training, for any length; ``off`` does not.
        formulation: How the modules compute: ``fast``; ``textbook``, the equations as they are printed, for comparison;
            ``cuequivariance``, triangle updates by NVIDIA's kernels (GPU, extra ``cuda``). All read the same weights.
        optimizer: AdamW and its learning-rate groups.
        schedule: Learning rate over the epochs.
        init_from: The checkpoint, of this or another version, whose weights a new run begins with.
        seed: Seed of every random draw.
    """

    stage: ClassVar[str] = "diffusion"

    def __init__(
        self,
        encoder: StructureEncoder,
        pair_stack: PairStack,
        denoiser: StructureDenoiser,
        aux: DistanceHead,
        rg_head: RgHead,
        encoder_ckpt: str | None = None,
        freeze_encoder: bool = True,
        noise_schedule: CosineSchedule = _COSINE,
        scale: Scale = "fixed",
        snr_gated_frames: bool = True,
        scaled_start: bool = False,
        null_condition: Literal["mask", "learned"] = "mask",
        recycles: int = 0,
        trunk_first: int = 0,
        self_conditioning: float = 0.25,
        p_uncond: float = 0.1,
        loss_weights: LossWeights = _V13_WEIGHTS,
        backbone_weights: BackboneWeights | None = None,
        denoising_weights: DenoisingWeights | None = None,
        x0_weighting: SNRWeighting = MIN_SNR,
        trunk_losses: TrunkLosses | None = None,
        confidence: ConfidenceLoss | None = None,
        fape_clamp: float | None = None,
        fape_clamp_share: float = 1.0,
        clash_threshold: float = CLASH_THRESHOLD,
        clash_unit: Literal["angstrom", "model"] = "angstrom",
        clash_contacts: bool = False,
        noise_draws: int = 1,
        val_draws: int = 4,
        sampler: SamplerConfig = _DDIM,
        checkpoint_activations: Recomputed | None = None,
        compile: CompileMode = "off",
        formulation: Formulation = "fast",
        optimizer: OptimizerConfig = _V13_OPTIMIZER,
        schedule: LRSchedule = _V13_SCHEDULE,
        init_from: InitFrom = NOWHERE,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule, seed=seed, init_from=init_from)
        for name, value in (("self_conditioning", self_conditioning), ("p_uncond", p_uncond)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a probability, got {value}")
        for name, count in (("noise_draws", noise_draws), ("val_draws", val_draws)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if recycles < 0:
            raise ValueError(f"recycles must be 0 or more, got {recycles}")
        if null_condition not in ("mask", "learned"):
            raise ValueError(f"null_condition is {null_condition!r}; allowed are 'mask' and 'learned'")
        self.encoder = encoder
        self.pair_stack = pair_stack
        self.denoiser = denoiser
        self.aux = aux
        self.rg_head = rg_head
        self.encoder_ckpt = encoder_ckpt
        self.freeze_encoder = freeze_encoder
        self.noise_schedule = noise_schedule
        self.self_conditioning = self_conditioning
        self.p_uncond = p_uncond
        self.loss_weights: LossWeights | TermWeights = loss_weights
        self.scale = scale
        objective = DiffusionObjective
        if getattr(denoiser, "backbone_head", None) is not None:
            if scale != "fixed":
                raise ValueError(
                    f"scale is {scale!r}: a denoiser with a backbone_head works at the fixed scale"
                )
            self.needs = "backbone"
            self.loss_weights = with_backbone(loss_weights, backbone_weights or BackboneWeights())
            objective = BackboneObjective
        elif backbone_weights is not None:
            raise ValueError(
                "backbone_weights are given, but the denoiser has no backbone_head and predicts Cα alone: "
                "give it one, or leave backbone_weights out"
            )
        if denoising_weights is not None:
            self.loss_weights = by_term(self.loss_weights) | by_term(denoising_weights)
        sizes = encoder.d_single, pair_stack.d_pair
        self.null_condition = NullCondition(*sizes) if null_condition == "learned" else None
        if trunk_first < 0:
            raise ValueError(f"trunk_first is {trunk_first}; give 0 or more epochs")
        self.trunk_first = trunk_first
        self.recycles = recycles
        self.recycling = Recycling(*sizes) if recycles else None
        self.trunk_heads: TrunkHeads | None = None
        if trunk_losses is not None and trunk_losses.weights:
            self.trunk_heads = build_heads(
                trunk_losses, encoder, pair_stack.d_pair, freeze_encoder=freeze_encoder
            )
            self.loss_weights = by_term(self.loss_weights) | trunk_losses.weights
        self.objective = objective(
            fape_clamp=fape_clamp,
            fape_clamp_share=fape_clamp_share,
            denoising=denoising_weights is not None,
            x0_weighting=x0_weighting,
            trunk=trunk_losses if self.trunk_heads is not None else None,
            distance_bins=aux.distance_bins,
            distance_head=aux.kind,
            clash_threshold=clash_threshold,
            clash_unit=clash_unit,
            clash_contacts=clash_contacts,
        )
        self.noise_draws = noise_draws
        self.val_draws = val_draws
        self.sampler = sampler
        self.compile_mode = compile or "off"
        self.formulation = formulation
        if checkpoint_activations is not None:
            recompute_activations(self, checkpoint_activations or "off")
        set_formulation(self, formulation)
        self.confidence = confidence
        self.confidence_head: ConfidenceHead | None = None
        if confidence is not None:
            replace(sampler, steps=confidence.steps).times(noise_schedule)
            self.own_rates = {"confidence_head": confidence.lr}
            with torch.random.fork_rng(devices=[]):  # whoever draws next draws what it would without the head
                self.confidence_head = ConfidenceHead(denoiser.d_features, confidence.bins, confidence.hidden)
        self._bands: dict[str, BandLosses] = {}
        times = torch.arange(noise_schedule.timesteps)
        if snr_gated_frames:
            self.denoiser.gate_frames(noise_schedule.frame_confidence(times))
        if scaled_start:
            self.denoiser.scale_start(noise_schedule.signal(times))
        if freeze_encoder:
            self.encoder.requires_grad_(False)
        elif self.objective.trunk is not None:
            freeze_idle_heads(self.encoder, self.objective.trunk)
        self.encoder_origin = "random"
        """``random``, or the stage-1 checkpoint that the encoder came from."""

    # --- set-up ----------------------------------------------------------------------------------

    @property
    def max_residues(self) -> int | None:
        """The longest chain that the encoder's positions reach."""
        return self.encoder.max_residues

    def begin_weights(self) -> None:
        """The encoder of a stage-1 checkpoint, and all else of ``init_from``."""
        super().begin_weights()
        if self.encoder_ckpt is not None:
            load_encoder(self.encoder, self.encoder_ckpt)
            self.encoder_origin = str(self.encoder_ckpt)
        elif self.initialised and "encoder" in self.initialised["whole"]:
            self.encoder_origin = str(self.init_from.ckpt)
        elif self.freeze_encoder:
            rank_zero_warn(
                "the encoder is frozen at RANDOM weights: give model.init_args.encoder_ckpt (a stage-1 checkpoint, "
                "from `minifold-pl fit --config contact.yaml`) or set model.init_args.freeze_encoder to false"
            )

    def on_fit_start(self) -> None:
        """Take the weights to begin with, and compile where that is asked for."""
        super().on_fit_start()
        if self.formulation == "cuequivariance":
            cuequivariance.required()
        if self.compile_mode == "blocks":
            compile_blocks(self, self.device)

    def taken_elsewhere(self, about: Mapping[str, Any]) -> Mapping[str, str]:
        """See :meth:`MinifoldModule.taken_elsewhere`."""
        if self.encoder_ckpt is None:
            return {}
        return {"encoder": "model.init_args.encoder_ckpt names the checkpoint it comes from"}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add where the encoder came from."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY]["encoder_origin"] = self.encoder_origin

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See :meth:`MinifoldModule.on_load_checkpoint`."""
        super().on_load_checkpoint(checkpoint)
        self.encoder_origin = checkpoint[CHECKPOINT_KEY].get("encoder_origin", "unknown")

    def train(self, mode: bool = True) -> DiffusionModule:
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self

    # --- model -----------------------------------------------------------------------------------

    def encode(self, tokens: Tensor) -> SequenceFeatures:
        """Features of the sequences, without a graph where the encoder is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            return self.encoder.encode(tokens)

    def condition(
        self,
        batch: ProteinBatch,
        features: SequenceFeatures,
        tokens: Tensor | None = None,
        recycles: int | None = None,
    ) -> Condition:
        """All that the denoiser needs to know of the sequences.

        Args:
            batch: Gives masks, residue places and bonds.
            features: Of ``tokens``.
            tokens: What the encoder has read; a chain of nothing but MASK gets the null condition. None: the batch's.
            recycles: Passes after the first; None: all of them.
        """
        shown = batch.tokens if tokens is None else tokens
        single, pair = self._known(features, shown, batch.residue_mask, batch.residue_index, recycles)
        return Condition(single, pair, batch.residue_mask, batch.bonded)

    def _known(
        self,
        features: SequenceFeatures,
        tokens: Tensor,
        mask: Tensor,
        places: Tensor,
        recycles: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Single and pair features for the denoiser: of the last pass, or of no sequence where none is shown."""
        if self.recycling is None:
            single, pair = features.single, self.pair_stack(features, mask, places)
        else:
            turns = self.recycles if recycles is None else recycles
            single, pair = recycled(self.recycling, self.pair_stack, features, mask, places, recycles=turns)
        if self.null_condition is not None:
            null, (no_single, no_pair) = without_residues(tokens), self.null_condition(mask, places)
            single = torch.where(null[:, None, None], no_single.to(single.dtype), single)
            pair = torch.where(null[:, None, None, None], no_pair.to(pair.dtype), pair)
        return single, pair

    def target(self, batch: ProteinBatch) -> StructureTarget:
        """The truth in model units."""
        ca = batch.ca.float()
        unit = true_unit(self.scale, ca, batch.ca_mask)
        x0 = center(to_model_units(ca, unit), batch.residue_mask)
        if self.needs != "backbone":
            rotation = ca_frames(x0, batch.ca_mask, batch.bonded).rotation
            return StructureTarget(x0, rotation, batch.ca_mask, batch.bonded, unit)
        atoms = x0.unsqueeze(2) + to_model_units(batch.coords.float() - ca.unsqueeze(2))
        n, _, c, _ = atoms.unbind(2)
        rotation = backbone_frames(n, x0, c).rotation
        return StructureTarget(
            x0, rotation, batch.ca_mask, batch.bonded, atoms=atoms, atom_mask=batch.atom_mask
        )

    def assemble(self, estimate: Denoised, log_rg: Tensor, distance_logits: Tensor) -> StructurePrediction:
        """What the objective looks at."""
        return StructurePrediction(
            estimate.x0, estimate.rotation, log_rg, distance_logits, estimate.local_atoms
        )

    def predict_structure(
        self,
        batch: ProteinBatch,
        tokens: Tensor,
        target: StructureTarget,
        draws: Draws,
        self_condition: bool,
        recycles: int | None = None,
    ) -> tuple[StructurePrediction, StructureTarget]:
        """Noise the chains and predict them again.

        ``draws`` may hold k · b examples, copy-major (all chains, then all chains again): they share one pass
        through encoder and pair stack. The returned target is repeated to match.
        """
        features = self.encode(tokens)
        condition = self.condition(batch, features, tokens, recycles)
        rows = len(draws.t)
        log_rg = self.rg_head(features.pooled, batch.residue_mask)
        distances = self.aux(features, batch.residue_mask, batch.residue_index, condition.pair)
        trunk = self._said(features, condition)
        # The pair features, largest of all, are held once and read by all copies.
        condition = condition._replace(
            single=repeat_rows(condition.single, rows),
            mask=repeat_rows(condition.mask, rows),
            bonded=repeat_rows(condition.bonded, rows),
        )
        target = map_tensors(lambda x: repeat_rows(x, rows), target)
        log_rg = repeat_rows(log_rg, rows)
        target = target._replace(snr=self.noise_schedule.snr(draws.t), clamped=draws.clamped)
        x_t = add_noise(target.x0, draws.t, draws.noise, self.noise_schedule)
        previous = None
        if self_condition:
            with torch.no_grad():
                previous = self.denoiser(x_t, draws.t, condition)
            # Autocast keeps half-precision copies of weights; one made without a graph must not serve the second
            # pass. torch 2.13 keeps none of those; that older versions do so too is not worth relying on.
            torch.clear_autocast_cache()
        estimate: Denoised = self.denoiser(x_t, draws.t, condition, previous)
        prediction = self.assemble(estimate, log_rg, distances)
        if trunk is not None:
            prediction = prediction._replace(trunk=trunk)
            target = target._replace(hidden=repeat_rows(hidden_residues(tokens, batch.tokens), rows))
        if self.objective.clash_contacts:
            contacts = self.encoder.contact_logits(features).detach().sigmoid()
            prediction = prediction._replace(contacts=repeat_rows(contacts, rows))
        return prediction, target

    def _said(self, features: SequenceFeatures, condition: Condition) -> TrunkPrediction | None:
        """What encoder and pair stack say of the structure; None where nobody asks them."""
        if self.trunk_heads is None or self.objective.trunk is None:
            return None
        return ask(self.trunk_heads, self.objective.trunk, self.encoder, features, condition.pair)

    def trunk_terms(
        self, batch: ProteinBatch, tokens: Tensor, recycles: int | None = None
    ) -> dict[str, Tensor]:
        """The losses of encoder and pair stack alone, named and weighed as among all; no denoiser is run.

        Raises:
            ValueError: there are none, since ``trunk_losses`` is null.
        """
        features = self.encode(tokens)
        said = self._said(features, self.condition(batch, features, tokens, recycles))
        if said is None or self.objective.trunk is None:
            raise ValueError("trunk_losses is null: nothing teaches encoder and pair stack by themselves")
        target = self.target(batch)._replace(hidden=hidden_residues(tokens, batch.tokens))
        return {name: term.mean() for name, term in self.objective.trunk.per_chain(said, target).items()}

    def losses(self, batch: ProteinBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See :meth:`MinifoldModule.losses`; at the middle timestep, without self-conditioning.

        Without that of the confidence, which looks at drawn structures: not a matter of shapes alone.
        """
        target = self.target(batch)
        t = torch.full((len(batch),), self.noise_schedule.timesteps // 2, device=target.x0.device)
        draws = Draws(t, torch.randn_like(target.x0))
        prediction, target = self.predict_structure(batch, batch.tokens, target, draws, False)
        terms = self.objective(prediction, target)
        return weighted_total(terms, weights_at(self.loss_weights, 1)), terms

    # --- training --------------------------------------------------------------------------------

    def training_step(self, batch: ProteinBatch, batch_idx: int) -> Tensor:
        """One batch: drop conditions, noise, denoise, weigh."""
        epoch = self.current_epoch
        if self.teaches_trunk_alone:
            return self._trunk_step(batch, epoch, self._recycles(epoch, batch_idx))
        tokens = self._drop_conditions(batch, epoch)
        tokens = hide(self.objective.trunk, tokens, batch, self.seed, "hidden_residues", epoch)
        draws = self._training_draws(batch, epoch)
        again = self_conditions(self.self_conditioning, seed=self.seed, epoch=epoch, batch_idx=batch_idx)
        recycles = self._recycles(epoch, batch_idx)
        prediction, target = self.predict_structure(batch, tokens, self.target(batch), draws, again, recycles)
        terms = self.objective(prediction, target)
        weights = weights_at(self.loss_weights, epoch + 1)
        total = weighted_total(terms, weights)
        if self.confidence is not None:
            total = self._with_confidence("loss", self.epoch_means, total, terms, weights, batch, epoch)
        self.log_losses("loss", total, terms, weights, len(batch))
        self.log_crops(batch)
        return total

    @property
    def teaches_trunk_alone(self) -> bool:
        """Whether this epoch is one of the first ones that are the encoder's and the pair stack's."""
        return self.trunk_heads is not None and self.current_epoch < self.trunk_first

    def _trunk_step(self, batch: ProteinBatch, epoch: int, recycles: int) -> Tensor:
        tokens = hide(self.objective.trunk, batch.tokens, batch, self.seed, "hidden_residues", epoch)
        terms = self.trunk_terms(batch, tokens, recycles)
        weights = weights_at(self.loss_weights, epoch + 1)
        total = weighted_total(terms, {name: weights[name] for name in terms})
        self.log_losses("loss", total, terms, weights, len(batch))
        self.log_crops(batch)
        return total

    def _recycles(self, epoch: int, batch_idx: int) -> int:
        return recycles_drawn(self.recycles, seed=self.seed, epoch=epoch, batch_idx=batch_idx)

    def _drop_conditions(self, batch: ProteinBatch, epoch: int) -> Tensor:
        return conditions_dropped(batch, self.p_uncond, seed=self.seed, epoch=epoch)

    def _training_draws(self, batch: ProteinBatch, epoch: int) -> Draws:
        return training_draws(
            batch, self.noise_schedule, seed=self.seed, epoch=epoch, copies=self.noise_draws,
            clamp_share=self.objective.fape_clamp_share,
        )  # fmt: skip

    # --- confidence ------------------------------------------------------------------------------

    def judged_samples(self, batch: ProteinBatch, *key: int | str) -> Judgement:
        """How right the confidence is in structures drawn for some chains of ``batch``, by ``key`` and their names.

        In evaluation mode and without a graph, but for the head.
        """
        assert self.confidence is not None and self.confidence_head is not None  # asked where it is there
        sampler = replace(self.sampler, steps=self.confidence.steps, compile="off")
        chains = some_chains(batch, self.confidence.chains, self.seed, CONFIDENCE, *key)
        keys = ["/".join(map(str, (CONFIDENCE, *key, name))) for name in chains.names]
        with evaluating(self):
            with torch.no_grad():
                drawn = self._draw(chains, sampler, self.seed, keys)
            logits = self._judged(self.confidence_head, drawn, self.seed, keys)
        return judge(logits, drawn.structure.x0, chains)

    def _with_confidence(
        self,
        prefix: str,
        means: EpochMeans,
        total: Tensor,
        terms: dict[str, Tensor],
        weights: dict[str, float],
        batch: ProteinBatch,
        *key: int | str,
    ) -> Tensor:
        """The total with the loss of the confidence, which joins terms and weights; its error goes to ``means``."""
        assert self.confidence is not None
        judged = self.judged_samples(batch, *key)
        terms[CONFIDENCE], weights[CONFIDENCE] = judged.loss.mean(), self.confidence.weight
        means.add({f"{prefix}/{CONFIDENCE}_error": judged.error.mean()}, int(judged.error.counted.sum()))
        return total + weights[CONFIDENCE] * terms[CONFIDENCE]

    # --- validation ------------------------------------------------------------------------------

    def validation_step(self, batch: ProteinBatch, batch_idx: int) -> None:
        """Losses at each chain's own fixed timesteps and noise."""
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: ProteinBatch, batch_idx: int) -> None:
        """As in validation."""
        self._evaluate("test", batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the losses, also of each band of noise."""
        super().on_validation_epoch_end()
        self._log_bands("val")

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        super().on_test_epoch_end()
        self._log_bands("test")

    def _evaluate(self, prefix: str, batch: ProteinBatch, batch_idx: int) -> None:
        if prefix not in self._bands:
            # Also on a rank that counts no batch: all take part in the sums at the end.
            self._bands[prefix] = BandLosses(
                tuple(final_weights(self.loss_weights)), self.noise_schedule.timesteps
            ).to(batch.tokens.device)
        if not self.counts(batch_idx):
            return
        draws = self._fixed_draws(batch)
        prediction, target = self.predict_structure(batch, batch.tokens, self.target(batch), draws, False)
        prediction, target = self._with_guesses(prediction, target, batch)
        per_chain = self.objective.per_chain(prediction, target)
        terms = {name: term.mean() for name, term in per_chain.items()}
        weights = weights_at(self.loss_weights, self.current_epoch + 1)
        # The total moves with its weights; this one compares across epochs. The confidence stays out: it says how well
        # a model knows itself, not how good it is.
        score = weighted_total(terms, final_weights(self.loss_weights))
        total = weighted_total(terms, weights)
        if self.confidence is not None:
            total = self._with_confidence(prefix, self.evaluation_means, total, terms, weights, batch, prefix)
        self.log_losses(prefix, total, terms, weights, len(batch))
        self.evaluation_means.add({f"{prefix}/score": score}, len(batch))
        self._bands[prefix].update(draws.t, per_chain)
        said = prediction.trunk
        if said is not None and said.distogram is not None and self.objective.trunk is not None:
            precision = long_range_precision(self.objective.trunk, said.distogram, batch)
            for name, (share, chains) in precision.items():
                self.evaluation_means.add({f"{prefix}/{name}": share}, chains)

    def _with_guesses(
        self, prediction: StructurePrediction, target: StructureTarget, batch: ProteinBatch
    ) -> tuple[StructurePrediction, StructureTarget]:
        """With residues guessed in a pass of their own, so that the structure is predicted from the whole sequence."""
        shown = hide(self.objective.trunk, batch.tokens, batch, self.seed, "val_hidden_residues")
        if shown is batch.tokens or prediction.trunk is None:
            return prediction, target
        assert self.trunk_heads is not None and self.trunk_heads.residues is not None  # there are guesses
        guesses = self.trunk_heads.residues(self.encode(shown).single)
        hidden = hidden_residues(shown, batch.tokens)
        return (
            prediction._replace(trunk=prediction.trunk._replace(residues=guesses)),
            target._replace(hidden=repeat_rows(hidden, len(target.x0))),
        )

    def _log_bands(self, prefix: str) -> None:
        bands = self._bands.pop(prefix, None)
        if bands is not None:
            weights = weights_at(self.loss_weights, self.current_epoch + 1)
            # Computed over all ranks: the same on each.
            self.log_dict(named_band_losses(bands.compute(), weights, f"{prefix}_band"), sync_dist=False)

    def _fixed_draws(self, batch: ProteinBatch) -> Draws:
        return fixed_draws(batch, self.noise_schedule, seed=self.seed, copies=self.val_draws)
