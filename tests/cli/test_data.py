import argparse
import json
import os

import gemmi
import pytest

from minifold_pl.cli import data
from minifold_pl.cli.errors import UserError
from minifold_pl.data.store import ChainStore


@pytest.fixture
def run():
    """Runs ``data ...`` as the program does."""

    def run(*arguments):
        parser = argparse.ArgumentParser()
        data.add_parser(parser.add_subparsers())
        args = parser.parse_args(["data", *map(str, arguments)])
        return args.run(args)

    return run


def _line(name, **fields):
    row = [[float(i * 3.8), 0.0, 0.0] for i in range(6)]
    return json.dumps({"name": name, "seq": "ACDEFG", "coords": {"CA": row}, "CATH": ["1.10.8"], **fields})


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "chain_set.jsonl"
    path.write_text("\n".join([_line("a", split="train"), "", _line("b", split="test"), "{}"]) + "\n")
    return path


def test_prepare_makes_a_store_and_tells_what_became_of_each_record(run, source, tmp_path, capsys):
    assert run("prepare", source, "--out", tmp_path / "store") == 0
    assert ChainStore.open(tmp_path / "store").names == ("a", "b")
    out, err = capsys.readouterr()
    assert "line 2: empty line (dropped)" in err.splitlines()
    assert "line 4: wrong type: name is missing or null, not a string (dropped)" in err.splitlines()
    assert "kept                 2" in out
    assert "dropped              1  wrong type" in out


def test_prepare_shows_some_problems_and_says_where_the_others_are(run, tmp_path, capsys):
    path = tmp_path / "chain_set.jsonl"
    path.write_text(_line("a") + "\n" * 101)  # a note on Cα alone, and a hundred empty lines
    run("prepare", path, "--out", tmp_path / "store")
    err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading")]
    assert len(err) == 21
    assert err[-1].startswith("… and 80 more, all in")


def test_overwrite_is_asked_for_and_a_store_of_the_same_is_left_as_it_is(run, source, tmp_path, capsys):
    run("prepare", source, "--out", tmp_path / "store")
    assert "nothing was done" not in capsys.readouterr().out
    assert run("prepare", source, "--out", tmp_path / "store") == 0
    assert "there already, made of the same; nothing was done" in capsys.readouterr().out
    with pytest.raises(UserError, match="--overwrite replaces it"):
        run("prepare", source, "--out", tmp_path / "store", "--min-length", "5")
    assert run("prepare", source, "--out", tmp_path / "store", "--overwrite", "--min-length", "5") == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("prepare", "absent.jsonl"), "absent.jsonl does not exist"),
        (("prepare", "{source}", "--splits", "absent.json"), "splits file absent.json"),
        (("prepare", "{source}", "--min-length", "2"), "min_length is 2"),
        (("prepare", "{source}", "--min-length", "100"), "no sound chain of 4 records"),
    ],
)
def test_a_users_mistake_is_told_in_one_line_and_leaves_nothing(run, source, tmp_path, arguments, told):
    with pytest.raises(UserError, match=told) as caught:
        run(*(str(a).format(source=source) for a in arguments), "--out", tmp_path / "store")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chain_set.jsonl"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_one_may_not_write_is_told_in_one_line(run, source, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"closed.*Permission denied"):
        run("prepare", source, "--out", tmp_path / "closed" / "store")


def test_a_parent_that_is_a_file_is_told_in_one_line(run, source):
    with pytest.raises(UserError, match=r"chain_set\.jsonl.*no store was written"):
        run("prepare", source, "--out", source / "store")


