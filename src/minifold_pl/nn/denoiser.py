"""The denoiser of stage 2: frames from the noised chain, refined by invariant point attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minifold_pl.geometry.chain_frame import chain_rotation
from minifold_pl.geometry.frames import ca_frames, compose, slerp_from_identity, to_local
from minifold_pl.geometry.superpose import kabsch
from minifold_pl.nn.backbone_head import BackboneAtomHead
from minifold_pl.nn.distance_bias import DistanceBias
from minifold_pl.nn.embeddings import sinusoids
from minifold_pl.nn.ipa import FrameUpdate, InvariantPointAttention
from minifold_pl.nn.linear import residual_linear
from minifold_pl.nn.masking import keep
from minifold_pl.nn.pair_attention import repeat_rows
from minifold_pl.nn.recompute import run_block
from minifold_pl.nn.structure_denoiser import TIME_SCALE, StructureDenoiser
from minifold_pl.nn.transition import Transition
from minifold_pl.types import Condition, Denoised, Frames, Prepared

_FARTHEST = 1e4
"""Model units; farther residues do not enter the search for a pose."""


class DenoiserLayer(nn.Module):
    """Invariant point attention under the time's scale and shift (FiLM), transition, frame update.

    Args:
        d: channels of the single features.
        d_pair: channels of the pair features.
        heads: attention heads.
        d_head: scalar channels of each head.
        query_points: query and key points of each head.
        value_points: value points of each head.
        ffn: channels of the transition.
        update_hidden: channels of the frame update's network; 0 for a single map.
        d_film: channels of the time embedding that scales and shifts.
    """

    def __init__(
        self,
        d: int,
        d_pair: int,
        heads: int,
        d_head: int,
        query_points: int,
        value_points: int,
        ffn: int,
        update_hidden: int,
        d_film: int,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.film = residual_linear(d_film, 2 * d)
        self.attention = InvariantPointAttention(d, d_pair, heads, d_head, query_points, value_points)
        self.transition = Transition(d, ffn)
        self.frame_update = FrameUpdate(d, update_hidden)

    def forward(
        self,
        single: Float[Tensor, "b l d"],
        frames: Frames,
        pair: Float[Tensor, "c l l p"],
        time: Float[Tensor, "b f"],
        mask: Bool[Tensor, "b l"],
        pair_bias: Float[Tensor, "b h i j"] | None = None,
        distance_bias: Float[Tensor, "b h i j"] | None = None,
    ) -> tuple[Float[Tensor, "b l d"], Frames]:
        """Refined single features and frames.

        ``pair_bias`` as :class:`InvariantPointAttention` takes it; ``distance_bias`` is added to it.
        """
        if distance_bias is not None:
            if pair_bias is None:
                pair_bias = self.attention.bias_from_pair(pair)
            pair_bias = repeat_rows(pair_bias, len(distance_bias)) + distance_bias
        scale, shift = rearrange(self.film(time), "b (two d) -> two b 1 d", two=2)
        modulated = self.norm(single) * (1 + scale) + shift
        single = single + self.attention(modulated, pair, frames, mask, pair_bias)
        single = single + self.transition(single)
        return single, self.frame_update(single, frames, mask)


class IPADenoiser(StructureDenoiser):
    """Predicts the clean chain and its frames from a noised one (Mini-Fold v12–v13: 28.5 M parameters).

    Frames start at the noised Cα positions, with rotations by Gram–Schmidt. With ``frame_confidence`` those
    are blended with the identity where the noise leaves no direction (SNR gate of v11–v14); the blend depends
    on the global axes, so the network is rotation-equivariant only without it. ``x0`` is the last layer's
    translation and ``rotation`` the rotation learned there.

    Self-conditioning: rotations start from the previous estimate's Cα frames, or from its frames of N, Cα and C where
    it has them, ungated as if t = 0, while the translations stay ``x_t``; where the estimate lies, seen from each
    residue's frame, enters the single features through a map that starts at 0.

    Args:
        d_single_in: channels of the condition's single features.
        d_pair: channels of the condition's pair features.
        d: channels of the single features here.
        layers: number of layers.
        heads: attention heads.
        d_head: scalar channels of each head.
        query_points: query and key points of each head.
        value_points: value points of each head.
        ffn: channels of the transitions.
        update_hidden: channels of the frame updates' networks; 0 for a single map (v11).
        timesteps: length of the diffusion process; t lies below it.
        d_time: channels of the time embedding added to the single features.
        d_film: channels of the time embedding that scales and shifts each layer.
        frame_confidence: for each t, the share of the Gram–Schmidt rotation in the first frames; none means
            all of it.
        discard_rotation: return rotations rebuilt from x0 by Gram–Schmidt instead of the learned ones. This
            is v11's mistake, kept for the ablation: the last layer's rotations then get no gradient.
        checkpoint_activations: keep only each layer's input for the backward pass.
        chain_frame: start every residue with the rotation of the whole chain, so that all begin with common axes; with
            ``frame_confidence`` the residues' own are blended in as the signal shows. Rotation-equivariant either way.
            Each residue also knows where x_t and the previous estimate lie in these axes, by a map that starts at 0;
            the rotations start there with a previous estimate too.
        aligned: turn and shift each prediction, as a whole, to where it lies best on x_t. A loss that superposes does
            not teach how the chain lies, and a sampler's next step needs it.
        distance_bias: let the pair distances of x_t, and of the previous estimate, bias each layer's attention.
        distance_basis: basis functions of these distances.
        distance_hidden: channels of the hidden layer behind them; at small width the costliest of the pairs.
        backbone_head: places N, C and O in the predicted frames, which are then those of N, Cα and C (v14); none
            leaves a model of Cα alone.
    """

    def __init__(
        self,
        d_single_in: int = 128,
        d_pair: int = 128,
        d: int = 512,
        layers: int = 8,
        heads: int = 8,
        d_head: int = 64,
        query_points: int = 8,
        value_points: int = 12,
        ffn: int = 1024,
        update_hidden: int = 512,
        timesteps: int = 1000,
        d_time: int = 256,
        d_film: int = 64,
        frame_confidence: Tensor | None = None,
        discard_rotation: bool = False,
        checkpoint_activations: bool = False,
        chain_frame: bool = False,
        aligned: bool = False,
        distance_bias: bool = False,
        distance_basis: int = 24,
        distance_hidden: int = 64,
        backbone_head: BackboneAtomHead | None = None,
    ) -> None:
        super().__init__(timesteps)
        if layers < 1:
            raise ValueError(f"layers={layers}: the denoiser needs at least one layer")
        self.d_features, self.d_time, self.d_film = d, d_time, d_film
        if discard_rotation and backbone_head is not None:
            raise ValueError(
                "discard_rotation rebuilds rotations from the Cα trace, and backbone_head places atoms in learned "
                "ones; leave one of them out"
            )
        self.discard_rotation = discard_rotation
        self.checkpoint_activations = checkpoint_activations
        self.single = nn.Sequential(nn.Linear(d_single_in, d), nn.LayerNorm(d))
        self.time = nn.Sequential(nn.Linear(d_time, d), nn.SiLU(), nn.Linear(d, d))
        self.displacement = nn.Linear(3, d, bias=False)
        nn.init.zeros_(self.displacement.weight)
        self.layers = nn.ModuleList(
            DenoiserLayer(d, d_pair, heads, d_head, query_points, value_points, ffn, update_hidden, d_film)
            for _ in range(layers)
        )
        self.aligned = aligned
        self.place = nn.Linear(6, d, bias=False) if chain_frame else None
        if self.place is not None:
            nn.init.zeros_(self.place.weight)
        self.distance_bias = (
            DistanceBias(layers, heads, d_film, distance_basis, distance_hidden) if distance_bias else None
        )
        self.backbone_head = backbone_head
        self.gate_frames(frame_confidence)

    def prepare(self, condition: Condition) -> Condition:
        """See :meth:`StructureDenoiser.prepare`; half as large again as the pair features at 8 layers of 8 heads."""
        biases = [layer.attention.bias_from_pair(condition.pair).contiguous() for layer in self._layers()]
        return condition._replace(prepared=Prepared(self._projected(condition), tuple(biases)))

    def with_features(
        self,
        x_t: Float[Tensor, "b l 3"],
        t: Int[Tensor, " b"],
        condition: Condition,
        previous: Denoised | None = None,
        use_previous: Bool[Tensor, " b"] | None = None,
    ) -> tuple[Denoised, Float[Tensor, "b l d"]]:
        """See :meth:`StructureDenoiser.forward`."""
        mask = condition.mask
        frames, displacement = self._start(x_t, t, condition, previous, use_previous)
        time = (t.to(x_t.dtype) * (TIME_SCALE / self.timesteps)).unsqueeze(-1)
        prepared = condition.prepared or Prepared(self._projected(condition))
        single = prepared.single + self.displacement(displacement)
        if self.place is not None:
            single = single + self.place(_seen_from_the_chain(x_t, mask, previous, use_previous))
        single = single + self.time(sinusoids(time, self.d_time))
        single = single.to(x_t.dtype)  # the residual stream stays in full precision under autocast
        film = sinusoids(time.squeeze(-1), self.d_film)
        nothing = (None,) * len(self.layers)
        biases = prepared.pair_bias or nothing
        distances = (
            nothing
            if self.distance_bias is None
            else self._from_distances(x_t, film, mask, previous, use_previous)
        )
        for layer, *bias in zip(self.layers, biases, distances, strict=True):
            single, frames = run_block(
                layer,
                single,
                frames,
                condition.pair,
                film,
                mask,
                *bias,
                recompute=self.checkpoint_activations,
            )
        if self.discard_rotation:
            frames = ca_frames(frames.translation, mask, condition.bonded)
        if self.aligned:
            frames = _laid_on(frames, x_t, mask)
        atoms = None if self.backbone_head is None else self.backbone_head(single, mask)
        return Denoised(x0=frames.translation, rotation=frames.rotation, local_atoms=atoms), single

    def _layers(self) -> Iterator[DenoiserLayer]:
        for layer in self.layers:
            assert isinstance(layer, DenoiserLayer)
            yield layer

    def _projected(self, condition: Condition) -> Float[Tensor, "b l d"]:
        return self.single(keep(condition.single, condition.mask))

    def _from_distances(
        self,
        x_t: Tensor,
        film: Tensor,
        mask: Tensor,
        previous: Denoised | None,
        use_previous: Tensor | None,
    ) -> tuple[Float[Tensor, "b h i j"], ...]:
        """What distances add to each layer's logits."""
        assert self.distance_bias is not None  # asked only where it is there
        estimate = None if previous is None else keep(previous.x0.to(x_t.dtype), mask)
        if estimate is not None and use_previous is not None:
            estimate = torch.where(use_previous[:, None, None], estimate, 0.0)
        bias = run_block(
            self.distance_bias,
            keep(x_t, mask),
            film,
            estimate,
            use_previous,
            recompute=self.checkpoint_activations,
        )
        return tuple(bias)

    def _start(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Condition,
        previous: Denoised | None,
        use_previous: Tensor | None,
    ) -> tuple[Frames, Float[Tensor, "b l 3"]]:
        """First frames, and the way to the previous estimate in them (0 without one)."""
        mask, bonded = condition.mask, condition.bonded
        x_t = keep(x_t, mask)
        rotation = ca_frames(x_t, mask, bonded).rotation
        confidence = None if self.frame_confidence is None else self.frame_confidence[t].unsqueeze(-1)
        if self.place is not None:
            rotation = _identity_where_masked(_from_the_chain(rotation, x_t, mask, confidence), mask)
        elif confidence is not None:
            rotation = slerp_from_identity(rotation, confidence)
        x_t = self.start(x_t, t)
        if previous is None:
            return Frames(rotation, x_t), torch.zeros_like(x_t)
        estimate = keep(previous.x0.to(x_t.dtype), mask)
        if use_previous is not None:
            estimate = torch.where(use_previous[:, None, None], estimate, x_t)
        if self.place is not None:
            frames = Frames(rotation, x_t)
            return frames, to_local(frames, estimate)
        known = ca_frames(estimate, mask, bonded).rotation
        if previous.local_atoms is not None:
            known = _identity_where_masked(previous.rotation.to(x_t.dtype), mask)
        if use_previous is not None:
            known = torch.where(use_previous[:, None, None, None], known, rotation)
        frames = Frames(known, x_t)
        return frames, to_local(frames, estimate)


