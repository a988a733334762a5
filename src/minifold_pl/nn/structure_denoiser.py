"""What every denoiser of the second stage is, however it predicts."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minifold_pl.types import Condition, Denoised

TIME_SCALE = 1000.0
"""Time embeddings see t / timesteps on this scale, the DDPM's own, whatever the number of steps."""


class StructureDenoiser(nn.Module):
    """Predicts the clean chain and its rotations from a noised one: a :class:`~minifold_pl.types.Denoiser`.

    Args:
        timesteps: length of the diffusion process; t lies below it.
    """

    d_features: int
    """Channels of the last single features."""
    frame_confidence: Tensor | None
    start_scale: Tensor | None

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.register_buffer("frame_confidence", None, persistent=False)
        self.register_buffer("start_scale", None, persistent=False)

    def gate_frames(self, frame_confidence: Float[Tensor, " t"] | None) -> None:
        """Sets the share of the Gram–Schmidt rotation for each t in 0…timesteps - 1; None lifts the gate.

        Raises:
            ValueError: another number of timesteps, or a denoiser without frames at its start.
        """
        self._check_table("frame_confidence", frame_confidence)
        self.frame_confidence = frame_confidence

    def scale_start(self, scale: Float[Tensor, " t"] | None) -> None:
        """Sets for each t in 0…timesteps - 1 the multiple of x_t where the chain starts; None starts at x_t.

        With √ᾱ(t) that is the best linear guess of an x0 of variance 1: from pure noise the chain grows out
        of the origin instead of having to take the noise back first.
        """
        self._check_table("start_scale", scale)
        self.start_scale = scale

    def start(self, x_t: Float[Tensor, "b l 3"], t: Int[Tensor, " b"]) -> Float[Tensor, "b l 3"]:
        """Where the chain starts."""
        if self.start_scale is None:
            return x_t
        return x_t * self.start_scale[t].to(x_t.dtype)[:, None, None]

    def prepare(self, condition: Condition) -> Condition:
        """``condition`` with all that this denoiser computes from it alone: for callers that come back with it.

        What it answers is the same, bit for bit, with a prepared condition and with one that is not. Here there is
        nothing worth keeping.
        """
        return condition

    def forward(
        self,
        x_t: Float[Tensor, "b l 3"],
        t: Int[Tensor, " b"],
        condition: Condition,
        previous: Denoised | None = None,
        use_previous: Bool[Tensor, " b"] | None = None,
    ) -> Denoised:
        """The clean chain in model units; masked residues get ``x0 = 0`` and the identity.

        Args:
            x_t: noised Cα positions, centred, model units.
            t: timestep of each chain.
            condition: everything that depends neither on ``x_t`` nor on ``t``.
            previous: self-conditioning estimate of the same chains, or None.
            use_previous: chains that use ``previous``; None means all.
        """
        return self.with_features(x_t, t, condition, previous, use_previous)[0]

    def with_features(
        self,
        x_t: Float[Tensor, "b l 3"],
        t: Int[Tensor, " b"],
        condition: Condition,
        previous: Denoised | None = None,
        use_previous: Bool[Tensor, " b"] | None = None,
    ) -> tuple[Denoised, Float[Tensor, "b l d"]]:
        """What :meth:`forward` answers, and the last single features, of :attr:`d_features` channels."""
        raise NotImplementedError(f"{type(self).__name__} must say how it denoises")

    def _check_table(self, name: str, table: Tensor | None) -> None:
        if table is not None and table.shape != (self.timesteps,):
            raise ValueError(
                f"{name} has shape {tuple(table.shape)}, but timesteps={self.timesteps}; "
                "give one value for each timestep"
            )
