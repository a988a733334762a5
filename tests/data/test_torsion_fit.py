from __future__ import annotations

from dataclasses import replace
from math import radians

import pytest
import torch

from minifold_pl.constants import CA_ATOM, N_CA_C_ANGLE
from minifold_pl.data import torsion_fit
from minifold_pl.data.torsion_fit import TorsionProblem, clash_overlap, fit_torsions
from minifold_pl.geometry.superpose import superpose


def a_problem(size=3, length=14, **changes):
    angles = (torch.rand(size, length, 2, dtype=torch.float64) * 2 - 1) * 2.5
    problem = TorsionProblem(
        mask=torch.ones(size, length, dtype=torch.bool),
        centre=angles,
        spread=torch.full((size, length, 2), 0.5, dtype=torch.float64),
        omega=torch.full((size, length), torch.pi, dtype=torch.float64),
        n_ca_c=torch.full((size, length), radians(N_CA_C_ANGLE), dtype=torch.float64),
        target=torch.randn(size, length, 3, dtype=torch.float64) * 5,
        pinned=torch.rand(size, length) > 0.2,
        tolerance=0.5,
    )
    return replace(problem, **changes), angles


@pytest.mark.parametrize("clashes", [False, True])
def test_the_gradient_is_the_derivative_of_the_cost(clashes):
    problem, _ = a_problem()
    angles = problem.centre + 0.1 * torch.randn_like(problem.centre)
    gradient, _, _ = torsion_fit._normal_equations(problem, angles, clashes=clashes)
    step = 1e-6
    for residue in (1, 6, 12):
        for which in (0, 1):
            nudge = torch.zeros_like(angles)
            nudge[:, residue, which] = step
            up, down = (
                torsion_fit._normal_equations(problem, angles + s * nudge, clashes=clashes)[2]
                for s in (1, -1)
            )
            expected = -(up - down) / (4 * step)  # the cost is twice what the normal equations minimise
            found = gradient[:, 6 + 2 * residue + which]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_the_lower_triangle_is_the_gauss_newton_matrix():
    problem, angles = a_problem(size=1, length=7)
    problem = replace(problem, pinned=torch.ones(1, 7, dtype=torch.bool))
    _, hessian, _ = torsion_fit._normal_equations(problem, angles, clashes=False)

    def places(flat):
        return problem.coords(flat.view(1, 7, 2))[0, :, CA_ATOM].flatten() / problem.tolerance

    jacobian = torch.autograd.functional.jacobian(places, angles.flatten())
    expected = jacobian.T @ jacobian + torch.diag(problem.spread.flatten().pow(-2))
    # φ of the first residue only turns the whole chain, which is built from that residue on: left out
    torch.testing.assert_close(hessian[0, 7:, 7:].tril(), expected[1:, 1:].tril())


def test_a_chain_returns_to_where_it_was_after_a_rigid_motion_and_a_nudge():
    problem, angles = a_problem()
    truth = problem.coords(angles)[:, :, CA_ATOM]
    problem = replace(problem, target=truth.flip(-1) * torch.tensor([1.0, 1.0, -1.0]) + 30.0)
    start = angles + 0.1 * torch.randn_like(angles)
    found = problem.coords(fit_torsions(problem, start, iterations=15, clashes=False))[:, :, CA_ATOM]
    error = (superpose(found, truth, problem.mask) - truth).norm(dim=-1)
    assert error.max() < 0.05


def test_overlapping_chains_are_pushed_apart():
    tight, angles = a_problem(size=6, length=20, spread=torch.full((6, 20, 2), 0.6, dtype=torch.float64))
    tight = replace(tight, pinned=torch.zeros(6, 20, dtype=torch.bool))
    before = clash_overlap(tight.coords(angles), tight.mask)
    after = clash_overlap(tight.coords(fit_torsions(tight, angles, iterations=25)), tight.mask)
    assert before.max() > 0.5  # else there is nothing to push
    assert after.max() < 0.2


def test_padding_neither_clashes_nor_pulls():
    problem, angles = a_problem(size=1, length=12)
    longer = TorsionProblem(
        **{
            name: torch.cat((value, value[:, :4]), 1)
            for name, value in vars(problem).items()
            if isinstance(value, torch.Tensor)
        },
        tolerance=problem.tolerance,
    )
    hidden = torch.arange(16)[None] < 12
    longer = replace(longer, mask=longer.mask & hidden, pinned=longer.pinned & hidden)
    start = torch.cat((angles, angles[:, :4]), 1)
    found = fit_torsions(longer, start, iterations=5)[:, :12]
    torch.testing.assert_close(found, fit_torsions(problem, angles, iterations=5), rtol=1e-6, atol=1e-6)
