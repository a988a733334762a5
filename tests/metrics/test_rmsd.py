import gemmi
import pytest
import torch

from minifold_pl.metrics.rmsd import rmsd


def gemmi_rmsd(pred, true):
    def positions(x):
        return [gemmi.Position(*row) for row in x.double().tolist()]

    return gemmi.superpose_positions(positions(true), positions(pred)).rmsd


def test_rmsd_agrees_with_gemmi_to_1e_4_angstrom(make_batch, make_walk):
    true = [make_walk(length) for length in (4, 10, 33, 80)]
    pred = [make_walk(len(chain)) for chain in true]
    (a, mask), (b, _) = make_batch(pred), make_batch(true)
    expected = torch.tensor([gemmi_rmsd(p, t) for p, t in zip(pred, true, strict=True)])
    torch.testing.assert_close(rmsd(a, b, mask), expected, atol=1e-4, rtol=0)


def test_rmsd_agrees_with_gemmi_on_real_chains(real_chains, make_batch):
    length = 60
    windows = [chain[:length] for chain in real_chains if len(chain) >= length]
    ca, mask = make_batch(windows)
    pred = ca.roll(1, 0)
    expected = torch.tensor([gemmi_rmsd(p, t) for p, t in zip(pred, ca, strict=True)])
    torch.testing.assert_close(rmsd(pred, ca, mask), expected, atol=1e-4, rtol=0)


def test_rmsd_agrees_with_gemmi_for_long_chains_far_from_the_origin(make_batch, make_walk):
    true = [make_walk(length) + 900 for length in (500, 900)]
    pred = [chain.flip(1) - 2000 + 3 * torch.randn_like(chain) for chain in true]
    (a, mask), (b, _) = make_batch(pred), make_batch(true)
    expected = torch.tensor([gemmi_rmsd(p, t) for p, t in zip(pred, true, strict=True)])
    torch.testing.assert_close(rmsd(a, b, mask), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("noise", [1e-3, 0.5, 8.0])
def test_rmsd_agrees_with_gemmi_for_noised_real_chains(real_chains, make_batch, noise):
    ca, mask = make_batch(real_chains[:20])
    pred = ca + noise * torch.randn_like(ca)
    lengths = mask.sum(1).tolist()
    expected = [gemmi_rmsd(p[:n], t[:n]) for p, t, n in zip(pred, ca, lengths, strict=True)]
    torch.testing.assert_close(rmsd(pred, ca, mask), torch.tensor(expected), atol=1e-4, rtol=0)


def test_one_residue_moved_by_a_known_distance(make_batch, make_walk):
    # Far away from all others it takes the pose along by next to nothing.
    true, mask = make_batch([make_walk(400)])
    pred = true.clone()
    pred[0, 200, 0] += 1.0
    assert rmsd(pred, true, mask).item() == pytest.approx((1 / 400) ** 0.5, rel=0.01)
