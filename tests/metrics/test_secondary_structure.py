"""Helix and strand content of ideal and of real chains, and their agreement."""

from __future__ import annotations

import gzip
import json
import math

import pytest
import torch
from torch import Tensor

from minifold_pl.constants import CA_ATOM
from minifold_pl.geometry.backbone import backbone_from_torsions
from minifold_pl.geometry.secondary_structure import HELIX, MASKED, ca_secondary_structure
from minifold_pl.metrics.secondary_structure import (
    helix_content,
    secondary_structure_agreement,
    strand_content,
)


def ideal(phi: float, psi: float, length: int) -> Tensor:
    torsion = torch.ones(1, length)
    return backbone_from_torsions(torsion * math.radians(phi), torsion * math.radians(psi))[:, :, CA_ATOM]


def kinds(ca: Tensor, bonded: Tensor | None = None) -> list[int]:
    return ca_secondary_structure(ca, torch.ones(ca.shape[:2], dtype=torch.bool), bonded)[0].tolist()


def test_masked_residues_are_masked_and_change_nothing() -> None:
    ca = torch.cat([ideal(-57, -47, 20), torch.full((1, 6, 3), float("nan"))], 1)
    mask = torch.arange(26)[None] < 20
    found = ca_secondary_structure(ca, mask)
    assert found[0, :20].tolist() == kinds(ca[:, :20])
    assert found[0, 20:].tolist() == [MASKED] * 6
    assert helix_content(ca, mask).item() == pytest.approx(found[0].eq(HELIX).sum().item() / 20)


def test_a_chain_without_residues_has_no_content() -> None:
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    assert helix_content(torch.zeros(1, 4, 3), nothing).isnan().all()
    assert strand_content(torch.zeros(1, 4, 3), nothing).isnan().all()


def test_content_of_real_chains_fits_their_cath_class(real_data) -> None:
    shares: dict[str, list[tuple[float, float]]] = {"1": [], "2": []}
    with gzip.open(real_data / "ci_small.jsonl.gz", "rt") as file:
        for line in file:
            record = json.loads(line)
            ca = torch.tensor(record["coords"]["CA"])
            of_class = {code.split(".")[0] for code in record["CATH"]}
            if len(of_class) != 1 or of_class.isdisjoint(shares) or not ca.isfinite().all():
                continue
            mask = torch.ones(1, len(ca), dtype=torch.bool)
            shares[of_class.pop()].append(
                (helix_content(ca[None], mask).item(), strand_content(ca[None], mask).item())
            )
    alpha, beta = (torch.tensor(shares[k]).mean(0) for k in ("1", "2"))
    assert alpha[0] > 0.4 > 0.1 > alpha[1]
    assert beta[1] > 0.3 > 0.15 > beta[0]


def test_agreement_is_the_share_of_equal_residues() -> None:
    helix, strand = ideal(-57, -47, 20), ideal(-120, 130, 20)
    mask = torch.ones(1, 20, dtype=torch.bool)
    assert secondary_structure_agreement(helix, helix, mask).item() == 1
    same = sum(a == b for a, b in zip(kinds(helix), kinds(strand), strict=True)) / 20
    assert secondary_structure_agreement(strand, helix, mask).item() == pytest.approx(same)
    assert same < 0.3
