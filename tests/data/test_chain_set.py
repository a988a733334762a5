import gzip
import json
import re
import tracemalloc

import numpy as np
import pytest

from minifold_pl.data import chain_set
from minifold_pl.data.chain_set import RecordProblem, SourceError, read_chain_set
from minifold_pl.data.records import ChainRecord


@pytest.fixture
def read(tmp_path):
    """Reads lines (text or bytes) from a file; returns (records, problems)."""

    def read(*lines, **options):
        path = tmp_path / "chain_set.jsonl"
        path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + b"\n")
        items = list(read_chain_set(path, **options))
        return (
            [i for i in items if isinstance(i, ChainRecord)],
            [i for i in items if isinstance(i, RecordProblem)],
        )

    return read


def test_a_record_with_only_the_original_keys_is_read(read, make_line):
    (record,), problems = read(make_line("1abc.A", 12))
    assert not problems
    assert (record.name, record.sequence, record.split) == ("1abc.A", "ACDEFGHIKLMN", "none")
    assert record.cath == ("1.10.530",)
    assert record.coords.dtype == np.float32
    assert record.coords[1, :, 0] == pytest.approx([2.6, 3.8, 5.07, 5.07])


def test_the_optional_keys_are_read(read, make_line):
    (record,), _ = read(make_line(split="test", cluster="c7", rep=True, breaks=[3, 3, 1]))
    assert (record.split, record.cluster, record.representative, record.breaks) == (
        "test",
        "c7",
        True,
        (1, 3),
    )


def test_an_atom_with_one_missing_coordinate_is_missing_and_null_reads_as_nan(read, make_line):
    fields = json.loads(make_line())
    fields["coords"]["O"][2][1] = None
    fields["coords"]["CA"][4] = [float("nan")] * 3
    (record,), problems = read(json.dumps(fields))
    assert not problems
    missing = np.isnan(record.coords)
    assert missing[2, 3].all()
    assert missing[4, 1].all()
    assert missing.sum() == 6


def _with_coords(make_line, atom, change):
    fields = json.loads(make_line("bad"))
    change(fields["coords"][atom])
    return json.dumps(fields)


def _set(residue, axis, value):
    return lambda rows: rows[residue].__setitem__(axis, value)


BAD = {
    "empty line": lambda line: "",
    "not JSON": lambda line: '{"name": "bad", ',
    "not an object": lambda line: "[1, 2]",
    "no name": lambda line: line("", 12),
    "too short": lambda line: line("bad", 3),
    "no coordinates": lambda line: line("bad", coords={"CA": [[float("nan")] * 3] * 12}),
    "duplicate name": lambda line: line("first"),
    "wrong length": lambda line: _with_coords(line, "CA", lambda rows: rows.pop()),
    "residues in one place": lambda line: line("bad", coords={"CA": [[0.0] * 3] * 12}),
    "impossible coordinates": lambda line: _with_coords(line, "C", _set(5, 2, float("inf"))),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_record_is_dropped_with_its_reason_and_the_others_are_kept(read, make_line, reason):
    records, problems = read(make_line("first"), BAD[reason](make_line), make_line("last"))
    assert [r.name for r in records] == ["first", "last"]
    (problem,) = problems
    assert (problem.reason, problem.line, problem.action) == (reason, 2, "dropped")
    assert str(problem).startswith("line 2")
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": 5}, "name is a number"),
        ({"name": "\ud800"}, "no valid Unicode"),
        ({"seq": ["A"]}, "seq is a list"),
        ({"seq": None}, "seq is missing or null"),
        ({"coords": [1]}, "coords is a list"),
        ({"coords": {"N": []}}, "coords has no CA"),
        ({"coords": {"CA": "x"}}, "coords of CA is a string"),
        ({"coords": {"CA": [["1", "2", "3"]] * 12}}, "in numbers"),
        ({"coords": {"CA": [[True, True, True]] * 12}}, "in numbers"),
        ({"coords": {"CA": [[1, 2]] * 12}}, "in numbers"),
        ({"coords": {"CA": [[1, 2, 3]] * 11 + [7]}}, "no list of"),
        ({"coords": {"CA": [[1, 2, {}]] * 12}}, "in numbers|no list of"),
        ({"coords": {"CA": [[10**400, 2, 3]] * 12}}, "in numbers|no list of"),
    ],
)
def test_wrong_types_are_told_apart(read, make_line, fields, told):
    records, (problem,) = read(make_line("first"), make_line(**fields))
    assert [r.name for r in records] == ["first"]
    assert re.search(told, str(problem))


