import gzip

import numpy as np
import pytest

from minifold_pl.data.cath_domains import (
    CathFileError,
    DomainTable,
    chain_key,
    cut_domains,
    label_chain,
    parse_chopping,
    read_cath_domains,
)

# Lines of CATH's own descriptions of the formats (download.cathdb.info, README of CLF 2.0 and CDF 2.0).
DOMAIN_LIST = """\
#---------------------------------------------------------------------
# FILE NAME:    CathDomainList.v4.2.0
1oaiA00     1    10     8    10     1     1     1     1     1    59 1.000
1go5A00     1    10     8    10     1     1     1     1     2    69 999.000
1cuk003     1    10     8    10     3     1     1     1     1    48 1.900
1cnsA01     1    10   530    10     3     1     1     1     1   185 1.910
1cnsA02     3    30    20    10     3     1     1     1     1    58 1.910
"""
BOUNDARIES = """\
# CathDomall
1oaiA  D01 F00  1  A   21 - A   79 -
1chmA  D02 F00  1  A    2 - A  156 -  1  A  157 - A  402 -
1cnsA  D02 F00  2  A    1 - A   87 -  A  146 - A  243 -  1  A   88 - A  145 -
1amg0  D02 F01  1  0    1 - 0  360 -  1  0  362 - 0  417 -  0  361 - 0  361 - (1)
1bcmA  D02 F02  1  A  257 - A  487 -  1  A  492 - A  559 -  A  488 - A  491 - (4)  A  560 - A  560 - (1)
1fooL  D01 F01  1  L    1 H L   14 K  L   15 - L   16 - (2)
"""
CATH_B = """\
101mA00 v4_2_0 1.10.490.10 0-153:A
1cnsA01 v4_2_0 1.10.530.10 1-87,146-243:A
1cnsA02 v4_2_0 3.30.20.10 88-145:A
1abcB01 putative 2.60.40.10 -5-12:B,14A-20(C):B
"""


@pytest.fixture
def read(tmp_path):
    """A table of the given texts, one file each."""

    def read(*texts, pack=False):
        paths = []
        for number, text in enumerate(texts):
            path = tmp_path / f"list{number}"
            path.write_bytes(gzip.compress(text.encode()) if pack else text.encode())
            paths.append(path)
        return read_cath_domains(*paths)

    return read


@pytest.mark.parametrize("pack", [False, True])
def test_the_domain_list_gives_codes(read, pack):
    table = read(DOMAIN_LIST, pack=pack)
    assert len(table) == 5
    assert [(d.name, d.code) for d in table.of_chain("1cns.A")] == [
        ("1cnsA01", "1.10.530.10"),
        ("1cnsA02", "3.30.20.10"),
    ]
    assert [d.name for d in table.of_chain("1cuk")] == ["1cuk003"]
    assert table.of_chain("9xyz.A") == ()
    assert not table.problems


def test_the_boundaries_file_gives_segments_and_leaves_its_fragments_out(read):
    table = read(BOUNDARIES)
    ranges = {name: [str(s) for s in domain.segments] for name, domain in table.domains.items()}
    assert ranges == {
        "1oaiA00": ["21-79"],  # one domain and no fragment: the whole chain
        "1chmA01": ["2-156"],
        "1chmA02": ["157-402"],
        "1cnsA01": ["1-87", "146-243"],
        "1cnsA02": ["88-145"],
        "1amg001": ["1-360"],
        "1amg002": ["362-417"],
        "1bcmA01": ["257-487"],
        "1bcmA02": ["492-559"],
        "1fooL01": ["1H-14K"],  # with a fragment left out it is not the whole chain
    }
    assert not table.problems


def test_cath_b_gives_codes_and_segments(read):
    table = read(CATH_B)
    assert table.domains["101mA00"].whole_chain
    (domain,) = table.of_chain("1ABC_B")
    assert (domain.code, [tuple(s) for s in domain.segments]) == (
        "2.60.40.10",
        [("-5", "12"), ("14A", "20C")],
    )


