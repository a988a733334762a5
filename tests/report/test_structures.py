"""Samples find their truth and are laid on it."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest

from minifold_pl.constants import CA_ATOM
from minifold_pl.data.store import ChainStore
from minifold_pl.report.structures import read_structures


def _ca(text: str) -> np.ndarray:
    chain = gemmi.read_pdb_string(text)[0][0]
    return np.array([residue.find_atom("CA", "*").pos.tolist() for residue in chain])


@pytest.fixture(scope="module")
def chains(made_run):
    found, told = read_structures([made_run.folder / "samples"], ChainStore.open(made_run.store), 200)
    assert told == []
    return found


def test_every_sample_is_shown_with_its_chain_oldest_first(made_run, chains) -> None:
    assert len(chains) == made_run.chains
    assert made_run.hostile in {chain.name for chain in chains}
    for chain in chains:
        assert [sample.made for sample in chain.samples] == [
            f"epoch {epoch}" for epoch in range(made_run.every, made_run.epochs + 1, made_run.every)
        ]


def test_the_motion_lays_the_sample_on_the_truth(chains, made_run) -> None:
    store = ChainStore.open(made_run.store)
    for chain in chains[:5]:
        sample = chain.samples[-1]
        rotation, shift = np.array(sample.motion[:9]).reshape(3, 3), np.array(sample.motion[9:])
        laid = _ca(sample.pdb) @ rotation.T + shift
        truth = store.coords(store.find(chain.name))[:, CA_ATOM]
        away = np.sqrt(((laid - truth) ** 2).sum(-1).mean())
        assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-4)
        assert away < 1.02 * sample.scores["rmsd"] + 0.02
        assert np.allclose(_ca(chain.truth), truth, atol=2e-3)


def test_scores_rise_as_samples_come_nearer(chains) -> None:
    for chain in chains:
        first, last = chain.samples[0].scores, chain.samples[-1].scores
        assert first["tm_score"] < last["tm_score"]
        assert first["rmsd"] > last["rmsd"]


def test_a_limit_keeps_the_newest_of_every_chain(made_run) -> None:
    found, told = read_structures([made_run.folder / "samples"], None, 30)
    newest = [chain.samples[-1].made for chain in found]
    assert len(newest) == 20
    assert set(newest) == {"epoch 60"}
    assert sum(len(chain.samples) for chain in found) == 30
    assert "200 structures" in told[0]


def test_a_file_of_another_sequence_has_no_truth_and_a_damaged_one_is_told(made_run, tmp_path: Path) -> None:
    store = ChainStore.open(made_run.store)
    path = sorted((made_run.folder / "samples" / "epoch-060").glob("*.pdb"))[1]
    lines = [line for line in path.read_text().splitlines() if line[22:26].strip() != "1"]
    (tmp_path / path.name).write_text("\n".join(lines).replace("SEQRES", "REMARK") + "\n")
    (tmp_path / "broken.pdb").write_text("no structure\n")
    found, told = read_structures([tmp_path], store, 10)
    assert [(chain.truth, chain.samples[0].scores) for chain in found] == [("", {})]
    assert "broken.pdb" in told[0]
