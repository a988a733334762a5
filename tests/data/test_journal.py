import pytest

from minifold_pl.data.folder_lock import FolderBusyError
from minifold_pl.data.journal import Journal

WORK = {"kind": "structures", "min_length": 4}


def _write(folder, count):
    with Journal(folder, WORK) as journal:
        for k in range(count):
            journal.add(f"key {k}", bytes([k]) * 100 * k)


def test_what_was_added_is_there_when_it_is_opened_again(tmp_path):
    _write(tmp_path / "j", 5)
    with Journal(tmp_path / "j", WORK) as journal:
        assert len(journal) == 5
        assert "key 3" in journal
        assert "key 5" not in journal
        assert journal["key 3"] == b"\x03" * 300
        assert journal.get("key 9", b"no") == b"no"
        journal.add("key 5", b"more")
        assert journal["key 5"] == b"more"
    with Journal(tmp_path / "j", WORK) as journal:
        assert len(journal) == 6


def test_wherever_it_is_cut_off_the_entries_before_are_kept_and_new_ones_can_follow(tmp_path):
    _write(tmp_path / "whole", 4)
    whole = (tmp_path / "whole" / "journal").read_bytes()
    for size in range(0, len(whole), 7):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / "journal").write_bytes(whole[:size])
        with Journal(folder, WORK) as journal:
            kept = len(journal)
            assert [journal[f"key {k}"] for k in range(kept)] == [bytes([k]) * 100 * k for k in range(kept)]
            journal.add("after", b"x")
        with Journal(folder, WORK) as journal:
            assert len(journal) == kept + 1
            assert journal["after"] == b"x"


def test_a_flipped_byte_costs_its_entry_and_those_after(tmp_path):
    _write(tmp_path / "j", 4)
    path = tmp_path / "j" / "journal"
    content = bytearray(path.read_bytes())
    content[-350] ^= 1  # in the third entry
    path.write_bytes(bytes(content))
    with Journal(tmp_path / "j", WORK) as journal:
        assert len(journal) == 2


def test_a_journal_of_other_work_is_begun_anew(tmp_path):
    _write(tmp_path / "j", 4)
    with Journal(tmp_path / "j", {**WORK, "min_length": 5}) as journal:
        assert len(journal) == 0


def test_one_at_a_time(tmp_path):
    with Journal(tmp_path / "j", WORK), pytest.raises(FolderBusyError, match="another process works on it"):
        Journal(tmp_path / "j", WORK)
    Journal(tmp_path / "j", WORK).remove()
    assert not (tmp_path / "j").exists()
