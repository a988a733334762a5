from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifold_pl.data.sampler import LengthBucketBatchSampler

lengths = st.lists(st.integers(1, 500), min_size=1, max_size=300)
sizes = st.integers(1, 40)


def _indices(batches):
    return [index for batch in batches for _, index in batch]


@given(lengths, sizes, st.integers(0, 99), st.booleans())
def test_every_chain_comes_exactly_once_an_epoch(lengths, size, epoch, shuffle):
    sampler = LengthBucketBatchSampler(lengths, size, shuffle=shuffle)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(_indices(batches)) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)  # only one may be incomplete
    assert 0 <= sampler.padding_share < 1


@given(lengths, sizes, st.integers(1, 5), st.booleans(), st.booleans())
def test_ranks_share_an_epoch_in_equal_parts(lengths, size, world, drop_last, shuffle):
    if drop_last and len(lengths) < size * world:
        return
    ranks = [
        list(
            LengthBucketBatchSampler(
                lengths, size, rank=rank, world=world, drop_last=drop_last, shuffle=shuffle
            )
        )
        for rank in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    counts = Counter(_indices(batch for batches in ranks for batch in batches))
    if drop_last:
        assert set(counts.values()) == {1}
        assert counts.total() == len(lengths) // (size * world) * size * world
    else:
        assert counts.keys() == set(range(len(lengths)))
        assert counts.total() - len(lengths) <= (world - 1) * size


def _order(epoch, **options):
    lengths = np.random.default_rng(0).integers(30, 128, 1000)
    sampler = LengthBucketBatchSampler(lengths, 16, **options)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_order_is_a_function_of_seed_and_epoch():
    assert _order(3, seed=1) == _order(3, seed=1)
    assert _order(3, seed=1) != _order(4, seed=1)
    assert _order(3, seed=1) != _order(3, seed=2)


def test_the_epoch_travels_in_the_keys():
    assert {epoch for batch in _order(7) for epoch, _ in batch} == {7}


def test_a_fixed_order_stays_fixed_and_starts_with_the_longest():
    assert _order(0, shuffle=False) == _order(5, shuffle=False)
    lengths = [10, 500, 30, 200, 90]
    batches = list(LengthBucketBatchSampler(lengths, 2, shuffle=False))
    assert batches == [[(0, 1), (0, 3)], [(0, 4), (0, 2)], [(0, 0)]]


def test_batches_hold_like_lengths_and_still_differ_between_epochs():
    lengths = np.random.default_rng(0).integers(30, 500, 4000)
    sampler = LengthBucketBatchSampler(lengths, 16)
    shuffled = np.random.default_rng(1).permutation(lengths).reshape(-1, 16)
    assert sampler.padding_share < 0.05  # of which 0.013 is the multiple of 8
    assert 1 - shuffled.sum() / (shuffled.max(1).sum() * 16) > 0.3
    sampler.set_epoch(0)
    first = {frozenset(i for _, i in batch) for batch in sampler}
    sampler.set_epoch(1)
    assert not first & {frozenset(i for _, i in batch) for batch in sampler}


def test_what_is_left_out_or_incomplete_is_not_always_the_longest():
    lengths = [10] * 90 + [200] * 11
    sampler = LengthBucketBatchSampler(lengths, 10, drop_last=True)
    left_out = []
    for epoch in range(50):
        sampler.set_epoch(epoch)
        left_out += set(range(101)) - set(_indices(sampler))
    assert 0 < sum(lengths[i] == 200 for i in left_out) < 15  # 5.4 expected of 50


def test_ranks_work_on_like_lengths_at_the_same_step():
    lengths = np.random.default_rng(0).integers(30, 500, 4096)
    ranks = [list(LengthBucketBatchSampler(lengths, 8, rank=r, world=4)) for r in range(4)]
    longest = np.array([[max(lengths[i] for _, i in batch) for batch in batches] for batches in ranks])
    assert np.ptp(longest, axis=0).mean() < 20


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "world": 2}, "rank is 2 and world 2"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 4, "drop_last": True}, "3 chains make no batch of 4"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, told):
    with pytest.raises(ValueError, match=told):
        LengthBucketBatchSampler([1, 2, 3], **{"batch_size": 2, **options})


@given(lengths, sizes, st.integers(1, 5))
def test_without_the_repeats_ranks_have_the_batches_of_one(lengths, size, world):
    ranks = [
        LengthBucketBatchSampler(lengths, size, rank=rank, world=world, shuffle=False)
        for rank in range(world)
    ]
    kept = [batch for sampler in ranks for place, batch in enumerate(sampler) if not sampler.repeats(place)]
    assert sorted(kept) == sorted(LengthBucketBatchSampler(lengths, size, shuffle=False))


def test_repeats_are_told_of_a_fixed_order_only():
    with pytest.raises(ValueError, match="fixed order only"):
        LengthBucketBatchSampler([10, 20, 30], 2).repeats(0)
