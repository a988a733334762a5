import pytest
import torch

from minifold_pl.metrics.gdt import gdt_ha_kabsch, gdt_ts_kabsch


@pytest.fixture
def displaced(make_walk):
    """Two residues in opposite directions, so that the pose stays where it is."""

    def make(distance):
        half = make_walk(30)
        true = torch.cat([half, -half])[None]  # centred
        pred = true.clone()
        arm = torch.linalg.cross(true[0, 10], torch.tensor([0.0, 0.0, 1.0]))
        pred[0, 10] += distance * arm / arm.norm()
        return pred, true, torch.ones(1, 60, dtype=torch.bool)

    return make


@pytest.mark.parametrize(
    ("distance", "ts", "ha"),
    [(0.3, 4, 4), (0.75, 4, 3), (1.5, 3, 2), (3.0, 2, 1), (6.0, 1, 0), (20.0, 0, 0)],
)
def test_residue_counts_once_for_each_cutoff_it_meets(displaced, distance, ts, ha):
    pred, true, mask = displaced(distance)
    # The pose gives way by at most a few hundredths of an Å: far from every cutoff for the others.
    assert gdt_ts_kabsch(pred, true, mask).item() == pytest.approx((59 * 4 + ts) / 240, abs=1e-6)
    if distance < 10:
        assert gdt_ha_kabsch(pred, true, mask).item() == pytest.approx((59 * 4 + ha) / 240, abs=1e-6)


def test_high_accuracy_score_is_never_above_the_total_score(make_batch, make_walk):
    true, mask = make_batch([make_walk(40) for _ in range(20)])
    pred = true + torch.randn_like(true) * torch.linspace(0.1, 4, 20)[:, None, None]
    assert (gdt_ha_kabsch(pred, true, mask) <= gdt_ts_kabsch(pred, true, mask)).all()


def test_unrelated_real_chains_score_a_twentieth(real_chains, make_batch):
    windows = [chain[:90] for chain in real_chains if len(chain) >= 90]
    ca, mask = make_batch(windows)
    # Measured before: 0.053 at 60 to 125 residues.
    assert gdt_ts_kabsch(ca.roll(1, 0), ca, mask).mean().item() == pytest.approx(0.053, abs=0.01)
