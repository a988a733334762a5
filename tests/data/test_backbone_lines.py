import gemmi
import numpy as np
import pytest

from minifold_pl.data import structure_file
from minifold_pl.data.backbone_lines import mmcif_backbone_lines, pdb_backbone_lines
from minifold_pl.data.structure_content import read_content, unpacked
from minifold_pl.data.structure_file import StructureFileError, parse_structure

SHORTENED = (
    "103l.cif", "103l.pdb.gz", "1l2y.cif", "1l2y.pdb", "1ts9.pdb", "1y3v.pdb", "2q2k.cif", "4zey.cif", "5ejw.pdb",
    "5ugo.pdb", "7w06.cif",
)  # fmt: skip


def _told(content):
    try:
        found = parse_structure(content, "x")
    except StructureFileError as error:
        return str(error)
    chains = [(c.name, c.sequence, c.residue_ids, c.notes, c.coords.tobytes()) for c in found.chains]
    return chains, found.dropped, found.models


def test_what_is_read_is_the_same_with_all_lines(real_data, monkeypatch):
    contents = {p.name: read_content(p) for p in sorted((real_data / "raw_cases").iterdir())}
    fast = {name: _told(content) for name, content in contents.items()}
    for name in ("mmcif_backbone_lines", "pdb_backbone_lines"):
        monkeypatch.setattr(structure_file, name, lambda text: None)
    whole = {name: _told(content) for name, content in contents.items()}
    assert fast == whole


@pytest.mark.parametrize("name", SHORTENED)
def test_entries_of_the_archive_are_shortened(real_data, name):
    text = unpacked(read_content(real_data / "raw_cases" / name))
    lines = (mmcif_backbone_lines if "cif" in name else pdb_backbone_lines)(text)
    assert lines is not None
    assert len(lines) < 0.8 * len(text)
    kept, rest = set(lines.split(b"\n")), text.split(b"\n")
    assert kept <= set(rest)  # no line is another than it was


ATOM = "ATOM  {:5d} {:<4s} ALA A{:4d}    {:8.3f}   0.000   0.000  1.00  0.00           C  \n"


def _pdb(length=6):
    names = (" N  ", " CA ", " C  ", " O  ", " CB ", " HA ", " HB ")
    return "".join(ATOM.format(1, n, i + 1, 3.8 * i) for i in range(length) for n in names).encode()


def test_lines_of_different_lengths_are_left_alone():
    text = _pdb()
    assert pdb_backbone_lines(text) is not None
    assert pdb_backbone_lines(text + b"END\n") is None
    assert pdb_backbone_lines(text[:-7]) is None
    assert pdb_backbone_lines(b"") is None
    assert mmcif_backbone_lines(b"data_x\nloop_\n_atom_site.id\n1\n") is None


def test_every_chain_keeps_a_line_and_nucleotides_one_each():
    others = [
        "HETATM 9001  ZN   ZN B   1       0.000   0.000   0.000  1.00  0.00          ZN  \n",
        "HETATM 9002  O   HOH C   1       0.000   0.000   0.000  1.00  0.00           O  \n",
        "ATOM   9003  P    DA D   1       0.000   0.000   0.000  1.00  0.00           P  \n",
        "ATOM   9004  C1'  DA D   1       0.000   0.000   0.000  1.00  0.00           C  \n",
        "ATOM   9005  C1'  DC D   2       0.000   0.000   0.000  1.00  0.00           C  \n",
    ]
    lines = pdb_backbone_lines(_pdb() + "".join(others).encode()).decode().splitlines()
    assert [line[21] for line in lines].count("A") == 24
    assert [line[6:11] for line in lines if line[21] != "A"] == [" 9001", " 9002", " 9004", " 9005"]


def test_remarks_but_465_are_left_out():
    remarks = [f"REMARK {number}".ljust(80) + "\n" for number in (2, 465, 800)]
    text = "".join(remarks).encode() + _pdb()
    lines = pdb_backbone_lines(text).splitlines()
    assert [line[:10] for line in lines if line.startswith(b"REMARK")] == [b"REMARK 465"]
    assert len(np.unique([len(line) for line in lines])) == 1


def test_atoms_named_at_the_left_of_their_column_are_read(real_data):
    """As some programs write them: ``CA  `` is then no calcium."""
    text = read_content(real_data / "raw_cases" / "1ts9.pdb")
    lines = text.split(b"\n")
    left = [
        line[:12] + line[12:16].strip().ljust(4) + line[16:]
        if line.startswith((b"ATOM", b"HETATM"))
        else line
        for line in lines
    ]
    (chain,), _, _ = _told(text)
    (found,), _, _ = _told(b"\n".join(left))
    assert found == chain


def test_one_row_is_kept_of_the_table_of_anisotropic_displacements(real_data):
    text = read_content(real_data / "raw_cases" / "4zey.cif")
    table = gemmi.cif.read_string(text).sole_block().find_mmcif_category("_atom_site_anisotrop.")
    kept = gemmi.cif.read_string(mmcif_backbone_lines(text)).sole_block()
    assert len(table) > 100
    assert [list(row) for row in kept.find_mmcif_category("_atom_site_anisotrop.")] == [list(table[0])]
