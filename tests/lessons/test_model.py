"""Lessons 5, 6 and 9 to 11: rotations without a loss, units, scales, and a head that reads what it cannot hold."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.constants import C_ATOM, CA_ATOM, CA_C_BOND, N_ATOM, N_CA_BOND
from minifold_pl.diffusion.process import add_noise
from minifold_pl.geometry.units import to_angstrom
from minifold_pl.losses.objective import DiffusionObjective
from minifold_pl.nn.backbone_head import BackboneAtomHead
from minifold_pl.nn.heads import DetachedDistogram
from minifold_pl.types import StructurePrediction, StructureTarget


def test_lesson_05_the_losses_teach_the_learned_rotations(holds, mistake, diffusion) -> None:
    """v11 returned ``x0 = t`` and threw R away. Put back by ``discard_rotation``, which is v11's preset.

    Every parameter of every version, and that v11 lacks exactly its rotations: ``tests/configs/test_versions.py``.
    """
    diffusion.denoiser.discard_rotation = mistake
    batch = diffusion.example_batch(2, 12)
    batch.coords.add_(torch.randn_like(batch.coords))
    _, terms = diffusion.losses(batch)
    (terms["fape"] + terms["frame_rot"]).backward()
    turns = diffusion.denoiser.layers[-1].frame_update.update[-1].weight.grad[:3]
    with holds():
        assert turns.abs().sum() > 0


def test_lesson_06_the_backbone_head_places_atoms_at_angstrom_not_tens_of_them(
    holds, mistake, monkeypatch
) -> None:
    """Ideal offsets stood in Å where a unit is 10 Å: N lay 14.6 Å from its Cα. Put back by not converting them.

    After export and re-reading: ``tests/export``.
    """
    if mistake:
        monkeypatch.setattr("minifold_pl.nn.backbone_head.to_model_units", lambda x: x)
    atoms = to_angstrom(BackboneAtomHead(16, 8)(torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.bool)))
    n, ca, c = atoms[..., N_ATOM, :], atoms[..., CA_ATOM, :], atoms[..., C_ATOM, :]
    with holds():
        assert (n - ca).norm(dim=-1).flatten().tolist() == pytest.approx([N_CA_BOND] * 5, abs=0.01)
        assert (c - ca).norm(dim=-1).flatten().tolist() == pytest.approx([CA_C_BOND] * 5, abs=0.01)


def test_lesson_09_the_same_timestep_is_the_same_noise_in_a_small_and_in_a_large_protein(
    holds, mistake, diffusion
) -> None:
    """Divided by its own Rg, each protein had a noise schedule of its own. Put back by ``scale: rg`` (v8–v10)."""
    if mistake:
        diffusion.scale = "rg"
    noise_in_angstrom = []
    for squeeze in (1.0, 0.2):
        batch = diffusion.example_batch(1, 30)
        batch.coords.mul_(squeeze)
        target = diffusion.target(batch)
        t, noise = torch.tensor([300]), torch.ones_like(target.x0)
        x_t = add_noise(target.x0, t, noise, diffusion.noise_schedule)
        x_0 = add_noise(target.x0, t, torch.zeros_like(noise), diffusion.noise_schedule)
        noise_in_angstrom.append(to_angstrom(x_t - x_0, target.unit)[0, 0, 0].item())
    with holds():
        assert noise_in_angstrom[1] == pytest.approx(noise_in_angstrom[0], rel=1e-4)


class Attached(DetachedDistogram):
    """The other way to get it wrong: the head's loss reaches the main pair stack."""

    def forward(self, features, mask, residue_index, pair=None):
        return self.net((pair + pair.transpose(1, 2)) / 2)


@pytest.mark.parametrize("other", [DetachedDistogram, Attached])
def test_lesson_10_the_distance_head_neither_moves_the_main_pair_stack_nor_drifts_with_it(
    holds, mistake, other, diffusion
) -> None:
    """A head on detached features cannot follow them: its loss rose from 3.95 to 38.8 in three epochs.

    Put back by v10's head, and by one that is not detached. So two things must hold: the loss has no gradient in the
    main pair stack, and the main pair stack has no influence on the loss.
    """
    if mistake:
        diffusion.aux = other(d_pair=32, distance_bins=32, hidden=16)
        diffusion.objective = DiffusionObjective(distance_head=diffusion.aux.kind)
    batch = diffusion.example_batch(1, 12)
    torch.manual_seed(0)
    loss = diffusion.losses(batch)[1]["aux"]
    reached = torch.autograd.grad(loss, list(diffusion.pair_stack.parameters()), allow_unused=True)
    with torch.no_grad():
        for parameter in diffusion.pair_stack.parameters():
            parameter.mul_(1.5)
    torch.manual_seed(0)
    later = diffusion.losses(batch)[1]["aux"]
    with holds():
        assert all(gradient is None for gradient in reached)
        assert torch.equal(later, loss)


def test_lesson_11_a_clash_is_three_angstrom_and_not_three_model_units(holds, mistake) -> None:
    """3.0 was meant in Å and taken in units of Rg, 30 Å: nearly every pair clashed, and made 47 % of v9's loss.

    Put back by ``clash_unit: model``, as in v9's preset.
    """
    turn = torch.arange(40) * 1.745  # an ideal α helix: 100° and 1.5 Å a residue
    helix = torch.stack([2.3 * turn.cos(), 2.3 * turn.sin(), 1.5 * torch.arange(40)], -1)[None]
    rg = (helix - helix.mean(1)).square().sum(-1).mean(1).sqrt()
    x0, mask = helix / rg, torch.ones(1, 40, dtype=torch.bool)
    rotation = torch.eye(3).expand(1, 40, 3, 3)
    objective = DiffusionObjective(clash_unit="model" if mistake else "angstrom")
    terms = objective(
        StructurePrediction(x0, rotation, rg.log(), torch.zeros(1, 40, 40, 31)),
        StructureTarget(x0, rotation, mask, mask, rg),
    )
    with holds():
        assert terms["clash"] == 0
