import fcntl
import shutil

import pytest

from minifold_pl.data.folder_lock import FolderBusyError, FolderLock


def test_one_at_a_time_and_what_was_put_into_the_folder_stays(tmp_path):
    with FolderLock(tmp_path / "f") as lock:
        with pytest.raises(FolderBusyError, match="another process works on it"):
            FolderLock(tmp_path / "f")
        (lock.folder / "work").write_text("half")
    with FolderLock(tmp_path / "f") as lock:
        assert (lock.folder / "work").read_text() == "half"
        lock.remove()
        with FolderLock(tmp_path / "f") as other:
            (other.folder / "work").write_text("new")
    assert (tmp_path / "f" / "work").read_text() == "new"


def test_a_folder_that_nothing_was_put_into_goes_with_those_made_above_it(tmp_path):
    with FolderLock(tmp_path / "a" / "b" / "f"):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_a_lock_on_a_folder_that_was_removed_as_it_was_locked_is_not_taken_for_one(tmp_path, monkeypatch):
    flock = fcntl.flock

    def removed_just_before(file, how):
        monkeypatch.undo()
        shutil.rmtree(tmp_path / "f")
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_just_before)
    with FolderLock(tmp_path / "f") as lock:
        (lock.folder / "work").touch()
        with pytest.raises(FolderBusyError):
            FolderLock(tmp_path / "f")
