"""Structures in the run folder."""

from __future__ import annotations

from dataclasses import replace

import gemmi
import torch

from minifold_pl.callbacks.structure_files import write_structures
from minifold_pl.constants import BACKBONE_ATOMS
from minifold_pl.data.tokenizer import decode
from minifold_pl.modules.structures import SampledChain, final_structures
from minifold_pl.types import Denoised


def test_files_hold_each_chain_without_its_padding_and_stay_in_the_folder(batch, tmp_path) -> None:
    batch = replace(batch, names=("../../out", "same", "same"))
    ca = batch.ca
    sampled = Denoised(ca, torch.eye(3).expand(*ca.shape[:2], 3, 3))
    drawn = final_structures(sampled, batch)
    paths = write_structures(tmp_path / "new", batch, drawn, set(), ["how it was made"])
    assert len(set(paths)) == 3
    assert all(path.parent == tmp_path / "new" and path.is_file() for path in paths)
    for row, path in enumerate(paths):
        (chain,) = gemmi.read_structure(str(path))[0]
        length = int(batch.lengths[row])
        assert gemmi.one_letter_code([residue.name for residue in chain]) == decode(batch.tokens[row])
        found = torch.tensor([residue[0].pos.tolist() for residue in chain])
        torch.testing.assert_close(found, ca[row, :length], atol=6e-4, rtol=0)  # PDB has 3 decimals
        assert "how it was made" in path.read_text()


def test_a_backbone_is_written_with_its_four_atoms_and_how_far_it_was_moved(batch, tmp_path) -> None:
    lengths = batch.lengths.tolist()
    drawn = [SampledChain(coords[:n], 0.25) for coords, n in zip(batch.coords, lengths, strict=True)]
    for path, sampled in zip(write_structures(tmp_path, batch, drawn, set()), drawn, strict=True):
        (chain,) = gemmi.read_structure(str(path))[0]
        found = torch.tensor(
            [[residue.sole_atom(a).pos.tolist() for a in BACKBONE_ATOMS] for residue in chain]
        )
        torch.testing.assert_close(found, sampled.coords, atol=6e-4, rtol=0)
        assert "this moved CA by" in path.read_text()
