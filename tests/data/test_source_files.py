import gzip
import os

import pytest

from minifold_pl.data import source_files
from minifold_pl.data.chain_set import SourceError
from minifold_pl.data.prepare import PrepareSettings, prepare
from minifold_pl.data.source_files import find_files
from minifold_pl.export.observed import ObservedChain, observed_pdb_text


@pytest.fixture
def folder(tmp_path, make_record):
    """A folder with one sound file."""
    record = make_record("1abc", 12)
    chain = ObservedChain(name="1abc", sequence=record.sequence, coords=record.coords)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1abc.pdb").write_text(observed_pdb_text(chain))
    return tmp_path / "in"


def test_links_in_a_circle_are_told_and_passed(folder, tmp_path):
    (folder / "self.pdb").symlink_to("self.pdb")
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    (folder / "deep").mkdir()
    (folder / "deep" / "up").symlink_to("../..")
    report = prepare(folder, tmp_path / "store", PrepareSettings(processes=1))
    assert report.kept == 1
    reason = "cannot be read: Too many levels of symbolic links"
    assert report.files_refused == dict.fromkeys(("a", "b", "self.pdb"), reason)


@pytest.mark.parametrize("by_root", [False, True])
def test_a_folder_that_is_closed_is_told_and_passed(folder, tmp_path, monkeypatch, by_root):
    closed = folder / "closed"
    closed.mkdir()
    (closed / "2abc.pdb").write_text("x")
    if by_root:  # who may open everything
        scandir = os.scandir

        def refuse(path):
            if path == str(closed):
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(source_files.os, "scandir", refuse)
        told = "cannot be read: Is a directory"
    else:
        if os.geteuid() == 0:
            pytest.skip("root may open any folder")
        closed.chmod(0)
        told = "cannot be read: Permission denied"
    try:
        report = prepare(folder, tmp_path / "store", PrepareSettings(processes=1))
    finally:
        closed.chmod(0o700)
    assert (report.kept, report.files_refused) == (1, {"closed": told})
    monkeypatch.undo()
    report = prepare(folder, tmp_path / "store", PrepareSettings(processes=1))
    assert report.files_refused == {"closed/2abc.pdb": "is neither PDB nor mmCIF"}


def test_a_folder_that_is_named_must_be_listed(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(source_files.os, "scandir", refuse)
    with pytest.raises(SourceError, match="in cannot be listed: Permission denied"):
        find_files([folder])


@pytest.mark.parametrize("start", [b">", b"data_x", b"ATOM  ", b"name\tseq", b"HEADER"])
@pytest.mark.parametrize("name", ["c.jsonl", "C.JSONL", "c.jsonl.gz"])
def test_a_chain_set_whose_first_line_looks_like_another_format_loses_that_line(
    tmp_path, make_line, start, name
):
    lines = [make_line(f"c{k}").encode() for k in range(3)]
    lines[0] = start + lines[0][len(start) :]
    content = b"\n".join(lines)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    report = prepare(tmp_path / name, tmp_path / "store")
    assert (report.kept, report.reasons("dropped")) == (2, {"not JSON": 1})
