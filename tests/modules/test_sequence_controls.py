"""Wrong sequences: what they keep and what they change."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.constants import CLS, EOS, MASK, PAD
from minifold_pl.modules.sequence_controls import masked_tokens, other_tokens, shuffled_tokens, with_residues


def _residues(tokens, batch):
    return [row[1 : n + 1] for row, n in zip(tokens, batch.lengths.tolist(), strict=True)]


def _frame_kept(tokens, batch) -> bool:
    special = torch.isin(batch.tokens, torch.tensor([PAD, CLS, EOS]))
    return (
        torch.equal(tokens[special], batch.tokens[special])
        and not torch.isin(tokens[~special], torch.tensor([PAD, CLS, EOS])).any()
    )


def test_a_shuffled_sequence_keeps_its_composition_and_loses_its_order(batch) -> None:
    tokens = shuffled_tokens(batch, 0)
    assert _frame_kept(tokens, batch)
    for real, drawn in zip(_residues(batch.tokens, batch), _residues(tokens, batch), strict=True):
        assert torch.equal(real.sort().values, drawn.sort().values)
        assert not torch.equal(real, drawn)


def test_shuffles_depend_on_seed_and_name_and_not_on_the_batch(make_batch) -> None:
    both, alone = make_batch([("one", 12), ("two", 16)]), make_batch([("two", 16)])
    assert torch.equal(shuffled_tokens(both, 0)[1, :18], shuffled_tokens(alone, 0)[0, :18])
    assert not torch.equal(shuffled_tokens(both, 0), shuffled_tokens(both, 1))


def test_even_two_residues_change_places_and_equal_ones_stay(make_batch) -> None:
    batch = make_batch([(f"chain {i}", 2) for i in range(16)])
    for real, drawn in zip(
        _residues(batch.tokens, batch), _residues(shuffled_tokens(batch, 0), batch), strict=True
    ):
        assert torch.equal(real, drawn) == bool(real[0] == real[1])
    same = with_residues(batch, [torch.tensor([4, 4])] * 16)
    assert torch.equal(same[:, 1:3], torch.full((16, 2), 4))


def test_the_null_condition_masks_every_residue_and_nothing_else(batch) -> None:
    tokens = masked_tokens(batch)
    assert torch.equal(tokens.ne(PAD), batch.tokens.ne(PAD))
    assert all((row == MASK).all() for row in _residues(tokens, batch))


def test_another_chains_sequence_is_a_piece_of_one_that_is_long_enough(batch) -> None:
    long, short = torch.arange(4, 24).repeat(2), torch.tensor([4, 5])
    tokens = other_tokens(batch, [[short, long]] * len(batch), 0)
    assert _frame_kept(tokens, batch)
    for row in _residues(tokens, batch):
        windows = long.unfold(0, len(row), 1)
        assert (windows == row).all(1).any()


def test_short_sequences_are_laid_end_to_end(batch) -> None:
    tokens = other_tokens(batch, [[torch.tensor([4, 5, 6])]] * len(batch), 0)
    for row in _residues(tokens, batch):
        assert set((row[1:] - row[:-1]).tolist()) == {1, -2}


@pytest.mark.parametrize("pool", [[], [torch.tensor([], dtype=torch.long)]])
def test_without_another_chain_it_is_told(batch, pool) -> None:
    with pytest.raises(ValueError, match="no other chain's sequence for one"):
        other_tokens(batch, [pool] * len(batch), 0)