def _from_the_chain(
    rotation: Tensor, x_t: Tensor, mask: Tensor, confidence: Tensor | None
) -> Float[Tensor, "b l 3 3"]:
    """The chain's own rotation for every residue, turned towards ``rotation`` as far as ``confidence`` says."""
    chain = chain_rotation(x_t, mask).unsqueeze(1)
    if confidence is None:
        return chain.expand_as(rotation)
    return chain @ slerp_from_identity(chain.mT @ rotation, confidence)


def _laid_on(frames: Frames, x_t: Tensor, mask: Tensor) -> Frames:
    """``frames`` after the rigid motion that brings their translations nearest to ``x_t``; no gradient through it."""
    with torch.no_grad():
        # The search for the pose must not raise on what is no number: the loss is to see that.
        mobile, target = (
            x.float().nan_to_num(0.0).clamp(-_FARTHEST, _FARTHEST) for x in (frames.translation, x_t)
        )
        motion = kabsch(mobile, target, mask)
    rotation, translation = (part.unsqueeze(1).to(frames.translation.dtype) for part in motion)
    moved = compose(Frames(rotation, translation), frames)
    return Frames(_identity_where_masked(moved.rotation, mask), keep(moved.translation, mask))


def _seen_from_the_chain(
    x_t: Tensor, mask: Tensor, previous: Denoised | None, use_previous: Tensor | None
) -> Float[Tensor, "b l 6"]:
    """x_t and, where there is one, the previous estimate in the frame of the noised chain."""
    x_t = keep(x_t, mask)
    estimate = torch.zeros_like(x_t)
    if previous is not None:
        estimate = keep(previous.x0.to(x_t.dtype), mask)
        if use_previous is not None:
            estimate = torch.where(use_previous[:, None, None], estimate, 0.0)
    axes = chain_rotation(x_t, mask)
    return torch.cat((x_t @ axes, estimate @ axes), dim=-1)


def _identity_where_masked(rotation: Tensor, mask: Tensor) -> Tensor:
    identity = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    return torch.where(mask[..., None, None], rotation, identity)
