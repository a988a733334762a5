"""The choice of chains, and the numbers of an evaluation."""

from __future__ import annotations

import pytest

from minifold_pl.callbacks.ddim_scores import choose_chains, sequence_name, share_of
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.store import ChainStore


def test_the_same_seed_chooses_the_same_whole_chains(store) -> None:
    chains = ChainDataset(ChainStore.open(store), "train", max_length=28)
    chosen = choose_chains(chains, 5, seed=3)
    assert chosen == choose_chains(chains, 5, seed=3)
    assert len(set(chosen)) == 5
    assert all(chains.store.lengths[chains.indices[i]] <= 28 for i in chosen)
    assert len(choose_chains(chains, 10_000, seed=3)) < len(chains)  # the cropped ones stay out


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_share_the_chains_and_each_has_long_and_short_ones(chains, ranks) -> None:
    chosen = choose_chains(chains, 7, seed=0)
    shares = [share_of(chains, chosen, rank, ranks) for rank in range(ranks)]
    assert sorted(i for share in shares for i in share) == chosen
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert shares[0] == sorted(shares[0], key=lambda i: -int(chains.lengths[i]))


def test_numbers_of_the_sequence_test_are_validation_losses() -> None:
    assert sequence_name("model", "loss_mostly_noise") == "val/sequence/real"
    assert sequence_name("MASK sequence", "loss_mostly_noise") == "val/sequence/mask"
    assert sequence_name("model", "sequence_gain_shuffled") == "val/sequence_gain/shuffled"
    assert sequence_name("model", "tm_score") is None
