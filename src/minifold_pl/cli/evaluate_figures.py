"""What an evaluation keeps for its figures: dihedrals, embeddings, a few contact maps, and the numbers in them."""

from __future__ import annotations

from copy import copy
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from torch import Tensor

from minifold_pl.cli.generation import out_of_memory_told
from minifold_pl.constants import CATH_CLASSES, NO_LABEL
from minifold_pl.data.dataset import ChainDataset
from minifold_pl.diagnostics.contact_maps import one_of_each_class, predicted_maps
from minifold_pl.diagnostics.dihedrals import ONE_STEP, SAMPLES, TRUTH, finite_pairs, pseudo_pairs
from minifold_pl.diagnostics.embeddings import pooled_embeddings, principal_components
from minifold_pl.metrics.ramachandran import phi_psi_pairs
from minifold_pl.modules.one_step import OneStep
from minifold_pl.nn.contact_classifier import ContactClassifier
from minifold_pl.plots.contacts import contact_counts
from minifold_pl.plots.embedding import Labelling
from minifold_pl.plots.ramachandran import PHI_PSI, PSEUDO, DihedralSet, dihedral_numbers
from minifold_pl.results.figure_data import (
    ARCHITECTURE,
    CLASS,
    CONTACTS,
    DIHEDRALS,
    EMBEDDING,
    dihedral_summary,
)
from minifold_pl.types import ProteinBatch

MAPS: Final = 3
"""Chains whose contact maps are kept."""
ONE_STEP_TIME: Final = 75
"""Of 1000, one of the dashboard's: nearly clean, so that what is wrong in a guess is the model's local geometry."""
_FEWEST: Final = 3
"""Chains of which embeddings have a map."""

Arrays = dict[str, np.ndarray]


class DihedralsOfSamples:
    """Collects the dihedrals of truth, samples and one-step guesses, batch by batch.

    Args:
        timesteps: Of the model's schedule.
        sampler: Its name.
        drawn: How samples were drawn, for the figure.
    """

    def __init__(self, timesteps: int, sampler: str, drawn: str) -> None:
        self._sampler = sampler
        self._wanted = ONE_STEP_TIME * timesteps / 1000
        self._time = 0
        self._drawn = drawn
        self._pairs: dict[str, dict[str, list[np.ndarray]]] = {PSEUDO: {}, PHI_PSI: {}}
        self._chains = 0

    def add_samples(
        self,
        batch: ProteinBatch,
        samples: Float[Tensor, "s b l 3"],
        backbones: Float[Tensor, "s b l 4 3"] | None,
    ) -> None:
        """Truth and samples of one batch, counted where the truth was observed."""
        self._chains += len(batch)
        mask = batch.ca_mask
        self._add(PSEUDO, TRUTH, pseudo_pairs(batch.ca, mask, batch.bonded))
        for ca in samples:
            self._add(PSEUDO, SAMPLES, pseudo_pairs(ca, mask, batch.bonded))
        if backbones is not None:
            known = batch.atom_mask & batch.residue_mask[..., None]
            self._add(PHI_PSI, TRUTH, phi_psi_pairs(batch.coords, known, batch.bonded))
            for backbone in backbones:
                self._add(PHI_PSI, SAMPLES, phi_psi_pairs(backbone, known, batch.bonded))

    def add_one_step(self, batch: ProteinBatch, step: OneStep) -> None:
        """The guess from the timestep that is nearest to :data:`ONE_STEP_TIME`."""
        place = min(range(len(step.times)), key=lambda k: abs(step.times[k] - self._wanted))
        self._time = step.times[place]
        self._add(PSEUDO, ONE_STEP, pseudo_pairs(step.x0[place].float().cpu(), batch.ca_mask, batch.bonded))
        if step.atoms is not None:
            known = batch.atom_mask & batch.residue_mask[..., None]
            self._add(PHI_PSI, ONE_STEP, phi_psi_pairs(step.atoms[place].float().cpu(), known, batch.bonded))

    def results(self) -> tuple[dict[str, Any], Arrays]:
        """Numbers for the summary, and the dihedrals; a kind without any pair is left out."""
        told: dict[str, Any] = {}
        arrays: Arrays = {}
        for kind, parts in self._pairs.items():
            sets = [
                DihedralSet(name=self._name(name), angles=np.concatenate(pairs), told=self._about(name))
                for name, pairs in parts.items()
            ]
            if not sets or not all(len(one.angles) for one in sets):
                continue
            told[kind] = dihedral_summary(sets, dihedral_numbers(sets, kind))
            arrays |= {f"{DIHEDRALS}/{kind}/{one.name}": one.angles for one in sets}
        return ({DIHEDRALS: told} if told else {}), arrays

    def _add(self, kind: str, name: str, pairs: np.ndarray) -> None:
        self._pairs[kind].setdefault(name, []).append(finite_pairs(pairs))

    def _name(self, name: str) -> str:
        return {SAMPLES: f"{self._sampler} samples", ONE_STEP: f"one step from t = {self._time}"}.get(
            name, name
        )

    def _about(self, name: str) -> str:
        return {TRUTH: f"{self._chains} chains", SAMPLES: self._drawn}.get(name, "")


def encoder_results(
    module: Any, dataset: ChainDataset, *, batch_size: int, seed: int
) -> tuple[dict[str, Any], Arrays]:
    """Embeddings of every chain and contact maps of a few, of a model whose encoder has them; numbers and arrays."""
    if not isinstance(getattr(module, "encoder", None), ContactClassifier):
        return {}, {}
    told: dict[str, Any] = {}
    arrays: Arrays = {}
    with out_of_memory_told():
        if len(dataset) >= _FEWEST:
            try:
                found = pooled_embeddings(module, dataset, batch_size=batch_size)
            except ValueError as error:  # broken weights: the scores, which are dear, tell of them, too
                return {"figures_left_out": str(error)}, {}
            labels = {CLASS: found.classes, ARCHITECTURE: found.architectures}
            told[EMBEDDING] = {
                "chains": len(found.names),
                "silhouette": {
                    name: Labelling.of(name, given, found.vectors).silhouette
                    for name, given in labels.items()
                },
                "explained": list(principal_components(found.vectors).explained),
            }
            arrays |= {f"{EMBEDDING}/vectors": found.vectors, f"{EMBEDDING}/names": np.array(found.names)}
            arrays |= {
                f"{EMBEDDING}/{name}": np.array([label or "" for label in given])
                for name, given in labels.items()
            }
        known = copy(dataset)
        known.indices = dataset.indices[dataset.store.has_coords[dataset.indices]]
        maps = predicted_maps(module, known, one_of_each_class(known, MAPS, seed)) if len(known) else []
    told[CONTACTS] = {
        one.name: {
            "told": class_name(one.cath_class),
            "scores": one.scores,
            "counts": contact_counts(one.contact, one.probability, one.observed),
        }
        for one in maps
    }
    for place, one in enumerate(maps):
        parts = asdict(one)
        arrays |= {
            f"{CONTACTS}/{place}/{name}": parts[name] for name in ("contact", "probability", "observed")
        }
    return told, arrays


def class_name(label: int) -> str:
    """Of a CATH class."""
    return "CATH class unknown" if label == NO_LABEL else CATH_CLASSES[label]