def test_what_two_files_say_of_a_domain_is_put_together(read):
    for order in ((DOMAIN_LIST, BOUNDARIES), (BOUNDARIES, DOMAIN_LIST)):
        domain = read(*order).domains["1cnsA01"]
        assert (domain.code, len(domain.segments)) == ("1.10.530.10", 2)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("1abc.A", "1abcA"), ("1ABC_A", "1abcA"), ("1abcA", "1abcA"), ("1abc.a", "1abca"), ("1abc", "1abc0"),
        ("1abc.AA", None), ("my protein", None), ("", None), ("abcd.A", None),
    ],
)  # fmt: skip
def test_a_chains_name_is_turned_into_caths(name, key):
    assert chain_key(name) == key


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("1-87,146-243:A", ["1-87", "146-243"]),
        ("-5-12", ["-5-12"]),
        ("-12--5:A", ["-12--5"]),
        ("36(A)-120", ["36A-120"]),
        ("1H-14A:A", ["1H-14A"]),
    ],
)  # fmt: skip
def test_ranges_are_read(text, ranges):
    assert [str(s) for s in parse_chopping(text, "A")] == ranges


@pytest.mark.parametrize("text", ["1-", "", "a-b", "1-2,", "1-99999999999", "1-2:B", "1-2:A,3-4:B", "1-2:a"])
def test_ranges_of_another_form_or_chain_are_refused(text):
    with pytest.raises(ValueError, match=r"has ranges of chain '[aB]'|has no ranges of residues"):
        parse_chopping(text, "A")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no CATH domain"),
        ("hello world\n", "holds no CATH domain.*line 1: 'hello world'"),
        ("1cnsA  D02 F00  2  A    1 - A   87 -\n", "holds no CATH domain"),
    ],
)
def test_a_file_of_another_kind_is_one_clear_error(read, text, told):
    with pytest.raises(CathFileError, match=told):
        read(text)


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path):
    with pytest.raises(CathFileError, match="No such file"):
        read_cath_domains(tmp_path / "absent")
    with pytest.raises(CathFileError, match="Is a directory"):
        read_cath_domains(tmp_path)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(CATH_B.encode())[:-9])
    with pytest.raises(CathFileError, match=r"cut\.gz"):
        read_cath_domains(tmp_path / "cut.gz")
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    with pytest.raises(CathFileError, match="binary"):
        read_cath_domains(tmp_path / "binary")


def test_a_bad_line_among_good_ones_is_told_and_left_out(read):
    table = read(CATH_B + "1xyzA01 v4_2_0 1.10.490.10 nonsense\n")
    assert len(table) == 4
    assert table.problems == [
        "list0 line 5: '1xyzA01 v4_2_0 1.10.490.10 nonsense' has no ranges of residues, 'nonsense'"
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1ts9A01 v4_3_0 1.10.8.10 1-50:B", "'1ts9A01 v4_3_0 1.10.8.10 1-50:B' has ranges of chain 'B'"),
        ("1ts9A  D01 F00  1  B    1 - B   50 -", "has ranges of chain 'B'"),
        ("1ts9A  D01 F00  1  A    1 - B   50 -", "has ranges of chain 'B'"),
        ("1ts9A  D01 F00  1  A    1 -", "has no ranges of residues"),
        ("1ts9A00 99999999999999999999 10 8 10", "has no CATH code, '99999999999999999999.10.8.10'"),
        ("1ts9A00 0 0 0 0", "has no CATH code, '0.0.0.0'"),
        ("1ts9A01 v4_3_0 1.10.8.12345678 1-50:A", "has no CATH code"),
        ("1oaiA00 3 40 50 300", "1oaiA00: code 3.40.50.300, 1.10.8.10 was there before and is kept"),
        (
            "1cnsA02 v4_2_0 3.30.20.10 60-90:A",
            "1cnsA02: residues 60-90, 88-145 were there before and are kept",
        ),
        ("\xe9 1", "'\ufffd 1' is no CATH domain"),
        ("x" * 5000, "x' is no CATH domain"),
    ],
)
def test_a_line_that_cannot_be_right_is_told_with_its_number_and_changes_nothing(tmp_path, line, told):
    sound = DOMAIN_LIST + CATH_B.replace("101mA00", "102mA00")
    (tmp_path / "list").write_bytes((sound + line + "\n103mA00 1 10 490 10\n").encode("latin-1"))
    table = read_cath_domains(tmp_path / "list")
    (tmp_path / "sound").write_text(sound + "103mA00 1 10 490 10\n")
    assert table.domains == read_cath_domains(tmp_path / "sound").domains
    (problem,) = table.problems
    assert problem.startswith("list line 12: ")
    assert told in problem
    assert problem.isprintable()
    assert len(problem) < 200


