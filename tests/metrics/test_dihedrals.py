import numpy as np
import pytest

from minifold_pl.metrics.dihedrals import (
    BINS,
    PHI_PSI_BASINS,
    PSEUDO_BASINS,
    Basin,
    basin_share,
    histogram,
    jensen_shannon,
    sampling_distance,
    wrapped,
)


def _drawn(n, seed=0):
    rng = np.random.default_rng(seed)
    return wrapped(rng.normal((50.0, -170.0), (15.0, 40.0), size=(n, 2)))


def test_two_sets_are_0_apart_where_they_are_the_same_and_1_where_they_share_no_square():
    a = _drawn(500)
    assert jensen_shannon(a, a) == 0.0
    assert jensen_shannon(a, a[::-1]) == 0.0
    assert jensen_shannon(np.full((7, 2), 10.0), np.full((3, 2), -170.0)) == pytest.approx(1.0)


def test_the_distance_is_the_root_of_the_divergence_by_hand():
    # P = (1/2, 1/2, 0), Q = (0, 1/2, 1/2): M = (1/4, 1/2, 1/4); D(P|M) = D(Q|M) = 1/2 bit.
    a = np.array([[5.0, 5.0], [45.0, 5.0]])
    b = np.array([[45.0, 5.0], [85.0, 5.0]])
    assert jensen_shannon(a, b) == pytest.approx(np.sqrt(0.5))


def test_the_distance_is_symmetric_and_knows_no_seam_at_180_degrees():
    a, b = _drawn(800, 1), _drawn(300, 2)
    assert jensen_shannon(a, b) == pytest.approx(jensen_shannon(b, a))
    assert jensen_shannon(np.array([[180.0, 0.0]]), np.array([[-180.0, 0.0]])) == 0.0
    turn = 360 / BINS
    assert jensen_shannon(wrapped(a + turn), wrapped(b + turn)) == pytest.approx(jensen_shannon(a, b))


def test_finite_draws_of_the_truth_are_apart_and_come_nearer_with_their_number():
    truth = _drawn(20000)
    few, many = sampling_distance(truth, 200), sampling_distance(truth, 5000)
    assert 0 < many < few < 1
    assert jensen_shannon(truth, _drawn(200, 7)) == pytest.approx(few, rel=0.2)
    assert np.isnan(sampling_distance(truth, 0))


def test_a_basin_holds_what_is_near_its_centre_also_across_180_degrees():
    basin = Basin("strand", (-170.0, -170.0), (45.0, 45.0))
    held = basin.holds(
        np.array([[-170.0, -170.0], [175.0, 170.0], [-125.0, 145.0], [-124.0, -170.0], [50, 50]])
    )
    assert held.tolist() == [True, True, True, False, False]
    assert basin_share(np.array([[180.0, 180.0], [0.0, 0.0]]), basin) == 0.5
    assert np.isnan(basin_share(np.zeros((0, 2)), basin))


def test_basins_hold_ideal_residues_and_do_not_overlap():
    ideal = {"α": (-57.0, -47.0), "β": (-139.0, 135.0), "left α": (57.0, 47.0)}
    for basins, places in (
        (PHI_PSI_BASINS, ideal),
        (PSEUDO_BASINS, {"helix": (50, 50), "strand": (-170, -170)}),
    ):
        for name, place in places.items():
            assert [b.name for b in basins if b.holds(np.array([place]))[0]] == [name]
        everywhere = np.stack(np.meshgrid(*2 * [np.arange(-180.0, 180.0, 3)]), -1).reshape(-1, 2)
        assert sum(b.holds(everywhere).astype(int) for b in basins).max() == 1


def test_a_histogram_counts_every_pair_once_rows_first():
    angles = np.array([[-180.0, -180.0], [180.0, 179.9], [0.0, 90.0], [719.0, 0.0]])
    counts = histogram(angles, 4)
    assert counts.sum() == 4
    assert counts[0, 0] == 1 and counts[0, 3] == 1 and counts[2, 3] == 1 and counts[1, 2] == 1


def test_nothing_is_no_distribution():
    assert np.isnan(jensen_shannon(np.zeros((0, 2)), _drawn(5)))