@pytest.mark.parametrize("value", [1e5, -1e5, float("-inf"), 1e300])
def test_a_huge_coordinate_names_its_residue_and_atom(read, make_line, value):
    _, (problem,) = read(_with_coords(make_line, "CA", _set(7, 0, value)))
    assert "CA of residue 7" in problem.detail


def test_bytes_that_are_no_text_and_json_too_deep_cost_only_their_own_line(read, make_line):
    records, problems = read(make_line("first"), b'{"name": "\xff\xfe"}', "[" * 100_000, make_line("last"))
    assert [r.name for r in records] == ["first", "last"]
    assert [p.reason for p in problems] == ["not JSON", "not JSON"]


@pytest.mark.parametrize("at", [0, 5, 100, 3000])
@pytest.mark.parametrize("count", [1, 4096])
def test_bytes_of_zero_cost_only_the_line_that_they_are_in(tmp_path, make_line, at, count):
    data = "\n".join(make_line(f"c{k}", 100) for k in range(20)).encode()
    path = tmp_path / "chain_set.jsonl"
    path.write_bytes(data[:at] + b"\0" * count + data[at + count :])
    hurt = 1 + data[at : at + count].count(b"\n")
    records = [r for r in read_chain_set(path) if isinstance(r, ChainRecord)]
    assert {r.name for r in records} >= {f"c{k}" for k in range(hurt, 20)}


def test_a_byte_order_mark_of_another_encoding_does_not_make_a_file_one_of_it(read, make_line):
    records, (problem,) = read(b"\xff\xfe" + make_line("a").encode(), make_line("b"))
    assert ([r.name for r in records], problem.reason) == (["b"], "not JSON")


def test_lines_without_a_letter_before_the_first_record_are_told_and_passed(read, make_line):
    records, problems = read(*[""] * 5000, make_line("a"))
    assert [r.name for r in records] == ["a"]
    assert len(problems) == 5000


@pytest.mark.parametrize("cluster", ["\ud83d", {"a": 1}, [1], True])
def test_a_cluster_that_is_no_label_is_left_out_and_the_chain_kept(read, make_line, cluster):
    records, (problem,) = read(make_line("a", cluster="\U0001f600"), make_line("b", cluster=cluster))
    assert [r.cluster for r in records] == ["\U0001f600", None]
    assert (problem.reason, problem.action, problem.line) == ("bad cluster left out", "repaired", 2)
    assert str(problem).isprintable()


@pytest.mark.parametrize(
    "fields",
    [
        {"split": "x" * 3_000_000},
        {"name": "x" * 3_000_000, "split": "dev"},
        {"split": ["x" * 3_000_000]},
        {"CATH": ["x" * 3_000_000] * 9},
        {"breaks": ["x" * 3_000_000]},
        {"breaks": [[[[["x" * 1000] * 9] * 9] * 9] * 9]},
        {"cluster": ["x" * 3_000_000]},
        {"coords": {"x" * 3_000_000: 0}},
        {"seq": "".join(map(chr, range(0x4E00, 0x9000)))},
    ],
)
def test_a_field_of_any_size_is_told_in_a_short_line(read, make_line, fields):
    _, problems = read(make_line(**fields))
    assert all(len(str(problem)) < 400 and str(problem).isprintable() for problem in problems)
    assert problems


def test_truth_values_among_coordinates_are_no_numbers(read, make_line):
    zeros = [[1.0, 0.0, 1.0], [5.0, 0.0, 0.0], [9.0, 1.0, 0.0], [13.0, 1.0, 1.0]]
    (record,), _ = read(make_line("a", 4, coords={"CA": zeros}))
    assert record.coords[:, 1].tolist() == zeros
    for value in (True, False):
        records, (problem,) = read(make_line("a", 4, coords={"CA": [*zeros[:3], [13.0, value, 1.0]]}))
        assert (records, problem.reason) == ([], "wrong type")


def test_cath_codes_have_numbers_that_cath_may_give(read, make_line):
    codes = ["3.40.50.300", "1.10", "2.30.29.12345", "0.1.2", "1.99999999999999999999", "1.\u0661", "1.010"]
    (record,), (problem,) = read(make_line(CATH=codes))
    assert record.cath == tuple(codes[:3])
    assert problem.reason == "bad CATH codes left out"


