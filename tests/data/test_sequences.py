import gzip

import pytest

from minifold_pl.data.chain_set import RecordProblem, SourceError
from minifold_pl.data.sequences import SEQUENCE_ONLY_NOTE, is_sequence_table, read_sequences

TABLE = """\
#domain\tchain\tsplit\tcluster\tCAT\tCATH\tseq
12asA00\t12as.A\ttrain\tc1\t3.30.930\t3.30.930.10\tMKTAYIAKQR
1cnsA02\t1cns.A\ttest\t-\t3.30.20\t-\tACDEFGHIKL
"""
FASTA = """\
>cath|4_2_0|12asA00/4-330
MKTAY
IAKQR

>my_protein and more
acdefghikl*
"""


@pytest.fixture
def read(tmp_path):
    """Records and problems of a text."""

    def read(text, pack=False, **options):
        path = tmp_path / "file"
        content = text if isinstance(text, bytes) else text.encode()
        path.write_bytes(gzip.compress(content) if pack else content)
        found = list(read_sequences(path, **options))
        problems = [p for p in found if isinstance(p, RecordProblem) and p.reason != SEQUENCE_ONLY_NOTE]
        return [r for r in found if not isinstance(r, RecordProblem)], [str(p) for p in problems]

    return read


@pytest.mark.parametrize("pack", [False, True])
def test_a_table_gives_sequences_with_their_labels(read, pack):
    (one, two), problems = read(TABLE, pack)
    assert (one.name, one.sequence, one.split, one.cluster, one.cath) == (
        "12asA00", "MKTAYIAKQR", "train", "c1", ("3.30.930.10",),
    )  # fmt: skip
    assert (two.name, two.split, two.cluster, two.cath) == ("1cnsA02", "test", None, ("3.30.20",))
    assert one.sequence_only
    assert one.coords.shape == (10, 4, 3)
    assert not problems


def test_each_sequence_is_noted_as_one_without_coordinates(tmp_path):
    (tmp_path / "x").write_text(TABLE)
    notes = [p for p in read_sequences(tmp_path / "x") if isinstance(p, RecordProblem)]
    assert [(p.name, p.action) for p in notes] == [("12asA00", "noted"), ("1cnsA02", "noted")]


@pytest.mark.parametrize("pack", [False, True])
def test_fasta_gives_names_and_sequences(read, pack):
    records, problems = read(FASTA, pack)
    assert [(r.name, r.sequence) for r in records] == [
        ("12asA00", "MKTAYIAKQR"),
        ("my_protein", "ACDEFGHIKL"),
    ]
    assert not problems


def test_every_unsound_record_has_a_reason(read):
    rows = [
        "a\tdev\t1.10\tACDEFG", "a\ttrain\t1.10\tACDEFG", "b\ttrain\t1.10\tACD", "c\ttrain", "\ttrain\t1.10\tACDEFG",
        "d\ttrain\tglobin\tACD-FG",
    ]  # fmt: skip
    records, problems = read("\n".join(["name\tsplit\tCATH\tseq", *rows]))
    assert [(r.name, r.split, r.cath, r.sequence) for r in records] == [
        ("a", "none", ("1.10",), "ACDEFG"),
        ("d", "train", (), "ACDXFG"),
    ]
    assert problems == [
        "line 2 ('a'): unknown split: 'dev' is none of train, validation, test, none; kept under 'none' (repaired)",
        "line 3 ('a'): duplicate name: first seen on line 2, which is kept (dropped)",
        "line 4 ('b'): too short: 3 residues, at least 4 are needed (dropped)",
        "line 5: wrong number of columns: 2 columns, the first line names 4 (dropped)",
        "line 6: no name (dropped)",
        "line 7 ('d'): unknown letters read as X: 1 of 6, '-' (repaired)",
        "line 7 ('d'): bad CATH codes left out: 'globin' (repaired)",
    ]


def test_damage_is_told_and_what_was_before_it_is_kept(read, tmp_path):
    whole = gzip.compress((TABLE * 200).encode() + bytes(range(256)) * 50)
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    found = list(read_sequences(tmp_path / "cut"))
    assert "damaged gzip" in str(found[-1])
    records, problems = read(TABLE.encode() + b"\xff\xfe\n")
    assert len(records) == 2
    assert "line 4: not text" in problems[0]


def test_a_damaged_byte_costs_its_fasta_entry_and_no_other(read):
    lines = [">a", "ACDEFG", "HIKLMN", ">b", "MKTAYI", "AKQRQI", ">c", "GHIKLM"]
    for place, kept in ((0, "bc"), (1, "bc"), (3, "ac"), (4, "ac"), (5, "ac"), (7, "ab")):
        damaged = [line.encode() + b"\xe9" * (number == place) for number, line in enumerate(lines)]
        records, (problem,) = read(b"\n".join(damaged))
        whole, _ = read("\n".join(lines))
        assert [(r.name, r.sequence) for r in records] == [
            (r.name, r.sequence) for r in whole if r.name in kept
        ]
        assert f"line {[0, 0, 0, 3, 3, 3, 6, 6][place] + 1}" in problem
        assert "not text" in problem
    records, problems = read(">a prot\xe9ine\nACDEFG\n".encode("latin-1"))
    assert ([r.name for r in records], problems) == (["a"], [])


def test_a_damaged_byte_costs_its_row_and_in_the_first_line_its_column(read):
    head, *rows = TABLE.strip().encode().split(b"\n")
    records, (problem,) = read(b"\n".join([head, rows[0] + b"\xe9", rows[1]]))
    assert [r.name for r in records] == ["1cnsA02"]
    assert "line 2: not text" in problem
    records, problems = read(b"\n".join([head.replace(b"chain", b"cha\xeen"), *rows]))
    assert ([r.name for r in records], problems) == (["12asA00", "1cnsA02"], [])
    records, (problem,) = read(b"\n".join([head, rows[0] + b"\0", rows[1]]))
    assert [r.name for r in records][-1] == "1cnsA02"


def test_other_files_are_told_apart(tmp_path, make_line):
    for name, text, told in (
        ("a", make_line(), False),
        ("b", "HEADER\n", False),
        ("c", TABLE, True),
        ("d", FASTA, True),
    ):
        (tmp_path / name).write_text(text)
        assert is_sequence_table(tmp_path / name) is told
    assert not is_sequence_table(tmp_path)
    assert not is_sequence_table(tmp_path / "absent")
    with pytest.raises(SourceError, match="neither FASTA nor a tab-separated table"):
        read_sequences(tmp_path / "a")
    with pytest.raises(ValueError, match="min_length is 0"):
        read_sequences(tmp_path / "c", 0)
    with pytest.raises(SourceError, match="does not exist"):
        list(read_sequences(tmp_path / "absent"))


def test_the_real_table_is_read_whole(real_data):
    records = [r for r in read_sequences(real_data / "cath_seq.tsv.gz") if not isinstance(r, RecordProblem)]
    assert len(records) == 22_233  # the folder's README
    assert all(len(r.cath) == 1 for r in records)
    assert {r.split for r in records} == {"train", "validation", "test"}
