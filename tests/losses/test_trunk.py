"""Losses of heads on encoder and pair stack."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from minifold_pl.constants import NO_LABEL
from minifold_pl.geometry.backbone import backbone_from_torsions
from minifold_pl.geometry.secondary_structure import COIL, HELIX, STRAND, ca_secondary_structure
from minifold_pl.geometry.units import to_angstrom
from minifold_pl.losses.objective import DiffusionObjective
from minifold_pl.losses.trunk import TrunkLosses, residues_per_chain, secondary_structure_per_chain
from minifold_pl.types import StructureTarget, TrunkPrediction, map_tensors

ALL = TrunkLosses(distogram=0.3, secondary_structure=0.1, contacts=0.2, hidden_residues=0.4)


def said(b: int = 2, n: int = 14, dtype: torch.dtype = torch.float64) -> TrunkPrediction:
    pair = torch.randn(b, n, n, 64, dtype=dtype)
    contact = torch.randn(b, n, n, dtype=dtype)
    return TrunkPrediction(
        pair + pair.transpose(1, 2),
        torch.randn(b, n, 3, dtype=dtype),
        torch.randn(b, n, 20, dtype=dtype),
        contact + contact.mT,
    )


@pytest.fixture
def target(case: Any) -> StructureTarget:
    hidden = torch.full((2, 14), NO_LABEL)
    hidden[:, 2:5] = torch.tensor([3, 0, 19])
    return case.target._replace(hidden=hidden)


def test_only_what_weighs_something_is_there() -> None:
    assert TrunkLosses().weights == {}
    assert TrunkLosses(distogram=0.3).weights == {"distogram": 0.3}
    assert list(ALL.weights) == ["distogram", "secondary_structure", "contacts", "hidden_residues"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"distogram": -1.0}, "distogram"), ({"contacts": math.nan}, "contacts"), ({"hidden_share": 1.0}, "share"),
     ({"distogram_bins": 1}, "bins")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrunkLosses(**wrong)


def test_heads_that_know_nothing_cost_the_logarithm_of_their_classes(target: StructureTarget) -> None:
    nothing = TrunkPrediction(*(torch.zeros_like(x) for x in said()))
    found = {name: term.value for name, term in ALL.per_chain(nothing, target).items()}
    expected = {"distogram": 64, "secondary_structure": 3, "hidden_residues": 20}
    for name, classes in expected.items():
        torch.testing.assert_close(found[name], torch.full((2,), math.log(classes), dtype=torch.float64))


def test_heads_that_know_the_truth_cost_nothing(target: StructureTarget) -> None:
    true = to_angstrom(target.x0)
    apart = torch.cdist(true, true)
    bins = ((apart - 2.0) / (20 / 64)).floor().clamp(0, 63).long()
    kinds = ca_secondary_structure(true, target.mask, target.bonded).clamp(min=0)
    hidden = target.hidden.clamp(min=0)
    sure = [torch.nn.functional.one_hot(x, k) * 60.0 for x, k in ((bins, 64), (kinds, 3), (hidden, 20))]
    contacts = torch.where(apart < 8, 60.0, -60.0)
    for term in ALL.per_chain(TrunkPrediction(*sure, contacts), target).values():
        assert term.value.max() < 1e-9 and term.counted.all()


def test_the_terms_ignore_motion_mirroring_and_padding(case: Any, target: StructureTarget) -> None:
    prediction = said()
    before = ALL.per_chain(prediction, target)
    turned = ALL.per_chain(prediction, case._replace(target=target).moved_together().target)
    mirrored = ALL.per_chain(prediction, target._replace(x0=target.x0.flip(-1)))
    for name, term in before.items():
        torch.testing.assert_close(turned[name].value, term.value)
        if name != "secondary_structure":
            torch.testing.assert_close(mirrored[name].value, term.value)
    longer = case._replace(target=target._replace(hidden=None)).padded().target
    longer = longer._replace(hidden=torch.nn.functional.pad(target.hidden, (0, 5), value=NO_LABEL))
    wide = TrunkPrediction(*(_lengthen(x) for x in prediction))
    for name, term in ALL.per_chain(wide, longer).items():
        torch.testing.assert_close(term.value, before[name].value)


def _lengthen(x: torch.Tensor) -> torch.Tensor:
    axes = 2 if x.shape[1] == x.shape[2] else 1
    for axis in range(1, 1 + axes):
        shape = list(x.shape)
        shape[axis] = 5
        x = torch.cat((x, torch.full(shape, 1e3, dtype=x.dtype)), axis)
    return x


def test_secondary_structure_knows_a_helix_from_a_strand_and_from_a_break() -> None:
    """P-SEA's distances alone are blind to mirror images; so is this term, mostly."""
    helix, strand = (
        backbone_from_torsions(torch.full((1, 20), phi), torch.full((1, 20), psi))[:, :, 1].double()
        for phi, psi in ((-1.0, -0.82), (-2.1, 2.3))
    )
    mask = torch.ones(1, 20, dtype=torch.bool)
    sure = torch.zeros(1, 20, 3, dtype=torch.float64)
    sure[..., HELIX] = 9.0
    right, wrong = (secondary_structure_per_chain(sure, x, mask, mask).value for x in (helix, strand))
    assert right < 2 < 8 < wrong
    assert secondary_structure_per_chain(sure, helix, mask, mask & False).value > 8
    assert {COIL, HELIX, STRAND} == {0, 1, 2}


