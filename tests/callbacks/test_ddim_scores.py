"""The choice of chains, and the numbers of an evaluation."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.callbacks import ddim_scores
from minifold_pl.callbacks.ddim_scores import choose_chains, sequence_name, share_of
from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.store import ChainStore
from minifold_pl.metrics import baselines


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


def test_scores_of_several_guesses_are_their_mean(chains) -> None:
    batch = collate([chains[0], chains[1]])
    ca, mask = batch.ca.float(), batch.ca_mask
    guesses = [baselines.truth(ca, mask), baselines.mirrored_truth(ca, mask), baselines.centroid(ca, mask)]
    each = [ddim_scores._mean_scores([guess], batch, False) for guess in guesses]
    together = ddim_scores._mean_scores(guesses, batch, False)
    for name in ("tm_kabsch", "rmsd"):
        expected = torch.stack([scores[name] for scores in each]).mean(0)
        torch.testing.assert_close(together[name], expected)
        assert not torch.allclose(each[0][name], expected)


def test_another_random_chain_is_none_of_the_targets_own_cluster(chains, monkeypatch) -> None:
    drawn_from: list[list[torch.Tensor]] = []

    def record(ca, mask, pool, generators):
        drawn_from.append(list(pool))
        return torch.zeros_like(ca)

    monkeypatch.setattr(ddim_scores.baselines, "random_chain", record)
    batch = collate([chains[0]])
    pool = {i: torch.full((40, 3), float(i)) for i in range(4)}
    own = chains.indices[[0, 2]].tolist()
    clusters = ["own" if k in own else f"c{k}" for k in range(len(chains.store.clusters))]
    monkeypatch.setitem(vars(chains.store), "clusters", clusters)
    ddim_scores._others(chains, [0], batch, pool, seed=0)
    assert {int(trace[0, 0]) for pool in drawn_from for trace in pool} == {1, 3}
