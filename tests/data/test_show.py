import json

import numpy as np
import pytest

from minifold_pl.data.show import NoSuchChain, chain_facts, chain_text, find_chain


@pytest.fixture
def store(make_record, make_store):
    coords = make_record("x", 70).coords.copy()
    coords[65] = np.nan
    coords[3, [0, 2, 3]] = np.nan
    ids = (*(f"{i - 5}" for i in range(69)), "63A")
    nothing = np.full((10, 4, 3), np.nan, dtype=np.float32)
    return make_store(
        make_record("1abc.A", 70, coords=coords, breaks=(10,), residue_ids=ids, cath=("3.40.50.300",), cluster="c",
                    representative=True),
        make_record("1abd.A", 12),
        make_record("only", 10, coords=nothing, split="test"),
    )  # fmt: skip


def test_a_chain_is_described_by_what_is_known_of_it(store):
    facts = chain_facts(store, 0)
    assert (facts.name, facts.place, facts.length, facts.split) == ("1abc.A", 0, 70, "train")
    assert (facts.cluster, facts.representative, facts.cath) == ("c", True, ("3.40.50.300",))
    assert (facts.cath_class, facts.architecture) == ("Alpha Beta", "3.40")
    assert facts.numbers == ("-5", "63A")
    assert facts.observed == {"N": 68, "CA": 69, "C": 68, "O": 68}
    assert facts.breaks == ["5–6", "59–61"]  # the source's, and the gap
    # A straight run of residues 3.8 Å apart: the standard deviation of their places.
    places = np.delete(np.arange(70), 65) * 3.8
    assert facts.radius_of_gyration == pytest.approx(places.std(), rel=1e-5)
    assert facts.contacts == 0
    assert json.loads(json.dumps(facts.as_dict()))["name"] == "1abc.A"


def test_a_chain_without_coordinates_says_so(store):
    facts = chain_facts(store, 2)
    assert (facts.radius_of_gyration, facts.contacts, facts.breaks, facts.numbers) == (None, None, [], None)
    text = chain_text(facts, np.zeros(10, dtype=bool))
    assert "coordinates    none, the sequence only" in text
    assert text.splitlines()[-1] == "     1 " + store[2].sequence


def test_the_text_has_the_sequence_with_its_gaps_marked(store):
    observed = ~np.isnan(store.coords(0)[:, 1]).any(-1)
    lines = chain_text(chain_facts(store, 0), observed).splitlines()
    assert "1abc.A  (70 residues, numbered -5…63A by its author; chain 0 of the store)" in lines
    assert "cluster        c, its representative" in lines
    assert "CATH           3.40.50.300 (Alpha Beta · 3.40)" in lines
    assert "breaks         5–6, 59–61" in lines
    assert lines[-2] == "    61 " + store[0].sequence[60:]
    assert lines[-1] == "       " + "     -"
    assert max(map(len, lines)) <= 90


def test_a_chain_is_found_by_name_and_a_similar_one_is_offered(store):
    assert find_chain(store, "1abd.A") == 1
    with pytest.raises(NoSuchChain, match=r"no chain named '1abd\.B'; did you mean 1abd\.A"):
        find_chain(store, "1abd.B")
    with pytest.raises(NoSuchChain, match=r"the first one is '1abc\.A'"):
        find_chain(store, "zzzzzzzzzzz")


def test_breaks_without_author_numbers_are_counted_from_one(make_record, make_store):
    store = make_store(make_record("a", 12, breaks=(3,)))
    assert chain_facts(store, 0).breaks == ["4–5"]
