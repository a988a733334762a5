"""Contact maps of single chains."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.store import ChainStore, write_store
from minifold_pl.data.synthetic import SyntheticConfig, generate
from minifold_pl.diagnostics.contact_maps import one_of_each_class, predicted_maps


@pytest.fixture(scope="module")
def chains(tmp_path_factory) -> ChainDataset:
    place = tmp_path_factory.mktemp("maps") / "store"
    write_store(place, list(generate(SyntheticConfig(n=15, folds=5, min_length=33, max_length=45))))
    return ChainDataset(ChainStore.open(place), "all")


def test_a_map_is_as_large_as_its_chain_whatever_a_batch_is_padded_to(chains: ChainDataset) -> None:
    torch.manual_seed(0)
    module = instantiate_model("contact_small.yaml").eval()
    places = one_of_each_class(chains, 4, seed=0)
    assert len({int(chains.store.cath_classes[chains.indices[place]]) for place in places}) > 1
    for place, found in zip(places, predicted_maps(module, chains, places), strict=True):
        length = int(chains.lengths[place])
        assert found.observed.shape == (length,) and found.observed.all()
        assert found.contact.shape == found.probability.shape == (length, length)
        ca = chains[place].coords[:, 1]
        true = np.linalg.norm(ca[:, None] - ca[None], axis=-1) < 8
        assert (found.contact == true).mean() > 0.999  # single precision at the cutoff
