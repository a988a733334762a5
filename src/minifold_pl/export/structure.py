"""Predicted chains as PDB and mmCIF text.

Text, not files: the caller writes it, atomically.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import gemmi
import numpy as np
from jaxtyping import Float

from minifold_pl.constants import BACKBONE_ATOMS, ONE_TO_THREE

CHAIN: Final = "A"
_FREE_REMARK: Final = "REMARK  99"
"""Remarks 6–99 are free text (PDB format 3.3)."""
PDB_LIMIT: Final = 999.0
"""Å: the largest coordinate that fits the fixed columns of a PDB file (``-999.999`` fills its eight)."""


def closed_remark(ca_moved: float) -> str:
    """What is said of a predicted backbone that was closed."""
    return (
        "N, CA, C and O were predicted, then replaced by the nearest chain of ideal bond lengths, bond angles and "
        f"planar peptides; this moved CA by {ca_moved:.2f} A (root mean square)."
    )


@dataclass(frozen=True, kw_only=True)
class PredictedChain:
    """One chain to write. Residues are numbered from 1."""

    name: str
    sequence: str
    """One-letter codes; ``X`` is an unknown residue."""
    coords: Float[np.ndarray, "l a 3"]
    """Å; one atom a residue is Cα, four are N, Cα, C, O."""
    confidence: Float[np.ndarray, " l"]
    """0…100, into the B-factor column."""
    title: str
    """One line: what this is."""
    remarks: Sequence[str] = ()
    """Lines about how it was made: REMARK records, or the mmCIF's ``_struct.pdbx_descriptor``."""

    def __post_init__(self) -> None:
        length = len(self.sequence)
        if self.coords.shape not in ((length, 1, 3), (length, 4, 3)):
            raise ValueError(
                f"chain {self.name!r}: coordinates of shape {self.coords.shape} for {length} residues; "
                f"expected ({length}, 1, 3) or ({length}, 4, 3)"
            )
        if self.confidence.shape != (length,):
            raise ValueError(
                f"chain {self.name!r}: {self.confidence.shape} confidences for {length} residues"
            )
        if not np.isfinite(self.coords).all():
            raise ValueError(f"chain {self.name!r}: the coordinates are not finite: the sampler diverged")
        if not ((self.confidence >= 0) & (self.confidence <= 100)).all():
            raise ValueError(f"chain {self.name!r}: confidences must lie between 0 and 100")
        unknown = sorted(set(self.sequence) - ONE_TO_THREE.keys())
        if unknown:
            raise ValueError(f"chain {self.name!r}: no residues are called {', '.join(unknown)}")


def pdb_text(chain: PredictedChain) -> str:
    """``chain`` as a PDB file: TITLE, REMARK 99, SEQRES, ATOM, TER.

    Raises:
        ValueError: A coordinate does not fit into the format's columns; mmCIF has no such limit.
    """
    largest = float(np.abs(chain.coords).max())
    if largest > PDB_LIMIT:
        raise ValueError(
            f"chain {chain.name!r} reaches {largest:.0f} Å from its centre, more than the columns of a PDB "
            "file hold: write mmCIF"
        )
    structure = _structure(chain)
    structure.raw_remarks = [f"{_FREE_REMARK} {line}".ljust(80) for line in _wrapped(chain.remarks)]
    return structure.make_pdb_string(gemmi.PdbWriteOptions(cryst1_record=False))


def mmcif_text(chain: PredictedChain) -> str:
    """``chain`` as an mmCIF file with its entity, sequence and atoms."""
    # A prediction has no crystal: the placeholders of unit cell and symmetry stay out.
    groups = gemmi.MmcifOutputGroups(True, cell=False, symmetry=False)
    block = _structure(chain).make_mmcif_block(groups)
    block.name = re.sub(r"[^\x21-\x7e]", "_", chain.name) or "model"
    block.set_pair("_entry.id", gemmi.cif.quote(chain.name))
    block.set_pair("_struct.title", gemmi.cif.quote(chain.title))
    if chain.remarks:
        block.set_pair("_struct.pdbx_descriptor", gemmi.cif.quote(" ".join(chain.remarks)))
    document = gemmi.cif.Document()
    document.add_copied_block(block)
    return document.as_string()


def _structure(chain: PredictedChain) -> gemmi.Structure:
    residues = [ONE_TO_THREE[letter] for letter in chain.sequence]
    atoms = ("CA",) if chain.coords.shape[1] == 1 else BACKBONE_ATOMS
    polymer = gemmi.Chain(CHAIN)
    positions_of = np.round(chain.coords.astype(np.float64), 3).tolist()
    b_factors = np.round(chain.confidence.astype(np.float64), 2).tolist()
    for number, (name, positions, b_factor) in enumerate(
        zip(residues, positions_of, b_factors, strict=True), start=1
    ):
        residue = gemmi.Residue()
        residue.name = name
        residue.seqid = gemmi.SeqId(number, " ")
        residue.label_seq = number
        residue.subchain = CHAIN
        residue.entity_id = "1"
        residue.entity_type = gemmi.EntityType.Polymer
        residue.het_flag = "A"
        for atom_name, position in zip(atoms, positions, strict=True):
            residue.add_atom(_atom(atom_name, position, b_factor))
        polymer.add_residue(residue)
    model = gemmi.Model(1)
    model.add_chain(polymer)
    structure = gemmi.Structure()
    structure.info["_struct.title"] = chain.title
    structure.add_model(model)
    entity = gemmi.Entity("1")
    entity.entity_type = gemmi.EntityType.Polymer
    entity.polymer_type = gemmi.PolymerType.PeptideL
    entity.full_sequence = residues
    entity.subchains = [CHAIN]
    structure.entities = gemmi.EntityList([entity])
    return structure


def _atom(name: str, position: Sequence[float], b_factor: float) -> gemmi.Atom:
    atom = gemmi.Atom()
    atom.name = name
    atom.element = gemmi.Element("C" if name == "CA" else name)
    atom.pos = gemmi.Position(*position)
    atom.b_iso = b_factor
    atom.occ = 1.0
    return atom


def _wrapped(lines: Sequence[str]) -> list[str]:
    plain = (line.encode("ascii", "replace").decode() for line in lines)
    return [piece for line in plain for piece in textwrap.wrap(line, 80 - len(_FREE_REMARK) - 1)]