def test_of_very_many_bad_lines_the_first_are_told(read):
    table = read(CATH_B + "nonsense\n" * 1234)
    assert len(table.problems) == 101
    assert table.problems[-1] == "list0: 1,134 more lines like these"


def test_a_byte_order_mark_is_no_part_of_the_first_line(read):
    assert read("\ufeff1ts9A00 1 10 8 10\r\n").domains.keys() == {"1ts9A00"}


def test_a_chain_is_labelled_with_all_its_domains_codes_each_once(read, make_record):
    table = read(CATH_B + "1cnsA03 v4_2_0 3.30.20.10 244-250:A\n")
    assert label_chain(make_record("1cns.A"), table).cath == ("1.10.530.10", "3.30.20.10")
    assert label_chain(make_record("1cnsA02"), table).cath == ("3.30.20.10",)
    unknown = make_record("9xyz.A", cath=("1.10.8",))
    assert label_chain(unknown, table) is unknown


def _numbered(make_record, name, ids, **fields):
    return make_record(name, len(ids), residue_ids=tuple(ids), **fields)


def test_domains_are_cut_by_author_numbers_with_a_break_where_segments_meet(read, make_record):
    record = _numbered(make_record, "1cns.A", [str(i) for i in range(1, 244)], split="test", cluster="c")
    first, second = cut_domains(record, read(CATH_B))[0]
    assert (first.name, len(first), first.cath) == ("1cnsA01", 87 + 98, ("1.10.530.10",))
    assert (second.name, len(second), second.residue_ids[0]) == ("1cnsA02", 58, "88")
    assert first.breaks == (86,)  # 87 and 146 are no neighbours
    assert second.breaks == ()
    np.testing.assert_array_equal(first.coords[87:], record.coords[145:])
    assert first.sequence == record.sequence[:87] + record.sequence[145:]
    assert (first.split, first.cluster, first.representative) == ("test", "c", False)


def test_segments_follow_the_chain_through_insertion_codes_that_run_backwards(read, make_record):
    ids = ["1C", "1B", "1A", "1", "2", "3", "14", "14B", "14A", "15"]
    table = read("1fooL01 v4_2_0 1.10.8.10 1C-14A:L\n1fooL02 v4_2_0 1.10.8.10 15-15:L\n")
    cut, problems = cut_domains(_numbered(make_record, "1foo.L", ids), table, min_length=1)
    assert cut[0].residue_ids == tuple(ids[:9])
    assert cut[1].residue_ids == ("15",)
    assert not problems


def test_an_end_that_was_not_observed_is_taken_at_the_nearest_residue_inside(read, make_record):
    ids = ["1", "2", "4", "5", "6", "7", "20", "21", "22", "23"]
    table = read("1fooL01 v4_2_0 1.10.8.10 3-9:L\n1fooL02 v4_2_0 1.10.8.10 10-30:L\n")
    cut, _ = cut_domains(_numbered(make_record, "1foo.L", ids, breaks=(4,)), table)
    assert [c.residue_ids for c in cut] == [("4", "5", "6", "7"), ("20", "21", "22", "23")]
    assert cut[0].breaks == (2,)  # the chain's own break travels with its residues


def test_what_cannot_be_cut_is_said_and_a_whole_chain_needs_no_numbers(read, make_record):
    table = read(DOMAIN_LIST, "1oaiB01 v4_2_0 1.10.8.10 900-950:B\n")
    whole, problems = cut_domains(make_record("1oai.A"), table)
    assert ([r.name for r in whole], whole[0].cath, problems) == (["1oaiA00"], ("1.10.8.10",), [])
    assert cut_domains(make_record("1cns.A"), table)[1] == [
        "1cnsA01: no boundaries known; give a cath-b or cath-domain-boundaries file too",
        "1cnsA02: no boundaries known; give a cath-b or cath-domain-boundaries file too",
    ]
    assert cut_domains(make_record("1oai.B"), table)[1] == [
        "1oaiB01: 1oai.B has no residue numbers to find its boundaries by"
    ]
    numbered = _numbered(make_record, "1oai.B", [str(i) for i in range(12)])
    assert cut_domains(numbered, table)[1] == ["1oaiB01: 0 residues of 900-950 are in 1oai.B"]
    assert cut_domains(make_record("9xyz.A"), DomainTable()) == ([], [])
