"""Chains with known structure as PDB and mmCIF text, so that reading it back gives the same chain.

Atoms that were not observed are left out; residues without any atom stand in the full sequence (SEQRES,
``_entity_poly_seq``) and keep their number (REMARK 465, ``_pdbx_poly_seq_scheme``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import gemmi
import numpy as np
from jaxtyping import Float

from minifold_pl.constants import BACKBONE_ATOMS, ONE_TO_THREE

PDB_LIMIT: Final = 9999.9995
"""Å: coordinates of this size or more do not fit the columns of a PDB file."""
PDB_LOWEST: Final = -999.9995

_RESIDUE_ID: Final = re.compile(r"(-?\d+)([A-Za-z]?)")
_ENTITY: Final = "1"
_REMARK_465: Final = (
    "REMARK 465",
    "REMARK 465 MISSING RESIDUES",
    "REMARK 465 THE FOLLOWING RESIDUES WERE NOT LOCATED IN THE",
    "REMARK 465 EXPERIMENT. (M=MODEL NUMBER; RES=RESIDUE NAME; C=CHAIN",
    "REMARK 465 IDENTIFIER; SSSEQ=SEQUENCE NUMBER; I=INSERTION CODE.)",
    "REMARK 465",
    "REMARK 465   M RES C SSSEQI",
)


@dataclass(frozen=True, kw_only=True)
class ObservedChain:
    """One chain to write.

    Raises:
        ValueError: sequence, coordinates and residue numbers differ in length, or no atom was observed.
    """

    name: str
    """The entry's name."""
    sequence: str
    """One-letter codes; ``X`` is an unknown residue."""
    coords: Float[np.ndarray, "l 4 3"]
    """N, Cα, C, O in Å; NaN where an atom was not observed."""
    residue_ids: Sequence[str] = ()
    """Author numbers with insertion codes, ``12`` or ``12A``; empty: counted from 1."""
    chain: str = "A"
    """The author's chain id; one letter in a PDB file."""
    title: str = ""
    """One line: what this is."""

    def __post_init__(self) -> None:
        length = len(self.sequence)
        if self.coords.shape != (length, len(BACKBONE_ATOMS), 3):
            raise ValueError(
                f"chain {self.name!r}: coordinates of shape {self.coords.shape} for {length} residues; "
                f"expected ({length}, {len(BACKBONE_ATOMS)}, 3)"
            )
        if self.residue_ids and len(self.residue_ids) != length:
            raise ValueError(
                f"chain {self.name!r}: {len(self.residue_ids)} residue numbers for {length} residues"
            )
        if np.isnan(self.coords).any(-1).all():
            raise ValueError(f"chain {self.name!r}: no atom was observed, so there is no structure to write")
        if unknown := sorted(set(self.sequence) - ONE_TO_THREE.keys()):
            raise ValueError(f"chain {self.name!r}: no residues are called {', '.join(unknown)}")

    @property
    def seqids(self) -> list[gemmi.SeqId]:
        """Residue numbers as gemmi has them.

        Raises:
            ValueError: one is no integer with at most one letter after it.
        """
        if not self.residue_ids:
            return [gemmi.SeqId(number, " ") for number in range(1, len(self.sequence) + 1)]
        found = []
        for residue_id in self.residue_ids:
            match = _RESIDUE_ID.fullmatch(residue_id)
            if match is None:
                raise ValueError(
                    f"chain {self.name!r}: residue number {residue_id!r} is not of the form 12 or 12A"
                )
            found.append(gemmi.SeqId(int(match[1]), match[2] or " "))
        return found


