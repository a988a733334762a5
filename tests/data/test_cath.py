import pytest

from minifold_pl.constants import NO_LABEL
from minifold_pl.data.cath import architecture, cath_class, label_set


@pytest.mark.parametrize(
    ("codes", "label", "name"),
    [
        (["3.40.50"], 2, "3.40"),
        (["3.40.50.300"], 2, "3.40"),
        (["1.10.530", "1.10.8"], 0, "1.10"),
        (["3.40.50", "3.30.70"], 2, None),  # same class, two architectures
        (["1.10.530", "2.40.10"], NO_LABEL, None),  # two classes
        (["6.10.250"], NO_LABEL, None),  # CATH's "special" class
        (["4"], 3, None),
        ([], NO_LABEL, None),
    ],
)
def test_a_chain_has_a_label_where_its_domains_agree(codes, label, name):
    assert cath_class(codes) == label
    assert architecture(codes) == name


def test_the_label_set_is_sorted_by_number():
    assert label_set([["2.10.1"], ["2.9.1"], [], ["1.10.8"], ["2.10.70"]]) == ("1.10", "2.9", "2.10")