def test_unknown_letters_are_read_as_x_and_counted(read, make_line):
    (record,), (problem,) = read(make_line(seq="ACDEFGHIKLB*"))
    assert record.sequence == "ACDEFGHIKLXX"
    assert problem.action == "repaired"
    assert "2 of 12" in problem.detail


def test_a_chain_of_ca_alone_is_kept_and_noted(read, make_line):
    coords = json.loads(make_line())["coords"]
    (record,), (problem,) = read(make_line(coords={"CA": coords["CA"]}))
    assert problem.action == "noted"
    assert np.isnan(record.coords[:, [0, 2, 3]]).all()


def test_labels_that_make_no_sense_are_left_out_and_the_chain_kept(read, make_line):
    (record,), problems = read(
        make_line(split="dev", CATH=["1.10.530", "x", 3], breaks=[2, 11, -1, "a", True])
    )
    assert (record.split, record.cath, record.breaks) == ("none", ("1.10.530",), (2,))
    assert {p.action for p in problems} == {"repaired"}
    assert len(problems) == 3


def test_the_shortest_chain_is_the_callers_choice_but_never_below_four(read, make_line):
    records, _ = read(make_line("a", 4), make_line("b", 9), min_length=9)
    assert [r.name for r in records] == ["b"]
    with pytest.raises(ValueError, match="min_length is 3"):
        read(make_line(), min_length=3)


def test_compression_is_told_by_content(tmp_path, make_line):
    path = tmp_path / "no_suffix"
    path.write_bytes(gzip.compress((make_line("a") + "\n" + make_line("b")).encode()))
    assert [r.name for r in read_chain_set(path)] == ["a", "b"]


def test_a_truncated_gzip_gives_what_it_holds_and_says_so(tmp_path, make_line):
    rng = np.random.default_rng(0)
    lines = [make_line(f"c{i}", seq="".join(rng.choice(list("ACDEFGH"), 12))) for i in range(2000)]
    whole = gzip.compress("\n".join(lines).encode())
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    *records, problem = read_chain_set(path)
    assert len(records) > 100
    assert [r.name for r in records] == [f"c{i}" for i in range(len(records))]
    assert problem.reason == "damaged gzip"
    assert problem.line == len(records) + 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\n \n", "holds no text"),
        (b"\x7fELF\x02\x01\x00\x00" * 100, "is binary"),
        (bytes(range(128, 256)) * 20, "is binary"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n", "git lfs pull"),
        (gzip.compress(b"", mtime=0), "holds no text"),
        ("{}\n".encode("utf-16") * 1000, "is UTF-16 text; save it as UTF-8"),
    ],
)
def test_a_file_that_is_no_chain_set_is_one_clear_error(tmp_path, content, told):
    path = tmp_path / "chain_set.jsonl.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=told):
        read_chain_set(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(SourceError, match="is a folder"):
        read_chain_set(tmp_path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("ending", [b"\n", b""])
def test_a_line_that_is_too_long_costs_itself_and_no_memory(tmp_path, make_line, monkeypatch, pack, ending):
    monkeypatch.setattr("minifold_pl.data.chain_set.LONGEST_LINE", 2**20, raising=False)
    just = make_line("b").encode()
    just += b" " * (2**20 - len(just) - 1)
    lines = [make_line("a").encode(), b"[" * 2**26, just, just + b" ", make_line("c").encode(), b"[" * 2**21]
    path = tmp_path / "chain_set.jsonl"
    path.write_bytes(pack(b"\n".join(lines) + ending))
    del lines
    tracemalloc.start()
    found = list(read_chain_set(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [item.name if isinstance(item, ChainRecord) else str(item) for item in found] == [
        "a",
        "line 2: line too long: more than 1 MiB (dropped)",
        "b",
        "line 4: line too long: more than 1 MiB (dropped)",
        "c",
        "line 6: line too long: more than 1 MiB (dropped)",
    ]
    assert peak < 2**24


def test_a_record_that_memory_does_not_suffice_for_is_told_and_the_others_are_read(
    read, make_line, monkeypatch
):
    parse = chain_set.parse_record

    def parse_record(fields, min_length):
        if fields["name"] == "b":
            raise MemoryError
        return parse(fields, min_length)

    monkeypatch.setattr(chain_set, "parse_record", parse_record)
    records, (problem,) = read(make_line("a"), make_line("b"), make_line("c"))
    assert [record.name for record in records] == ["a", "c"]
    assert str(problem).startswith("line 2 ('b'): out of memory: not enough for its ")
