"""A model's confidence in its own structures, as files hold it: pLDDT, 0…100, in the B-factor column."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def plddt(confidence: Float[np.ndarray, " l"]) -> Float[np.ndarray, " l"]:
    """Expected lDDT-Cα, 0…1, in the two decimals that a B-factor has."""
    return np.clip(100 * np.asarray(confidence, dtype=np.float64), 0, 100).round(2)


def plddt_told(calibrated_on: str | None) -> str:
    """What a B-factor then is.

    Args:
        calibrated_on: chains that the confidence was calibrated on; None: it is as the model says it.
    """
    how = "RAW, not calibrated" if calibrated_on is None else f"CALIBRATED on {calibrated_on}"
    return f"pLDDT, 0-100: the residue's lDDT-CA that the model expects; {how}"


def b_factor_remark(told: str) -> str:
    """The line about it in a structure's file."""
    return f"B-factor column: {told}."
