import pytest
import torch

from minifold_pl.constants import EOS, PAD
from minifold_pl.data.collate import collate
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.types import token_mask


@pytest.fixture
def items(make_record, make_store):
    dataset = ChainDataset(make_store(make_record("a", 9), make_record("b", 50)), "train", max_length=20)
    return [dataset[0], dataset[1]]


def test_a_batch_is_padded_to_a_multiple_with_two_more_tokens(items):
    batch = collate(items)
    assert batch.names == ("a", "b")
    assert batch.lengths.tolist() == [9, 20]
    assert batch.coords.shape == (2, 24, 4, 3)
    assert batch.tokens.shape == (2, 26)
    assert batch.tokens[0, 10] == EOS
    assert token_mask(batch.tokens).sum(-1).tolist() == [11, 22]
    assert batch.residue_index[1, :20].tolist() == list(range(items[1].start, items[1].start + 20))


def test_padding_is_empty_everywhere(items):
    batch = collate(items, pad_multiple=32)
    assert (batch.tokens[0, 11:] == PAD).all()
    for tensor in (batch.residue_mask, batch.coords, batch.atom_mask, batch.bonded, batch.residue_index):
        assert not tensor[0, 9:].any()
        assert tensor[0, :9].any()


def test_a_row_does_not_depend_on_its_neighbours(items):
    together, alone = collate(items), collate(items[:1])
    for name in ("tokens", "residue_mask", "coords", "atom_mask", "bonded", "residue_index"):
        mine = getattr(alone, name)[0]
        assert torch.equal(getattr(together, name)[0, : len(mine)], mine)


def test_no_item_and_no_multiple_are_refused(items):
    with pytest.raises(ValueError, match="no item"):
        collate([])
    with pytest.raises(ValueError, match="pad_multiple is 0"):
        collate(items, pad_multiple=0)
