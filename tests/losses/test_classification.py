from __future__ import annotations

import math

import pytest
import torch

from minifold_pl.constants import NO_LABEL
from minifold_pl.geometry.frames import random_rotations
from minifold_pl.losses.classification import contact_bce, masked_cross_entropy

# a, b 5 Å apart; c far from both
CA = torch.tensor([[[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 50.0, 0.0]]])
VALID = torch.ones(1, 3, dtype=torch.bool)


def test_cross_entropy_of_ignorance_is_the_logarithm_of_the_number_of_classes() -> None:
    loss = masked_cross_entropy(torch.zeros(3, 4), torch.tensor([0, 1, 3]))
    assert math.isclose(loss.item(), math.log(4), rel_tol=1e-6)


def test_cross_entropy_of_certainty_is_zero() -> None:
    assert masked_cross_entropy(100.0 * torch.eye(4), torch.arange(4)) < 1e-6


def test_a_missing_label_leaves_its_chain_out() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.tensor([2, NO_LABEL, 0]))
    assert torch.allclose(loss, masked_cross_entropy(logits[::2], torch.tensor([2, 0])))
    loss.backward()
    assert logits.grad is not None and not logits.grad[1].any() and logits.grad[0].any()


def test_a_batch_without_labels_is_zero_and_differentiable() -> None:
    logits = torch.randn(2, 4, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.full((2,), NO_LABEL))
    loss.backward()
    assert loss == 0 and logits.grad is not None and not logits.grad.any()


def test_a_contact_is_a_pair_of_different_residues_below_8_angstrom() -> None:
    right = torch.full((1, 3, 3), -40.0)
    right[0, 0, 1] = right[0, 1, 0] = 40.0
    assert contact_bce(right, CA, VALID, pos_weight=5.0) < 1e-12
    diagonal = right + 80 * torch.eye(3)
    assert torch.equal(
        contact_bce(diagonal, CA, VALID, pos_weight=5.0), contact_bce(right, CA, VALID, pos_weight=5.0)
    )


@pytest.mark.parametrize(("apart", "contact"), [(7.99, True), (8.01, False)])
def test_the_contact_cutoff_lies_at_8_angstrom(apart: float, contact: bool) -> None:
    ca = torch.tensor([[[0.0, 0.0, 0.0], [apart, 0.0, 0.0]]])
    loss = contact_bce(torch.full((1, 2, 2), 40.0), ca, torch.ones(1, 2, dtype=torch.bool), pos_weight=1.0)
    assert (loss.item() < 1e-6) == contact


def test_missed_contacts_weigh_pos_weight_times_as_much() -> None:
    """Two of six ordered pairs are contacts, each ln 2 at logit 0."""
    loss = contact_bce(torch.zeros(1, 3, 3), CA, VALID, pos_weight=7.0)
    assert math.isclose(loss.item(), (2 * 7 + 4) / 6 * math.log(2), rel_tol=1e-6)


def test_the_contact_loss_ignores_rigid_motion_mirrors_and_padding() -> None:
    ca, logits = 8 * torch.randn(2, 9, 3, dtype=torch.float64), torch.randn(2, 9, 9, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    turn = random_rotations(1, dtype=torch.float64)[0]
    loss = contact_bce(logits, ca, mask, pos_weight=8.0)
    assert torch.allclose(contact_bce(logits, -ca @ turn.T + 5, mask, pos_weight=8.0), loss)
    longer = torch.nn.functional.pad(logits, (0, 4, 0, 4), value=1e4)
    padded = torch.nn.functional.pad(ca, (0, 0, 0, 4), value=float("nan"))
    valid = torch.nn.functional.pad(mask, (0, 4))
    assert torch.allclose(contact_bce(longer, padded, valid, pos_weight=8.0), loss)


def test_losses_of_the_first_stage_pass_gradcheck() -> None:
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: masked_cross_entropy(x, torch.tensor([1, NO_LABEL])), (logits,))
    contacts = torch.randn(1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: contact_bce(x, CA.double(), VALID, pos_weight=8.0), (contacts,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_the_first_stage_are_finite_under_autocast_with_large_logits(dtype: torch.dtype) -> None:
    contacts = torch.full((1, 3, 3), 6e4, dtype=dtype, requires_grad=True)
    labels = torch.full((2, 4), -6e4, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        total = contact_bce(contacts, CA, VALID, pos_weight=8.0) + masked_cross_entropy(
            labels, torch.tensor([0, 1])
        )
    total.backward()
    assert total.dtype == torch.float32 and total.isfinite()
    assert contacts.grad is not None and contacts.grad.isfinite().all()
    assert labels.grad is not None and labels.grad.isfinite().all()


def test_a_weight_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="pos_weight is 0"):
        contact_bce(torch.zeros(1, 3, 3), CA, VALID, pos_weight=0.0)
