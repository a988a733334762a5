from dataclasses import fields

import numpy as np
import pytest

from minifold_pl.data.packed_chain import pack


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"residue_ids": ("-3", "-2", *map(str, range(1, 9)), "9A", "9B")},
        {
            "breaks": (2, 7),
            "cath": ("1.10.8", "3.40.50"),
            "split": "test",
            "cluster": "7",
            "representative": True,
        },
    ],
)
def test_a_packed_chain_is_the_record_it_was_made_of(make_record, given):
    record = make_record("1abc.A", 12, **given)
    packed = pack(record)
    again = packed.record()
    for field in fields(record):
        a, b = getattr(record, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(a, b) if field.name == "coords" else None
        assert field.name == "coords" or a == b
    assert packed.sequence == record.sequence
    assert packed.length == 12


def test_a_chain_without_atoms_is_packed_without_coordinates(make_record):
    record = make_record("seq", 8, coords=np.full((8, 4, 3), np.nan, dtype=np.float32))
    packed = pack(record)
    assert len(packed.content) == 16  # tokens and bonds
    assert packed.record().sequence_only
