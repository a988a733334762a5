"""Embeddings of time and of sequence separation."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoids(x: Float[Tensor, "*axes"], d: int, longest: float = 10_000.0) -> Float[Tensor, "*axes d"]:
    """Sines, then cosines, of ``x`` at ``d / 2`` wavelengths from 2π to 2π·``longest``, log-spaced.

    Vaswani et al. 2017, section 3.5, with the two kinds side by side rather than interleaved. The sines are
    odd in ``x``, so that a signed separation keeps its sign.
    """
    if d % 2:
        raise ValueError(f"d={d}: a sinusoidal embedding needs an even number of channels; add or drop one")
    half = d // 2
    exponent = torch.arange(half, device=x.device, dtype=x.dtype) / max(half - 1, 1)
    phase = x.unsqueeze(-1) * torch.exp(-math.log(longest) * exponent)
    return torch.cat((phase.sin(), phase.cos()), dim=-1)


class RelativePosition(nn.Module):
    """Pair embedding of the signed sequence separation ``j - i``.

    Subclasses give :meth:`table`: one row for each separation from ``-reach`` to ``reach``; larger
    separations use the last row. The table is built once a call, so that the cost is one lookup a pair.

    Args:
        d: channels of the embedding.
        reach: largest separation told apart.
    """

    def __init__(self, d: int, reach: int) -> None:
        super().__init__()
        if reach < 1:
            raise ValueError(f"reach={reach}: the largest separation told apart must be at least 1 residue")
        self.d = d
        self.reach = reach

    def table(self) -> Float[Tensor, "s d"]:
        """Embedding of each separation, ``-reach`` first."""
        raise NotImplementedError(f"{type(self).__name__} must say how it embeds a separation")

    def forward(self, residue_index: Int[Tensor, "b l"]) -> Float[Tensor, "b l l d"]:
        """Embedding of ``residue_index[j] - residue_index[i]`` at (i, j)."""
        separation = residue_index.unsqueeze(1) - residue_index.unsqueeze(2)
        return F.embedding(separation.clamp(-self.reach, self.reach) + self.reach, self.table())


class LinearRelativePosition(RelativePosition):
    """One learned vector for each separation, clipped at ``max_rel`` (AlphaFold 2, suppl. Algorithm 4).

    Args:
        d: channels of the embedding.
        max_rel: largest separation told apart; 32 gives 65 bins.
    """

    def __init__(self, d: int, max_rel: int = 32) -> None:
        super().__init__(d, max_rel)
        self.weight = nn.Parameter(torch.randn(2 * max_rel + 1, d) * d**-0.5)

    def table(self) -> Float[Tensor, "s d"]:
        """Embedding of each separation, ``-max_rel`` first."""
        return self.weight


class LogRelativePosition(RelativePosition):
    """Fine bins near the diagonal, log-spaced ones beyond, plus sinusoids of the separation (Mini-Fold v13).

    Separations 0…``linear`` have a bin each; the others share log-spaced bins up to ``max_sep``. Upstream and
    downstream have bins of their own. Bins narrower than one residue, which no separation can ever hit, are
    merged with their neighbour, so that fewer than ``bins`` remain (see :attr:`bins_per_side`).

    Args:
        d: channels of the embedding.
        bins: bins on each side before merging.
        max_sep: separation at which the last bin ends.
        sinusoidal: channels of the sinusoids, projected to ``d``.
        linear: last separation with a bin of its own by construction.
    """

    def __init__(
        self, d: int, bins: int = 128, max_sep: int = 512, sinusoidal: int = 32, linear: int = 8
    ) -> None:
        super().__init__(d, max_sep)
        if not 0 < linear < max_sep:
            raise ValueError(f"linear={linear} must lie between 1 and max_sep - 1 (max_sep={max_sep})")
        if bins < linear + 2:
            raise ValueError(f"bins={bins} must exceed linear + 1 (linear={linear}): the rest is log-spaced")
        # plain numbers, so that the module can also be built on the meta device
        one_side = _log_bins(bins, max_sep, linear)
        self.bins_per_side = one_side[-1] + 1
        signed = [-k for k in reversed(one_side[1:])] + one_side
        self.register_buffer(
            "bin_of", torch.tensor([k + self.bins_per_side - 1 for k in signed]), persistent=False
        )
        self.bin_of: Tensor
        self.sinusoidal = sinusoidal
        self.weight = nn.Parameter(torch.randn(2 * self.bins_per_side - 1, d) * d**-0.5)
        self.smooth = nn.Linear(sinusoidal, d)

    def table(self) -> Float[Tensor, "s d"]:
        """Embedding of each separation, ``-max_sep`` first."""
        separation = torch.arange(
            -self.reach, self.reach + 1, device=self.weight.device, dtype=self.weight.dtype
        )
        waves = sinusoids(separation, self.sinusoidal, longest=self.reach / math.tau)
        return self.weight[self.bin_of] + self.smooth(waves)


def _log_bins(bins: int, max_sep: int, linear: int) -> list[int]:
    """Bin of each separation 0…``max_sep``: one each up to ``linear``, then log-spaced, none empty."""
    per_log = (bins - 1 - linear) / math.log(max_sep / linear)
    raw = [
        s if s <= linear else linear + math.ceil(per_log * math.log(s / linear)) for s in range(max_sep + 1)
    ]
    renumbered = {k: i for i, k in enumerate(sorted(set(raw)))}
    return [renumbered[k] for k in raw]
