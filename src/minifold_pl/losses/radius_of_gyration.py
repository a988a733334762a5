"""The radius of gyration, predicted from the sequence."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from minifold_pl.geometry.measures import radius_of_gyration
from minifold_pl.geometry.precision import full_precision
from minifold_pl.losses.reduction import PerChain, chain_mean


@full_precision
def log_rg_per_chain(
    log_rg: Float[Tensor, " b"], ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> PerChain:
    r""":math:`(\log \hat R_g - \log R_g)^2`, natural logarithm, Rg in Å, ``ca`` in Å.

    A chain needs two observed residues to have a size.
    """
    error = log_rg - radius_of_gyration(ca, mask).log()
    return chain_mean(error**2, mask.sum(-1) > 1)


def log_rg_loss(
    log_rg: Float[Tensor, " b"], ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, ""]:
    """Mean of :func:`log_rg_per_chain` over the chains."""
    return log_rg_per_chain(log_rg, ca, mask).mean()
