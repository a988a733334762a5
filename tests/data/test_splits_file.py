import json

import pytest

from minifold_pl.cli.main import main
from minifold_pl.data.chain_set import SourceError
from minifold_pl.data.splits_file import read_splits


@pytest.fixture
def read(tmp_path):
    """The table of a text, bytes or object."""

    def read(content):
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        path = tmp_path / "s.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_splits(path)

    return read


def test_names_and_codes_are_read(read):
    table = read(
        {"train": ["a", "b"], "test": ["c"], "cath_nodes": {"a": ["1.10.8", "3.40.50.300"], "b": []}}
    )
    assert table.split_of == {"a": "train", "b": "train", "c": "test"}
    assert table.cath_nodes == {"a": ("1.10.8", "3.40.50.300"), "b": ()}
    assert not table.problems


@pytest.mark.parametrize("key", ["val", "Test", "valid", "train "])
def test_names_under_another_key_are_refused(read, key):
    with pytest.raises(SourceError, match=rf"'{key}' is none of train, validation, test, and holds 2 names"):
        read({"train": ["a"], key: ["b", "c"]})


@pytest.mark.parametrize("key", ["train", "test", "cath_nodes"])
def test_a_key_that_is_given_twice_is_refused(read, key):
    value = "{}" if key == "cath_nodes" else '["b"]'
    with pytest.raises(SourceError, match=f"has '{key}' twice"):
        read(f'{{"train": ["a"], "{key}": {value}, "{key}": {value}}}')


def test_what_is_about_no_chain_is_told_and_passed(read):
    table = read('{"comment": 1, "authors": {}, "comment": 2, "train": ["a", "a"], "test": null}')
    assert table.split_of == {"a": "train"}
    assert table.problems == [
        "splits file s.json: keys that are given twice: ['comment']",
        "splits file s.json: unknown keys: ['comment', 'authors']",
    ]


def test_one_bad_entry_costs_no_other(read):
    nodes = {"a": ["a b", "", " 1.10", "1.10\0", "\ud800", 3, "1.10.8"], "b": "2.30", "c": {"d": 1}}
    table = read({"train": ["a", 5, None, "\ud800"], "test": ["c"], "cath_nodes": nodes})
    assert table.split_of == {"a": "train", "\ud800": "train", "c": "test"}
    assert table.cath_nodes == {"a": ("1.10.8",), "b": ("2.30",), "c": ()}
    assert table.problems[0] == "splits file s.json: 2 of train are no names: [5, None]"
    assert table.problems[1] == "splits file s.json: no CATH code: 'a b' of 'a'"
    assert table.problems[-1] == "splits file s.json: no CATH code: 2 more"
    assert all(problem.isprintable() for problem in table.problems)


def test_a_byte_that_is_no_text_costs_its_name(read):
    table = read(b'\xef\xbb\xbf{"train": ["a",\n"b\xe9", "c"]}')
    assert table.split_of.keys() == {"a", "b\ufffd", "c"}
    (problem,) = table.problems
    assert "line 2 is not text" in problem


def test_of_a_chain_with_codes_twice_the_first_are_kept(read):
    table = read('{"train": ["a"], "cath_nodes": {"a": ["1.10"], "a": ["2.30"]}}')
    assert table.cath_nodes == {"a": ("1.10",)}
    assert "the first is kept: ['a']" in table.problems[0]
    assert read({"train": ["a"], "cath_nodes": [1]}).problems


def test_what_lists_and_splits_files_hold_besides_is_told_in_the_report_and_on_the_terminal(
    read, tmp_path, capsys, make_line
):
    read({"train": ["1abc.A"], "comment": 1, "cath_nodes": {"1abc.A": ["a b"]}})
    (tmp_path / "c.jsonl").write_text("".join(make_line(f"{k}abc.A") + "\n" for k in range(1, 5)))
    (tmp_path / "l.txt").write_text("1abcA00 1 10 8 10\nnonsense\n2abcA01 v4 1.10.8.10 1-9:B\n")
    lists = ["--splits", str(tmp_path / "s.json"), "--cath-domains", str(tmp_path / "l.txt")]

    def prepare(out, *options):
        command = ["data", "prepare", str(tmp_path / "c.jsonl"), "--out", str(tmp_path / out)]
        assert main([*command, *lists, *options]) == 0
        return json.loads((tmp_path / out / "report.json").read_text())["list_problems"]

    told = [
        "l.txt line 2: 'nonsense' is no CATH domain",
        "l.txt line 3: '2abcA01 v4 1.10.8.10 1-9:B' has ranges of chain 'B'",
        "splits file s.json: unknown keys: ['comment']",
        "splits file s.json: no CATH code: 'a b' of '1abc.A'",
    ]
    for _ in range(2):  # made, and there already
        assert prepare("store") == told
        out, err = capsys.readouterr()
        assert set(told) <= set(err.splitlines())
        assert "not read             4  of CATH's lists and the splits file" in out
    for shard in ("1/2", "2/2"):
        assert prepare(f"part{shard[0]}", "--shard", shard) == told
    assert (
        main(
            ["data", "merge", str(tmp_path / "part1"), str(tmp_path / "part2"), "--out", str(tmp_path / "m")]
        )
        == 0
    )
    assert (tmp_path / "m" / "report.json").read_bytes() == (tmp_path / "store" / "report.json").read_bytes()