def observed_pdb_text(chain: ObservedChain) -> str:
    """``chain`` as a PDB file: REMARK 465, SEQRES, ATOM, TER.

    Raises:
        ValueError: a coordinate, a residue number or the chain id does not fit the format; mmCIF has no such limit.
    """
    if not (np.nanmax(chain.coords) < PDB_LIMIT and np.nanmin(chain.coords) > PDB_LOWEST):
        raise ValueError(
            f"chain {chain.name!r} has coordinates that the columns of a PDB file cannot hold: write mmCIF"
        )
    if len(chain.chain) != 1:
        raise ValueError(f"chain {chain.name!r}: id {chain.chain!r} is not one letter: write mmCIF")
    seqids = chain.seqids
    if any(not -999 <= (number := seqid.num or 0) <= 9999 for seqid in seqids):
        raise ValueError(f"chain {chain.name!r}: residue {number} does not fit a PDB file: write mmCIF")
    structure = _structure(chain, seqids)
    missing = [i for i, row in enumerate(_unobserved(chain)) if row.all()]
    if missing:
        rows = [
            f"REMARK 465     {ONE_TO_THREE[chain.sequence[i]]} {chain.chain} {seqids[i].num:5d}{seqids[i].icode}"
            for i in missing
        ]
        structure.raw_remarks = [line.ljust(80) for line in (*_REMARK_465, *rows)]
    return structure.make_pdb_string(gemmi.PdbWriteOptions(cryst1_record=False))


def observed_mmcif_text(chain: ObservedChain) -> str:
    """``chain`` as an mmCIF file with its entity, full sequence, numbering and atoms."""
    seqids = chain.seqids
    groups = gemmi.MmcifOutputGroups(True, cell=False, symmetry=False)
    block = _structure(chain, seqids).make_mmcif_block(groups)
    block.name = re.sub(r"[^\x21-\x7e]", "_", chain.name) or "chain"
    block.set_pair("_entry.id", gemmi.cif.quote(chain.name))
    if chain.title:
        block.set_pair("_struct.title", gemmi.cif.quote(chain.title))
    tags = [
        "asym_id",
        "entity_id",
        "seq_id",
        "mon_id",
        "pdb_seq_num",
        "auth_seq_num",
        "pdb_strand_id",
        "pdb_ins_code",
    ]
    scheme = block.init_loop("_pdbx_poly_seq_scheme.", tags)
    for place, (letter, seqid, missing) in enumerate(
        zip(chain.sequence, seqids, _unobserved(chain), strict=True), start=1
    ):
        number = str(seqid.num)
        observed = "?" if missing.all() else number
        row = [_asym(chain), _ENTITY, str(place), ONE_TO_THREE[letter], number, observed]
        scheme.add_row([*row, gemmi.cif.quote(chain.chain), seqid.icode.strip() or "."])
    document = gemmi.cif.Document()
    document.add_copied_block(block)
    return document.as_string()


def _unobserved(chain: ObservedChain) -> np.ndarray:
    return np.isnan(chain.coords).any(-1)


def _asym(chain: ObservedChain) -> str:
    return chain.chain or "A"


def _structure(chain: ObservedChain, seqids: list[gemmi.SeqId]) -> gemmi.Structure:
    polymer = gemmi.Chain(chain.chain)
    positions = np.round(chain.coords.astype(np.float64), 3)
    missing = _unobserved(chain)
    for place, (letter, seqid) in enumerate(zip(chain.sequence, seqids, strict=True)):
        if missing[place].all():
            continue
        residue = gemmi.Residue()
        residue.name = ONE_TO_THREE[letter]
        residue.seqid = seqid
        residue.label_seq = place + 1
        residue.subchain = _asym(chain)
        residue.entity_id = _ENTITY
        residue.entity_type = gemmi.EntityType.Polymer
        residue.het_flag = "A"
        for slot, atom_name in enumerate(BACKBONE_ATOMS):
            if not missing[place, slot]:
                atom = gemmi.Atom()
                atom.name = atom_name
                atom.element = gemmi.Element("C" if atom_name == "CA" else atom_name)
                atom.pos = gemmi.Position(*positions[place, slot].tolist())
                atom.occ = 1.0
                atom.b_iso = 0.0
                residue.add_atom(atom)
        polymer.add_residue(residue)
    model = gemmi.Model(1)
    model.add_chain(polymer)
    structure = gemmi.Structure()
    structure.name = chain.name
    if chain.title:
        structure.info["_struct.title"] = chain.title
    structure.add_model(model)
    entity = gemmi.Entity(_ENTITY)
    entity.entity_type = gemmi.EntityType.Polymer
    entity.polymer_type = gemmi.PolymerType.PeptideL
    entity.full_sequence = [ONE_TO_THREE[letter] for letter in chain.sequence]
    entity.subchains = [_asym(chain)]
    structure.entities = gemmi.EntityList([entity])
    return structure
