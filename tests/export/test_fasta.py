from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifold_pl.constants import AMINO_ACIDS
from minifold_pl.export.fasta import parse_sequence, read_fasta


def _write(folder: Path, content: str | bytes) -> Path:
    path = folder / "in.fasta"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_lines_case_blanks_and_the_stop_are_read_through(tmp_path: Path) -> None:
    text = "\ufeff>first with words\r\nMKT AYI\r\n\r\nakqr*\r\n>second\nACD\n\n>\nGG G\n"
    records = read_fasta(_write(tmp_path, text))
    assert [(r.name, r.sequence) for r in records] == [
        ("first", "MKTAYIAKQR"),
        ("second", "ACD"),
        ("record-3", "GGG"),
    ]
    assert all(r.unknown == () for r in records)


def test_unknown_letters_become_x_and_are_told(tmp_path: Path) -> None:
    (record,) = read_fasta(_write(tmp_path, ">a\nABCz\nUOJX\n"))
    assert record.sequence == "AXCXXXXX"
    assert record.unknown == ((2, "B"), (4, "Z"), (5, "U"), (6, "O"), (7, "J"), (8, "X"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("MKT\n>a\nMKT\n", "line 1.*before the first '>'"),
        (">a\n>b\nMKT\n", "record 'a' has no sequence"),
        (">a\n*\n", "record 'a' has no sequence"),
        (">a\nMK\n>b\nMKT\nAC-D\n", "record 'b': gap '-' at position 6"),
        (">a\nMK.T\n", "record 'a': gap '.' at position 3"),
        (">a\n1 MKT\n", "record 'a': digit '1' at position 1"),
        (">a\nMK*T\n", r"character '\*' at position 3"),
        (">a\nMKÅ\n", "character 'Å' at position 3"),
        (">a\nMK\x0cT\n>b\nM\x00\n", r"record 'b': character '\\x00' at position 2"),
        (b"\x1f\x8b\x08\x00\xff\xfe", "no text file"),
    ],
)
def test_a_bad_file_is_told_with_its_record_character_and_place(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read_fasta(_write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no FASTA file at"):
        read_fasta(tmp_path / "absent")
    with pytest.raises(ValueError, match="cannot read"):
        read_fasta(tmp_path)


@given(st.text(alphabet=AMINO_ACIDS, min_size=1, max_size=200), st.integers(1, 70))
def test_what_is_wrapped_is_read_back(sequence: str, width: int) -> None:
    wrapped = "\n".join(sequence[i : i + width] for i in range(0, len(sequence), width))
    assert parse_sequence(wrapped.lower() + "*\n").sequence == sequence


@given(st.text(max_size=30))
def test_any_text_is_a_sequence_or_one_clear_error(text: str) -> None:
    try:
        record = parse_sequence(text, name="r")
    except ValueError as error:
        assert "'r'" in str(error)
    else:
        assert set(record.sequence) <= set(AMINO_ACIDS + "X")
