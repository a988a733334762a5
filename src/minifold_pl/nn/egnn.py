"""The distance-based denoiser of Mini-Fold v8–v10: an equivariant graph network over all pairs of residues."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minifold_pl.geometry.frames import ca_frames
from minifold_pl.geometry.measures import pairwise_distances
from minifold_pl.geometry.precision import full_precision
from minifold_pl.geometry.units import center
from minifold_pl.nn.embeddings import sinusoids
from minifold_pl.nn.linear import residual_linear
from minifold_pl.nn.masking import keep, pair_mask
from minifold_pl.nn.pair_attention import repeat_rows
from minifold_pl.nn.recompute import run_block
from minifold_pl.nn.structure_denoiser import TIME_SCALE, StructureDenoiser
from minifold_pl.types import Condition, Denoised

_BOND = 0.35
"""Model units: a Cα–Cα bond, roughly, at either scale. Below it the second feature of a distance is linear in d²."""
_RADIAL = 7
"""Two features each of the current, the first and the previous estimate's distance, and whether there is one."""


class EGNNLayer(nn.Module):
    r"""Messages along all pairs, which move the residues and refine their features (Satorras et al. 2021, eqs. 3–6).

    .. math::
        m_{ij} &= \phi_e(h_i, h_j, d_{ij}, z_{ij}), \qquad \hat m_{ij} = \sigma(w \cdot m_{ij})\, m_{ij} \\
        x_i &\leftarrow x_i + n^{-1/2} \sum_j \frac{x_i - x_j}{d_{ij} + 1}\, \phi_x(m_{ij}), \qquad
        h_i \leftarrow h_i + \phi_h\Big(h_i,\ n^{-1/2} \sum_j \hat m_{ij}\Big)

    Differences are divided by d + 1, as a noised chain is wide (Hoogeboom et al. 2022, appendix B); sums over the n
    residues by √n: neither the whole chain nor a single bond is then out of reach. The first map of φ_e is applied to
    residues before they are paired, so that l × l × 2d never exists.

    Args:
        d: channels of residues and messages.
        d_pair: channels of the pair features.
        d_film: channels of the time embedding that scales and shifts.
        refine: refine the features; the last layer, after which nobody reads them, does not.
    """

    def __init__(self, d: int, d_pair: int, d_film: int, refine: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.film = residual_linear(d_film, 2 * d)
        self.receiver = nn.Linear(d, d)
        self.sender = nn.Linear(d, d, bias=False)
        self.edge = nn.Linear(d_pair + _RADIAL, d, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(d, d), nn.SiLU())
        step = nn.Linear(d, 1, bias=False)
        nn.init.normal_(step.weight, std=1e-3)
        self.step = nn.Sequential(nn.Linear(d, d), nn.SiLU(), step)
        self.gate = nn.Linear(d, 1) if refine else None
        self.node = nn.Sequential(nn.Linear(2 * d, d), nn.SiLU(), residual_linear(d, d)) if refine else None

    def forward(
        self,
        single: Float[Tensor, "b l d"],
        x: Float[Tensor, "b l 3"],
        pair: Float[Tensor, "b l l p"],
        radial: Float[Tensor, "b l l r"],
        time: Float[Tensor, "b f"],
        mask: Bool[Tensor, "b l"],
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b l 3"]]:
        """Refined features and positions; masked residues stay where they are, and send nothing.

        Args:
            single: features of the residues.
            x: positions, model units.
            pair: pair features.
            radial: features of the first and of the previous estimate's distances.
            time: embedding of the timestep.
            mask: valid residues.
        """
        scale, shift = rearrange(self.film(time), "b (two d) -> two b 1 d", two=2)
        y = self.norm(single) * (1 + scale) + shift
        now = distance_features(pairwise_distances(x))
        edge = self.edge(torch.cat((pair, now.to(pair.dtype), radial.to(pair.dtype)), dim=-1))
        message = self.message(self.receiver(y).unsqueeze(2) + self.sender(y).unsqueeze(1) + edge)
        moved = _move(x, self.step(message).squeeze(-1), mask)
        if self.gate is None or self.node is None:
            return single, moved
        others = _others(mask).unsqueeze(-1)
        received = (message * self.gate(message).sigmoid()).masked_fill(~others, 0.0).sum(2)
        received = received / _root_count(mask).to(received.dtype)
        return single + self.node(torch.cat((y, received), dim=-1)), moved


class EGNNDenoiser(StructureDenoiser):
    """Predicts the clean chain from distances alone, and its rotations from the clean chain (Mini-Fold v8–v10).

    The positions start at the noised chain and each layer moves them along the lines that join residues. It turns,
    shifts and *reflects* with its input: distances know no handedness (the write-up's "SE(3)" is E(3)), and beyond
    what x_t shows of it a mirror image is as good a guess. There are no frames to learn: the rotations are those of
    x0's Cα frames.

    Self-conditioning: the previous estimate's distances enter every message.

    Args:
        d_single_in: channels of the condition's single features.
        d_pair: channels of the condition's pair features.
        d: channels of residues and messages.
        layers: number of layers.
        timesteps: length of the diffusion process; t lies below it.
        d_time: channels of the time embedding added to the single features.
        d_film: channels of the time embedding that scales and shifts each layer.
        checkpoint_activations: keep only each layer's input for the backward pass.
    """

    def __init__(
        self,
        d_single_in: int = 128,
        d_pair: int = 128,
        d: int = 456,
        layers: int = 8,
        timesteps: int = 1000,
        d_time: int = 256,
        d_film: int = 64,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__(timesteps)
        if layers < 1:
            raise ValueError(f"layers={layers}: the denoiser needs at least one layer")
        self.d_features, self.d_time, self.d_film = d, d_time, d_film
        self.checkpoint_activations = checkpoint_activations
        self.single = nn.Sequential(nn.Linear(d_single_in, d), nn.LayerNorm(d))
        self.time = nn.Sequential(nn.Linear(d_time, d), nn.SiLU(), nn.Linear(d, d))
        self.layers = nn.ModuleList(
            EGNNLayer(d, d_pair, d_film, refine=place < layers - 1) for place in range(layers)
        )

    def gate_frames(self, frame_confidence: Float[Tensor, " t"] | None) -> None:
        """There are no frames at the start."""
        if frame_confidence is not None:
            raise ValueError("EGNNDenoiser starts without frames: set snr_gated_frames to false")

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
        x = self.start(keep(x_t, mask), t)
        radial = torch.cat(
            (distance_features(pairwise_distances(x)), _known(x, mask, previous, use_previous)), -1
        )
        time = t.to(x.dtype) * (TIME_SCALE / self.timesteps)
        single = self.single(keep(condition.single, mask))
        single = (single + self.time(sinusoids(time.unsqueeze(-1), self.d_time))).to(x.dtype)
        film = sinusoids(time, self.d_film)
        pair = keep(repeat_rows(condition.pair, len(mask)), pair_mask(mask))
        for layer in self.layers:
            single, x = run_block(
                layer, single, x, pair, radial, film, mask, recompute=self.checkpoint_activations
            )
        x0 = center(x, mask)
        return Denoised(x0=x0, rotation=ca_frames(x0, mask, condition.bonded).rotation), single


@full_precision
def distance_features(distance: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes 2"]:
    """A distance in model units on the scale of the fold and on that of a bond; finite however far."""
    squared = distance.square()
    return torch.stack((squared.log1p(), (squared / _BOND**2).log1p()), dim=-1)


def _known(
    x: Tensor, mask: Tensor, previous: Denoised | None, use_previous: Tensor | None
) -> Float[Tensor, "b l l 3"]:
    """Features of the previous estimate's distances, and 1 where there is one; 0 without."""
    if previous is None:
        return x.new_zeros(*mask.shape, mask.shape[1], 3)
    features = F.pad(
        distance_features(pairwise_distances(keep(previous.x0.to(x.dtype), mask))), (0, 1), value=1.0
    )
    if use_previous is None:
        return features
    return features.where(use_previous[:, None, None, None], features.new_zeros(()))


@full_precision
def _move(
    x: Float[Tensor, "b l 3"], step: Float[Tensor, "b l l"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, "b l 3"]:
    weight = (step / (pairwise_distances(x) + 1)).masked_fill(~_others(mask), 0.0)
    # Σ_j w_ij (x_i − x_j) without a tensor of all differences
    return x + (x * weight.sum(-1, keepdim=True) - weight @ x) / _root_count(mask)


def _others(mask: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l l"]:
    """Pairs of two different valid residues."""
    return pair_mask(mask) & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)


def _root_count(mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b 1 1"]:
    return mask.sum(-1)[:, None, None].clamp(min=1).float().sqrt()
