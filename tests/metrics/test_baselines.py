import pytest
import torch

from minifold_pl.metrics.baselines import centroid, ideal_helix, mirrored_truth, random_chain, truth
from minifold_pl.metrics.lddt import lddt_ca
from minifold_pl.metrics.rmsd import rmsd
from minifold_pl.metrics.tm import tm_kabsch


@pytest.fixture
def target(make_batch, make_walk):
    return make_batch([make_walk(40), make_walk(25)])


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + k) for k in range(count)]


def test_truth_is_perfect_and_its_mirror_only_in_distances(target):
    ca, mask = target
    torch.testing.assert_close(tm_kabsch(truth(ca, mask), ca, mask), torch.ones(2))
    assert (tm_kabsch(mirrored_truth(ca, mask), ca, mask) < 0.8).all()
    torch.testing.assert_close(lddt_ca(mirrored_truth(ca, mask), ca, mask), torch.ones(2))


def test_rmsd_of_the_centroid_is_the_radius_of_gyration(target):
    ca, mask = target
    point = centroid(ca, mask)
    for k, length in enumerate((40, 25)):
        chain = ca[k, :length]
        expected = (chain - chain.mean(0)).square().sum(-1).mean().sqrt()
        assert rmsd(point, ca, mask)[k].item() == pytest.approx(expected.item(), abs=1e-3)


def test_helix_has_real_bonds_and_a_real_turn(target):
    ca, mask = target
    helix = ideal_helix(ca, mask)[0]
    bonds = helix.diff(dim=0)
    assert bonds.norm(dim=-1).mean().item() == pytest.approx(3.83, abs=0.01)
    # 5.4 to 5.5 Å from i to i + 2, 5.0 Å to i + 3, 6.2 Å to i + 4 in real α helices.
    assert (helix[3:] - helix[:-3]).norm(dim=-1).mean().item() == pytest.approx(5.0, abs=0.15)
    assert (helix[4:] - helix[:-4]).norm(dim=-1).mean().item() == pytest.approx(6.2, abs=0.15)
    # Right-handed: the triple product of consecutive bonds is positive.
    assert (bonds[:-2] * torch.linalg.cross(bonds[1:-1], bonds[2:])).sum(-1).min() > 0


def test_random_chain_is_a_window_of_the_pool(target, make_walk):
    ca, mask = target
    pool = [make_walk(60) + 100 * k for k in range(3)]
    drawn = random_chain(ca, mask, pool, generators(2))
    for k, length in enumerate((40, 25)):
        window = drawn[k, :length]
        found = [torch.equal(chain[s : s + length], window) for chain in pool for s in range(61 - length)]
        assert sum(found) == 1


def test_the_window_of_a_random_chain_begins_anywhere(target, make_walk):
    ca, mask = target
    chain = make_walk(42)
    starts = set()
    for seed in range(40):
        drawn = random_chain(ca[:1], mask[:1], [chain], generators(1, seed=seed))[0]
        starts |= {start for start in range(3) if torch.equal(drawn, chain[start : start + 40])}
    assert starts == {0, 1, 2}


def test_random_chain_of_a_target_depends_on_its_own_generator_alone(target, make_walk):
    ca, mask = target
    pool = [make_walk(60) for _ in range(20)]
    both = random_chain(ca, mask, pool, generators(2))
    alone = random_chain(ca[1:, :25], mask[1:, :25], pool, generators(1, seed=1))
    assert torch.equal(both[1, :25], alone[0])
    assert not torch.equal(both, random_chain(ca, mask, pool, generators(2, seed=5)))


def test_target_longer_than_every_chain_gets_chains_joined_by_a_bond(target, make_walk):
    ca, mask = target
    drawn = random_chain(ca, mask, [make_walk(15), make_walk(9)], generators(2))
    for k, length in enumerate((40, 25)):
        bonds = drawn[k, :length].diff(dim=0).norm(dim=-1)
        torch.testing.assert_close(bonds, torch.full_like(bonds, 3.8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("baseline", [truth, mirrored_truth, centroid, ideal_helix])
def test_masked_residues_are_zero_and_change_nothing(baseline, target):
    ca, mask = target
    made = baseline(ca, mask)
    assert (made[~mask] == 0).all()
    assert torch.equal(baseline(ca.masked_fill(~mask[..., None], float("nan")), mask), made)


@pytest.mark.parametrize("pool", [[], [torch.zeros(0, 3)]])
def test_empty_pool_is_refused(target, pool):
    with pytest.raises(ValueError, match="pool of random chains is empty"):
        random_chain(*target, pool, generators(2))


def test_each_target_needs_its_generator(target, make_walk):
    with pytest.raises(ValueError, match="1 generators for 2 targets"):
        random_chain(*target, [make_walk(60)], generators(1))
