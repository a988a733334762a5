"""Samples as they are written."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from minifold_pl.data.tokenizer import encode
from minifold_pl.geometry.backbone import backbone_from_torsions, torsions
from minifold_pl.geometry.frames import backbone_frames, random_rotations, to_local
from minifold_pl.modules.structures import final_structures, predicted_atoms
from minifold_pl.types import Denoised, Frames, ProteinBatch


@pytest.fixture
def answer(batch: ProteinBatch) -> Denoised:
    """The truth as a model of backbones would sample it."""
    n, ca, c, _ = batch.coords.unbind(2)
    frames = backbone_frames(n, ca, c)
    local = to_local(Frames(frames.rotation.unsqueeze(2), ca.unsqueeze(2)), batch.coords)
    return Denoised(ca, frames.rotation, local)


def test_a_calpha_trace_stays_as_it_is_without_its_padding(batch: ProteinBatch) -> None:
    sampled = Denoised(batch.ca, torch.eye(3).expand(*batch.ca.shape[:2], 3, 3))
    assert predicted_atoms(sampled) is None
    for k, chain in enumerate(final_structures(sampled, batch)):
        assert chain.ca_moved is None
        assert torch.equal(chain.ca, batch.ca[k, : batch.lengths[k]])
        assert chain.coords.shape == (batch.lengths[k], 1, 3)


def test_atoms_are_placed_in_the_frames_and_a_sound_chain_hardly_moves(
    batch: ProteinBatch, answer: Denoised
) -> None:
    mask = batch.residue_mask
    torch.testing.assert_close(predicted_atoms(answer)[mask], batch.coords[mask], atol=1e-4, rtol=0)
    for k, chain in enumerate(final_structures(answer, batch)):
        assert chain.ca_moved < 0.02
        torch.testing.assert_close(chain.coords, batch.coords[k, : batch.lengths[k]], atol=0.05, rtol=0)
        assert torch.equal(chain.ca, chain.coords[:, 1])


def test_how_far_calpha_moved_is_told(batch: ProteinBatch, answer: Denoised) -> None:
    turned = random_rotations(answer.x0[..., 0].numel()).view(*answer.rotation.shape)
    apart = answer._replace(x0=1.5 * answer.x0, rotation=turned)
    for k, chain in enumerate(final_structures(apart, batch)):
        shift = (chain.ca - apart.x0[k, : batch.lengths[k]]).square().sum(-1).mean().sqrt()
        assert chain.ca_moved == pytest.approx(shift.item(), rel=1e-4)
        assert chain.ca_moved > 0.5


def test_a_peptide_is_cis_before_proline_alone(batch: ProteinBatch) -> None:
    phi = torch.full((3, batch.residue_mask.shape[1]), -1.2)
    omega = torch.full_like(phi, math.pi)
    omega[:, 3] = 0.1
    coords = backbone_from_torsions(phi, phi + 3.5, omega)
    n, ca, c, _ = coords.unbind(2)
    frames = backbone_frames(n, ca, c)
    local = to_local(Frames(frames.rotation.unsqueeze(2), ca.unsqueeze(2)), coords)
    tokens = batch.tokens.clone()
    for row, sequence in enumerate(("AAAAPAAAAAAA", "AAAPAAAAAAAAAAAA", "AAAAAPAAA")):
        tokens[row, : len(sequence) + 2] = torch.as_tensor(encode(sequence))
    found = final_structures(Denoised(ca, frames.rotation, local), replace(batch, tokens=tokens))
    turned = [torsions(chain.coords)[2][3].abs() < 0.01 for chain in found]
    assert turned == [
        True,
        False,
        False,
    ]  # residue 4, after the fourth peptide, is a proline in the first alone


def test_a_sample_that_is_not_finite_is_left_to_whoever_writes_it(
    batch: ProteinBatch, answer: Denoised
) -> None:
    x0 = answer.x0.clone()
    x0[1, 2] = torch.nan
    found = final_structures(answer._replace(x0=x0), batch)
    assert math.isnan(found[1].ca_moved)
    assert found[0].coords.isfinite().all() and found[2].coords.isfinite().all()