def test_stats_are_shown_as_a_table_and_as_json(run, source, tmp_path, capsys):
    run("prepare", source, "--out", tmp_path / "store")
    capsys.readouterr()
    assert run("stats", tmp_path / "store") == 0
    out, err = capsys.readouterr()
    assert "train 1 · test 1" in out
    assert "pairs across splits of 40% identity or more: train–test 1" in out  # they have one sequence
    assert "looking for similar sequences: 1/1" in err
    assert run("stats", tmp_path / "store", "--json") == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["chains"] == 2
    assert stats["split_sizes"] == {"train": 1, "test": 1}
    with pytest.raises(UserError, match="is no store"):
        run("stats", tmp_path)
    assert (
        run(
            "stats",
            tmp_path / "store",
            "--check",
            "--leakage",
            "no",
            "--max-length",
            "4",
            "--max-length",
            "5",
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "similar sequences were not looked for" in out
    assert "at 4 residues: 2 chains (100.0%)" in out
    assert "at 5 residues" in out
    with pytest.raises(UserError, match="--max-length 0: give at least 1 residue"):
        run("stats", tmp_path / "store", "--max-length", "0")
    path = tmp_path / "store" / "chains-00000.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"chains-00000\.bin has changed"):
        run("stats", tmp_path / "store", "--check")


def test_synth_makes_the_synthetic_set_with_the_settings_given(run, tmp_path, capsys):
    assert run("synth", "--out", tmp_path / "store", "--n", "40", "--seed", "3", "--max-length", "60") == 0
    store = ChainStore.open(tmp_path / "store")
    assert len(store) == 40
    assert store.lengths.max() <= 60
    assert store.provenance["synthetic"]["seed"] == 3
    assert "40 synthetic chains" in capsys.readouterr().out
    with pytest.raises(UserError, match="--overwrite"):
        run("synth", "--out", tmp_path / "store")


def test_stores_are_merged_and_mistakes_told(run, source, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    other.write_text(_line("c") + "\n")
    for path, name in ((source, "one"), (other, "two")):
        run("prepare", path, "--out", tmp_path / name)
    capsys.readouterr()
    assert run("merge", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "both") == 0
    assert "3 chains of 2 stores" in capsys.readouterr().out
    assert ChainStore.open(tmp_path / "both").names == ("a", "b", "c")
    with pytest.raises(UserError, match="both have a chain named 'a'"):
        run("merge", tmp_path / "one", tmp_path / "both", "--out", tmp_path / "again")
    with pytest.raises(UserError, match="does not exist"):
        run("merge", tmp_path / "absent", "--out", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_chain_is_shown_as_text_json_structure_and_picture(run, source, tmp_path, capsys):
    run("prepare", source, "--out", tmp_path / "store")
    capsys.readouterr()
    assert run("show", tmp_path / "store", "b") == 0
    text = capsys.readouterr().out
    assert "b  (6 residues; chain 1 of the store)" in text
    assert "     1 ACDEFG" in text
    assert run("show", tmp_path / "store", "#1") == 0
    assert capsys.readouterr().out == text
    assert run("show", tmp_path / "store", "b", "--json") == 0
    assert json.loads(capsys.readouterr().out)["observed"] == {"N": 0, "CA": 6, "C": 0, "O": 0}
    for kind in ("pdb", "cif"):
        assert run("show", tmp_path / "store", "b", f"--{kind}", tmp_path / f"b.{kind}") == 0
        structure = gemmi.read_structure(str(tmp_path / f"b.{kind}"))
        assert [
            atom.pos.x for chain in structure[0] for residue in chain for atom in residue
        ] == pytest.approx([3.8 * i for i in range(6)], abs=1e-3)
    pytest.importorskip("matplotlib")
    assert run("show", tmp_path / "store", "b", "--png", tmp_path / "b.png") == 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_shown_is_told(run, source, tmp_path, monkeypatch):
    run("prepare", source, "--out", tmp_path / "store")
    for name, told in (("c", "no chain named 'c'"), ("#2", "the store has 2 chains, #0…#1")):
        with pytest.raises(UserError, match=told):
            run("show", tmp_path / "store", name)
    with pytest.raises(UserError, match="ends in one of") as caught:
        run("show", tmp_path / "store", "b", "--png", tmp_path / "b.gif")
    assert caught.value.exit_code == 2
    monkeypatch.setattr("minifold_pl.cli.data_show.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--png needs matplotlib: pip install 'minifold-pl\[plots\]'"):
        run("show", tmp_path / "store", "b", "--png", tmp_path / "b.png")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--shard", "0/3"),
        ("--shard", "4/3"),
        ("--shard", "1"),
        ("--min-length", "2"),
        ("--min-complete", "1.5"),
        ("--processes", "0"),
        ("--timeout", "0"),
        ("--timeout", "nan"),
        ("--timeout", "inf"),
        ("--split-by", "cluster", "--seed", "-5"),
        ("--seed", "5"),
        ("--fractions", "0.8", "0.1", "0.1"),
        ("--split-by", "cluster", "--fractions", "0.8", "0.8", "0.1"),
        ("--splits", "a.json", "--split-by", "cluster"),
        ("--domains",),
    ],
    ids=" ".join,
)
def test_settings_that_cannot_be_are_wrong_use(run, source, tmp_path, arguments):
    with pytest.raises(UserError) as caught:
        run("prepare", source, "--out", tmp_path / "store", *arguments)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "store").exists()


def test_names_do_not_steer_the_terminal(run, tmp_path, capsys):
    path = tmp_path / "chain_set.jsonl"
    lines = [_line("a\x1b[31m\r\x9bB", split="tr\x07ain"), _line("\x1b]0;x\x07", seq=3)]
    path.write_text("\n".join(lines) + "\n")
    run("prepare", path, "--out", tmp_path / "store")
    run("show", tmp_path / "store", "#0")
    run("show", tmp_path / "store", "#0", "--json")
    run("stats", tmp_path / "store")
    out, err = capsys.readouterr()
    assert "a\ufffd[31m\ufffd\ufffdB" in out
    assert r"\x1b]0;x\x07" in err
    assert all(c.isprintable() for c in (out + err).replace("\n", ""))


def test_a_store_that_is_named_last_or_a_source_in_its_place_is_told(run, source, tmp_path):
    run("prepare", source, "--out", tmp_path / "store")
    with pytest.raises(UserError, match=r"the store comes first: minifold-pl data show .*store a") as caught:
        run("show", "a", tmp_path / "store")
    assert caught.value.exit_code == 2
    for command in (("stats", source), ("show", source, "a")):
        with pytest.raises(UserError, match=r"is no store; .*data prepare .*chain_set\.jsonl --out STORE"):
            run(*command)


def test_a_part_without_a_chain_has_no_statistics(run, source, tmp_path):
    assert run("prepare", source, "--out", tmp_path / "part", "--shard", "1/9") == 0
    with pytest.raises(UserError, match="has no chain; a part that `data merge` puts together"):
        run("stats", tmp_path / "part")
