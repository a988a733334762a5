import numpy as np
import pytest
import torch

from minifold_pl.metrics.lddt import kept_shares, lddt_ca, lddt_ca_per_residue


def loop_lddt(pred, true):
    """Pair by pair, as the definition reads: (kept, counted) of each residue."""
    kept, counted = np.zeros(len(true)), np.zeros(len(true))
    for i in range(len(true)):
        for j in range(len(true)):
            distance = np.linalg.norm(true[i] - true[j])
            if i == j or distance >= 15:
                continue
            error = abs(np.linalg.norm(pred[i] - pred[j]) - distance)
            counted[i] += 1
            kept[i] += sum(error < t for t in (0.5, 1, 2, 4)) / 4
    return kept, counted


def test_lddt_agrees_with_a_loop_over_pairs(make_batch, make_walk):
    true = [make_walk(length) for length in (8, 30, 45)]
    pred = [chain + torch.randn_like(chain) for chain in true]
    (a, mask), (b, _) = make_batch(pred), make_batch(true)
    whole, by_residue = lddt_ca(a, b, mask), lddt_ca_per_residue(a, b, mask)
    for k, (p, t) in enumerate(zip(pred, true, strict=True)):
        kept, counted = loop_lddt(p.double().numpy(), t.double().numpy())
        assert whole[k].item() == pytest.approx(kept.sum() / counted.sum(), abs=1e-6)
        np.testing.assert_allclose(by_residue[k, : len(t)], kept / counted, atol=1e-6)
        assert by_residue[k, len(t) :].isnan().all()


@pytest.mark.parametrize("noise", [0.3, 2.0, None])
def test_lddt_agrees_with_a_loop_on_real_chains(real_chains, noise):
    for k in range(6):
        true, other = real_chains[k], real_chains[k + 1]
        length = min(len(true), len(other))
        true, other = true[:length] + 400, other[:length]
        pred = other if noise is None else true + noise * torch.randn_like(true)
        kept, counted = loop_lddt(pred.double().numpy(), true.double().numpy())
        mask = torch.ones(1, length, dtype=torch.bool)
        assert lddt_ca(pred[None], true[None], mask).item() == pytest.approx(
            kept.sum() / counted.sum(), abs=1e-6
        )


def test_unrelated_real_chains_score_three_tenths(real_chains, make_batch):
    windows = [chain[:60] for chain in real_chains if len(chain) >= 60]
    ca, mask = make_batch(windows)
    # Measured before: 0.31 at 60 to 125 residues.
    assert lddt_ca(ca.roll(1, 0), ca, mask).mean().item() == pytest.approx(0.31, abs=0.03)


def test_pair_beyond_15_angstrom_in_the_truth_does_not_count():
    true = torch.tensor([[[0.0, 0, 0], [4, 0, 0], [40, 0, 0]]])
    pred = torch.tensor([[[0.0, 0, 0], [4, 0, 0], [90, 0, 0]]])
    assert lddt_ca(pred, true, torch.ones(1, 3, dtype=torch.bool)).item() == 1


def test_residue_without_neighbours_has_no_score():
    true = torch.tensor([[[0.0, 0, 0], [4, 0, 0], [40, 0, 0]]])
    score = lddt_ca_per_residue(true, true, torch.ones(1, 3, dtype=torch.bool))
    assert score[0, :2].tolist() == [1, 1]
    assert score[0, 2].isnan()


def test_shares_of_the_four_tolerances_are_lddt_in_their_mean(make_batch, make_walk):
    (a, mask), (b, _) = (make_batch([make_walk(length) for length in (9, 24)]) for _ in range(2))
    shares = kept_shares(a, b, mask, (0.5, 1, 2, 4))
    expected = lddt_ca_per_residue(a, b, mask).nan_to_num(0.0)
    torch.testing.assert_close(shares.mean(-1), expected)
    assert (shares.diff(dim=-1) >= 0).all() and not shares[~mask].any()


def test_shares_of_what_is_not_finite_are_zero(make_batch, make_walk):
    ca, mask = make_batch([make_walk(12)])
    broken = ca.clone()
    broken[0, 3] = torch.nan
    for first, second in ((broken, ca), (ca, broken)):
        shares = kept_shares(first, second, mask, (1.0,))
        assert shares[0, 3, 0] == 0 and shares.isfinite().all()
