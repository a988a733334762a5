import os
import stat
import sys

import numpy as np
import pytest

from minifold_pl.constants import AMINO_ACIDS
from minifold_pl.data import cluster
from minifold_pl.data.cluster import SearchError, candidate_pairs, cluster_sequences, connected


def _family(rng, size, length=100, share=0.2):
    founder = rng.choice(list(AMINO_ACIDS), length)
    members = []
    for _ in range(size):
        copy = founder.copy()
        places = rng.permutation(length)[: int(share * length)]
        copy[places] = rng.choice(list(AMINO_ACIDS), len(places))
        members.append("".join(copy))
    return members


@pytest.fixture
def families():
    """Three families of four members, shuffled, and the family of each."""
    rng = np.random.default_rng(0)
    sequences = [(s, k) for k in range(3) for s in _family(rng, 4)]
    order = rng.permutation(len(sequences))
    return [sequences[i][0] for i in order], [sequences[i][1] for i in order]


@pytest.fixture
def without_mmseqs(monkeypatch):
    monkeypatch.setattr(cluster.shutil, "which", lambda name: None)


def _same_groups(ids, families):
    return len(set(zip(ids, families, strict=True))) == len(set(ids)) == len(set(families))


def test_families_are_told_apart(families, without_mmseqs):
    sequences, truth = families
    found = cluster_sequences(sequences)
    assert _same_groups(found.ids.tolist(), truth)
    assert found.ids[0] == 0  # numbered by first member
    assert "mmseqs2 is not installed" in found.notes[0]


def test_members_are_linked_through_a_third_one(without_mmseqs):
    rng = np.random.default_rng(1)
    left, middle, right = ("".join(rng.choice(list(AMINO_ACIDS), 80)) for _ in range(3))
    one, bridge, other = left + middle, middle + right, right
    assert cluster_sequences([one, other]).ids.tolist() == [0, 1]
    assert cluster_sequences([one, other, bridge]).ids.tolist() == [0, 0, 0]


def test_identical_sequences_are_one_group_however_short(without_mmseqs):
    assert cluster_sequences(["ACDE", "WWWW", "ACDE"]).ids.tolist() == [0, 1, 0]


def test_the_threshold_decides(without_mmseqs):
    rng = np.random.default_rng(2)
    one, other = _family(rng, 2, length=200, share=0.25)  # about 56 % identical
    assert cluster_sequences([one, other], identity=0.5).ids.tolist() == [0, 0]
    assert cluster_sequences([one, other], identity=0.7).ids.tolist() == [0, 1]
    for bad in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"identity is .*; give a share above 0"):
            cluster_sequences([one], identity=bad)


def test_chosen_queries_are_paired_with_everything(families, without_mmseqs):
    sequences, truth = families
    pairs, _ = candidate_pairs(sequences, [5])
    others = {i for i, family in enumerate(truth) if family == truth[5] and i != 5}
    assert set(pairs) == {(max(5, i), min(5, i)) for i in others}


def test_links_make_groups():
    assert connected(5, [(3, 1), (4, 3)]).tolist() == [0, 1, 2, 1, 1]
    assert connected(0, []).tolist() == []


_FAKE = """#!{python}
import sys
if sys.argv[1] == "version":
    print("99-fake")
elif {fails}:
    sys.exit("no disk")
else:
    lines = open(sys.argv[2]).read().split()
    names = [l[1:] for l in lines if l[0] == ">"]
    assert sys.argv[sys.argv.index("--threads") + 1] == "2"
    targets = [l[1:] for l in open(sys.argv[3]).read().split() if l[0] == ">"]
    with open(sys.argv[4], "w") as out:
        for a in names:
            for b in targets:
                print(a, b, sep="\\t", file=out)
"""


@pytest.fixture
def fake_mmseqs(tmp_path, monkeypatch):
    """A program called mmseqs that names every pair, or fails."""

    def make(fails=False):
        path = tmp_path / "mmseqs"
        path.write_text(_FAKE.format(python=sys.executable, fails=fails))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])

    return make


def test_mmseqs2_is_asked_where_it_is_installed(families, fake_mmseqs):
    sequences, truth = families
    fake_mmseqs()
    found = cluster_sequences(sequences, threads=2)
    assert _same_groups(found.ids.tolist(), truth)
    assert found.notes == ["linked at 40% identity; pairs found by mmseqs2 99-fake, aligned exactly"]
    pairs, _ = candidate_pairs(sequences, [5], threads=2)
    assert len(set(pairs)) == len(sequences) - 1


def test_a_search_that_cannot_be_run_is_one_clear_error(families, fake_mmseqs, monkeypatch):
    sequences, _ = families
    fake_mmseqs(fails=True)
    with pytest.raises(SearchError, match="exit code 1: no disk; choose kmer instead"):
        cluster_sequences(sequences)
    monkeypatch.setattr(cluster.shutil, "which", lambda name: None)
    with pytest.raises(SearchError, match="mmseqs2 is not installed"):
        cluster_sequences(sequences, search="mmseqs2")
    with pytest.raises(SearchError, match="search 'blast' is none of auto, mmseqs2, kmer"):
        cluster_sequences(sequences, search="blast")


def test_real_mmseqs2_and_the_own_search_agree_on_families(families):
    if cluster.shutil.which(cluster.MMSEQS) is None:
        pytest.skip("mmseqs2 is not installed")
    sequences, truth = families
    for search in ("mmseqs2", "kmer"):
        assert _same_groups(cluster_sequences(sequences, search=search).ids.tolist(), truth)
