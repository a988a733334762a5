"""Stage 1 on sequences without coordinates: its losses, its labels, and what the second stage takes from it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minifold_pl.checkpoint.io import save
from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.constants import MASK, NO_LABEL
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store import ChainStore, write_store
from minifold_pl.diagnostics.overfit import OverfitConfig, overfit
from minifold_pl.modules.encoder_checkpoint import load_encoder
from minifold_pl.modules.sequence_pretraining import PretrainingWeights, SequencePretraining
from minifold_pl.types import ProteinBatch

LETTERS = list("ACDEFGHIKLMNPQRSTVWY")


@pytest.fixture(scope="module")
def _fresh() -> SequencePretraining:
    torch.manual_seed(0)
    return instantiate_model("pretrain_small.yaml", ["--model.init_args.encoder.init_args.dropout=0"])


@pytest.fixture
def module(_fresh) -> SequencePretraining:
    return copy.deepcopy(_fresh)


@pytest.fixture
def sequences(batch: ProteinBatch) -> ProteinBatch:
    """The batch, without coordinates."""
    return replace(
        batch,
        coords=torch.zeros_like(batch.coords),
        atom_mask=torch.zeros_like(batch.atom_mask),
        cath_architecture=torch.tensor([0, 1, NO_LABEL]),
    )


@pytest.fixture
def store(tmp_path: Path) -> ChainStore:
    """Sequences of three topologies, one of which only the validation split has."""
    draw = np.random.default_rng(0)
    of = [("a", "train", ("3.40.50.1",)), ("b", "train", ("1.10.8",)), ("c", "train", ("1.10.8", "3.40.50")),
          ("d", "validation", ("2.60.40",)), ("e", "validation", ("1.10.8.20",)), ("f", "train", ())]  # fmt: skip
    records = [
        ChainRecord(
            name=name, sequence="".join(draw.choice(LETTERS, 20)), cath=codes, split=split,
            coords=np.full((20, 4, 3), np.nan, dtype=np.float32),
        )
        for name, split, codes in of
    ]  # fmt: skip
    write_store(tmp_path / "store", records)
    return ChainStore.open(tmp_path / "store")


def with_store(module: SequencePretraining, store: ChainStore) -> SequencePretraining:
    data = SimpleNamespace(store=store, path=store.path, architectures=store.architectures)
    module._trainer = SimpleNamespace(datamodule=data, world_size=1)
    module.setup("fit")
    return module


def test_the_total_is_the_weighted_sum_of_what_has_a_weight(module, sequences) -> None:
    total, terms = module.losses(sequences)
    assert terms.keys() == {"class", "architecture", "topology", "hidden_residues"}
    torch.testing.assert_close(total, sum(terms.values()))
    assert terms["topology"] == 0  # no chain has a label
    # Unlearned: about as good as chance.
    assert float(terms["hidden_residues"].detach()) == pytest.approx(np.log(20), rel=0.01)


def test_pair_features_are_neither_computed_nor_taught_without_a_contact_loss(
    module, sequences, monkeypatch
) -> None:
    monkeypatch.setattr(
        type(module.encoder.encoder.contact_blocks[0]), "forward", lambda *args: pytest.fail("was computed")
    )
    total, _ = module.losses(sequences)
    total.backward()
    without = {name for name, p in module.named_parameters() if p.grad is None}
    assert without
    assert all(not p.requires_grad for name, p in module.named_parameters() if name in without)
    assert all("contact" in name or "relative_position" in name or "norm_pair" in name for name in without)


def test_single_features_are_those_of_the_whole_encoder(module, sequences) -> None:
    single, pooled = module.encoder.encoder.singles(sequences.tokens)
    features = module.encoder.encode(sequences.tokens)
    assert torch.equal(single, features.single)
    assert torch.equal(pooled, features.pooled)


def test_with_a_weight_contacts_are_taught_by_the_chains_that_have_coordinates(batch, sequences) -> None:
    module = instantiate_model("pretrain_small.yaml", ["--model.init_args.weights.contact=1"])
    assert module.losses(sequences)[1]["contact"] == 0
    total, terms = module.losses(batch)
    assert terms["contact"] > 0
    total.backward()
    assert module.encoder.contacts.weight.grad.any()


def test_hidden_residues_are_drawn_anew_in_each_epoch_and_not_for_another_batch(module, sequences) -> None:
    one, again, other = (module._hide(sequences, "hidden_residues", epoch) for epoch in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.eq(MASK).any()
    assert torch.equal(one[:1], module._hide(sequences[:1], "hidden_residues", 0))


def test_topologies_are_those_of_the_training_split_and_chains_of_two_have_none(module, store) -> None:
    with_store(module, store)
    assert module.topology_labels == ("1.10.8", "3.40.50")
    assert module._topology_of == {"a": 1, "b": 0, "e": 0}


def test_labels_come_back_from_a_checkpoint(module, store) -> None:
    fresh = copy.deepcopy(module)
    checkpoint: dict = {}
    with_store(module, store).on_save_checkpoint(checkpoint)
    fresh.on_load_checkpoint(checkpoint)
    assert fresh.topology_labels == module.topology_labels
    assert fresh.architecture_labels == ("1.10", "3.40")


def test_more_topologies_than_outputs_are_refused_with_the_number_to_set(store) -> None:
    module = instantiate_model("pretrain_small.yaml", ["--model.init_args.topologies=1"])
    with pytest.raises(ValueError, match=r"2 CATH topologies.*init_args\.topologies to at least 2"):
        with_store(module, store)


def test_it_learns_a_few_sequences_by_heart(module, sequences) -> None:
    module._topology_of = {"one": 0, "two": 1, "three": 2}
    before = {name: float(term.detach()) for name, term in module.losses(sequences)[1].items()}
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        module.losses(sequences)[0].backward()
        optimizer.step()
    after = {name: float(term.detach()) for name, term in module.losses(sequences)[1].items()}
    assert all(after[name] < 0.2 * before[name] for name in before)


def test_its_checkpoint_is_an_encoder_for_the_second_stage(module, tmp_path) -> None:
    module.model_config = {"init_args": {"weights": {"contact": 0.0}}}
    checkpoint = {"state_dict": module.state_dict(), "global_step": 1, "epoch": 0}
    module.on_save_checkpoint(checkpoint)
    save(checkpoint, tmp_path / "pre.ckpt")
    second = instantiate_model("v15_small.yaml")
    load_encoder(second.encoder, tmp_path / "pre.ckpt")
    for name, value in module.encoder.state_dict().items():
        assert torch.equal(second.encoder.state_dict()[name], value)
    second.encoder.requires_grad_(False)
    with pytest.warns(UserWarning, match="pair features are RANDOM, and it is frozen"):
        load_encoder(second.encoder, tmp_path / "pre.ckpt")


def test_stage_1_goes_on_from_it_with_structures(module, tmp_path, capsys) -> None:
    checkpoint = {"state_dict": module.state_dict(), "global_step": 1, "epoch": 0}
    module.on_save_checkpoint(checkpoint)
    save(checkpoint, tmp_path / "pre.ckpt")
    stage_1 = instantiate_model("contact_small.yaml")
    stage_1.initialise(tmp_path / "pre.ckpt")
    for name, value in module.encoder.state_dict().items():
        assert torch.equal(stage_1.encoder.state_dict()[name], value)
    assert all(parameter.requires_grad for parameter in stage_1.parameters())


def test_diagnose_overfit_takes_it(module, batch) -> None:
    result = overfit(module, batch, OverfitConfig(seconds=20, steps=2))
    assert {"loss", "class", "architecture"} <= result.points[-1].values.keys()


@pytest.mark.parametrize(
    ("weights", "told"),
    [({"topology": -1.0}, "weights.topology"), ({"cath_class": float("nan")}, "weights.cath_class")],
)
def test_a_weight_that_cannot_be_is_named(weights, told) -> None:
    with pytest.raises(ValueError, match=told):
        PretrainingWeights(**weights)


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ValueError, match="every weight is 0"):
        PretrainingWeights(cath_class=0, architecture=0, topology=0, hidden_residues=0)


def test_a_share_that_cannot_be_is_named() -> None:
    with pytest.raises(Exception, match="hidden_share"):
        instantiate_model("pretrain_small.yaml", ["--model.init_args.hidden_share=1"])
