from dataclasses import replace

import numpy as np
import pytest
import torch

from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store import ChainStore, write_store
from minifold_pl.diagnostics import dihedrals
from minifold_pl.diagnostics.embeddings import principal_components
from minifold_pl.geometry.backbone import backbone_from_torsions


@pytest.fixture(scope="module")
def helices(tmp_path_factory):
    """Ideal helices of 20 and 24 residues, φ −57° and ψ −47°; the second lacks N, Cα, C and O of its sixth residue."""
    records = []
    for k, length in enumerate((20, 24)):
        phi, psi, omega = (torch.full((length,), np.deg2rad(angle)) for angle in (-57.0, -47.0, 180.0))
        coords = backbone_from_torsions(phi, psi, omega).numpy().astype(np.float32)
        if k == 1:
            coords[5] = np.nan
        records.append(ChainRecord(name=f"h{k}", sequence="A" * length, coords=coords, split="test"))
    path = tmp_path_factory.mktemp("ideal") / "store"
    write_store(path, records)
    return ChainDataset(ChainStore.open(path), "test", needs="backbone")


def test_true_pairs_are_those_of_the_helix_and_none_reaches_over_a_gap(helices):
    phi_psi = dihedrals.true_phi_psi_pairs(helices)
    assert len(phi_psi) == 18 + 24 - 2 - 3
    np.testing.assert_allclose(phi_psi, np.tile([-57.0, -47.0], (len(phi_psi), 1)), atol=0.1)
    pseudo = dihedrals.true_pseudo_pairs(helices)
    assert len(pseudo) == 16 + 1 + 14  # stretches of 20, 5 and 18 residues
    np.testing.assert_allclose(pseudo[:, 0], pseudo[:, 1], atol=0.1)
    assert 45 < pseudo.mean() < 55


def test_predicted_pairs_are_counted_where_the_truth_is_known_and_repeat_for_a_seed(helices):
    torch.manual_seed(0)
    module = instantiate_model("v14_small.yaml").eval()
    sampler = replace(module.sampler, steps=2)
    settings = {"seed": 3, "batch_size": 2}
    phi_psi = dihedrals.predicted_phi_psi_pairs(module, helices, sampler, t=100, **settings)
    assert {len(pairs) for pairs in phi_psi.values()} == {len(dihedrals.true_phi_psi_pairs(helices))}
    assert set(phi_psi) == {dihedrals.SAMPLES, dihedrals.ONE_STEP}
    pseudo = dihedrals.predicted_pseudo_pairs(module, helices, sampler, t=100, **settings)
    assert {len(pairs) for pairs in pseudo.values()} == {len(dihedrals.true_pseudo_pairs(helices))}
    again = dihedrals.predicted_phi_psi_pairs(module, helices, sampler, t=100, **settings)
    np.testing.assert_array_equal(phi_psi[dihedrals.SAMPLES], again[dihedrals.SAMPLES])


def test_a_model_of_calpha_alone_has_no_phi_and_psi(helices):
    module = instantiate_model("v13_small.yaml").eval()
    with pytest.raises(ValueError, match="Cα alone"):
        dihedrals.predicted_phi_psi_pairs(module, helices, module.sampler, t=100, seed=0, batch_size=2)


def test_principal_components_are_those_of_the_covariance_and_are_not_mirrored():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 3)) * [5.0, 2.0, 0.1] + 7
    found = principal_components(vectors)
    spread = np.sort(np.linalg.eigvalsh(np.cov(vectors.T)))[::-1]
    np.testing.assert_allclose(found.explained, spread[:2] / spread.sum())
    np.testing.assert_allclose(found.points.var(0, ddof=1), spread[:2])
    assert np.corrcoef(found.points[:, 0], vectors[:, 0])[0, 1] > 0.99
    with pytest.raises(ValueError, match="2 chains have no map"):
        principal_components(vectors[:2])