def test_only_hidden_residues_count_and_a_chain_without_any_counts_nothing(target: StructureTarget) -> None:
    logits = torch.randn(2, 14, 20, dtype=torch.float64, requires_grad=True)
    hidden = target.hidden.clone()
    hidden[1] = NO_LABEL
    term = residues_per_chain(logits, hidden)
    assert term.counted.tolist() == [True, False]
    term.mean().backward()
    touched = logits.grad.abs().sum(-1) > 0
    assert touched.nonzero().tolist() == [[0, 2], [0, 3], [0, 4]]


def test_heads_are_asked_once_for_all_noised_copies_of_a_chain(target: StructureTarget) -> None:
    prediction = said()
    three = map_tensors(lambda x: x.repeat(3, *(1,) * (x.ndim - 1)), target)
    one = ALL.per_chain(prediction, target)
    for name, term in ALL.per_chain(prediction, three).items():
        assert torch.equal(term.value, one[name].value.repeat(3))
        torch.testing.assert_close(term.mean(), one[name].mean())


@pytest.mark.parametrize("place", range(4))
def test_a_term_passes_gradcheck_in_float64(place: int, case: Any, target: StructureTarget) -> None:
    part = TrunkLosses(
        distogram=1.0, secondary_structure=1.0, contacts=1.0, hidden_residues=1.0, distogram_bins=4
    )
    short = target._replace(
        x0=target.x0[:, :5], mask=target.mask[:, :5], bonded=target.bonded[:, :5], hidden=target.hidden[:, :5]
    )
    logits = [torch.randn(2, 5, 5, 4), torch.randn(2, 5, 3), torch.randn(2, 5, 20), torch.randn(2, 5, 5)][
        place
    ]
    name = TrunkPrediction._fields[place]
    assert torch.autograd.gradcheck(
        lambda x: next(iter(part.per_chain(TrunkPrediction(**{name: x}), short).values())).value,
        logits.double().requires_grad_(),
    )


def test_the_chance_of_a_contact_is_the_share_of_the_distogram_below_8_angstrom() -> None:
    losses = TrunkLosses(distogram=1.0)
    sure = torch.full((1, 1, 3, 64), -60.0)
    for pair, k in enumerate((18, 19, 20)):  # 7.625–7.9375, 7.9375–8.25, 8.25–8.5625 Å
        sure[0, 0, pair, k] = 60.0
    torch.testing.assert_close(losses.contact_probability(sure)[0, 0], torch.tensor([1.0, 0.2, 0.0]))
    even = losses.contact_probability(torch.zeros(1, 1, 1, 64))
    torch.testing.assert_close(even.item(), 19.2 / 64, rtol=1e-6, atol=0)


def test_the_objective_has_them_where_heads_spoke(case: Any, target: StructureTarget) -> None:
    objective = DiffusionObjective(trunk=ALL)
    terms = objective(case.prediction._replace(trunk=said()), target)
    assert terms.keys() - DiffusionObjective()(*case).keys() == ALL.weights.keys()
