import numpy as np
import pytest

from minifold_pl.data.collate import collate
from minifold_pl.data.crops import contacts_cut, crop_losses
from minifold_pl.data.dataset import ChainDataset


def _coords(length, pairs):
    """Residues far apart from each other, but for ``pairs``, which touch."""
    coords = np.zeros((length, 4, 3), dtype=np.float32)
    coords[:, :, 0] = 100.0 * np.arange(length)[:, None]
    for i, j in pairs:
        coords[j] = coords[i] + 1.0
    return coords


def test_contacts_in_crops_are_those_of_every_place_it_may_begin(make_record, make_store):
    length, crop = 60, 40
    pairs = [(0, 59), (3, 20), (10, 45), (25, 40)]
    store = make_store(make_record("a", length, coords=_coords(length, pairs)))
    found = crop_losses(store, crop)
    starts = range(length - crop + 1)
    inside = {(i, j): np.mean([s <= i and j < s + crop for s in starts]) for i, j in pairs}
    assert found.contacts_lost_share == pytest.approx(1 - np.mean(list(inside.values())))
    assert found.long_contacts_lost_share == pytest.approx(1 - (inside[0, 59] + inside[10, 45]) / 2)
    assert found.contacts_out_of_reach_share == 1 / 4
    assert (found.cropped_chains, found.cropped_share, found.chains_looked_at) == (1, 1.0, 1)
    assert found.residues_outside_share == pytest.approx(20 / 60)


def test_near_contacts_and_missing_atoms_do_not_count(make_record, make_store):
    coords = _coords(60, [(0, 11), (5, 30)])
    coords[30] = np.nan
    found = crop_losses(make_store(make_record("a", 60, coords=coords)), 40)
    assert found.contacts_lost_share is None


def test_chains_that_fit_lose_nothing_and_sequences_are_not_counted(make_record, make_store):
    nothing = np.full((99, 4, 3), np.nan, dtype=np.float32)
    store = make_store(make_record("a", 40), make_record("b", 99, coords=nothing))
    found = crop_losses(store, 40)
    assert (found.cropped_chains, found.cropped_share, found.residues_outside_share) == (0, 0.0, 0.0)
    assert (found.contacts_lost_share, found.chains_looked_at) == (None, 0)
    with pytest.raises(ValueError, match="max_length is 0"):
        crop_losses(store, 0)


def test_a_cut_leaves_contacts_of_a_piece_without_their_other_end():
    """Of the piece 10 … 49: 12–30 and 20–40 are inside, 5–33 and 45–59 are cut, 22–28 are too near."""
    pairs = [(5, 33), (12, 30), (20, 40), (45, 59), (22, 28)]
    ca = _coords(60, pairs)[:, 1]
    everywhere = np.ones(60, dtype=bool)
    assert contacts_cut(ca, everywhere, slice(10, 50)) == 2 / 4
    assert contacts_cut(ca, everywhere, slice(0, 60)) == 0
    assert contacts_cut(ca, everywhere, slice(46, 58)) == 0  # no contact at all
    unseen = everywhere.copy()
    unseen[59] = False
    assert contacts_cut(ca, unseen, slice(10, 50)) == 1 / 3


def test_items_say_whether_they_are_pieces_and_what_the_cut_cost(make_record, make_store):
    pairs = [(5, 33), (12, 30)]
    store = make_store(make_record("a", 60, coords=_coords(60, pairs)), make_record("b", 30))
    dataset = ChainDataset(store, "train", max_length=40)
    names = [store.name(int(i)) for i in dataset.indices]
    long, short = (dataset[3, names.index(name)] for name in "ab")
    assert (long.cropped, short.cropped, short.contacts_cut) == (True, False, 0.0)
    inside = [long.start <= k < long.start + 40 for k in range(60)]
    whole = sum(inside[i] and inside[j] for i, j in pairs)
    cut = sum(inside[i] != inside[j] for i, j in pairs)
    assert long.contacts_cut == (cut / (whole + cut) if whole + cut else 0.0)
    batch = collate([long, short])
    assert batch.cropped.tolist() == [True, False]
    assert batch.contacts_cut.tolist() == pytest.approx([long.contacts_cut, 0.0])
