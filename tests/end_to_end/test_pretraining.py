"""From a table of sequences to an encoder that a second stage begins with."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from minifold_pl.checkpoint.contents import read_checkpoint
from minifold_pl.cli.main import main
from minifold_pl.data.store import ChainStore


@pytest.fixture(scope="module")
def sequences(tmp_path_factory, store: Path) -> Path:
    """The sequences of the store's chains as a table, all of them for training but a few, without their relatives."""
    folder = tmp_path_factory.mktemp("sequences")
    chains = ChainStore.open(store)
    lines = ["name\tsplit\tCATH\tseq"]
    for k, chain in enumerate(chains):
        split = "validation" if k % 10 == 0 else "train"
        lines.append(f"s{k}\t{split}\t{chain.cath[0] if chain.cath else '-'}\t{chain.sequence}")
    (folder / "table.tsv").write_text("\n".join(lines) + "\n")
    command = [
        "data",
        "prepare",
        str(folder / "table.tsv"),
        "--out",
        str(folder / "out"),
        "--exclude",
        str(store),
    ]
    assert main([*command, "--exclude-topology", "none", "--processes", "1"]) == 0
    return folder / "out"


def test_no_training_sequence_is_that_of_a_held_out_chain(sequences: Path, store: Path) -> None:
    structures, table = ChainStore.open(store), ChainStore.open(sequences)
    held_out = {structures[i].sequence for i in range(len(structures)) if structures.splits[i] != "train"}
    trained = {table[i].sequence for i in table.indices("train").tolist()}
    assert trained
    assert not trained & held_out


def test_a_second_stage_begins_with_its_encoder(
    sequences: Path, store: Path, training: list[str], tmp_path: Path
) -> None:
    pre, run = tmp_path / "pre", tmp_path / "run"
    fit = ["fit", "--config", "pretrain_small.yaml", "--data.path", str(sequences), "--run.dir", str(pre)]
    assert main([*fit, *training, "--trainer.max_epochs", "2"]) == 0
    with (pre / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = {name for row in rows for name, cell in row.items() if cell}
    assert {
        "loss/topology",
        "loss/hidden_residues",
        "val/total",
        "val/class_accuracy",
        "val/residue_accuracy",
    } <= names
    assert not any("contact" in name for name in names)
    best = pre / "checkpoints" / "best.ckpt"
    fit = ["fit", "--config", "v15_small.yaml", "--data.path", str(store), "--run.dir", str(run), *training]
    fit += ["--trainer.max_steps", "1", "--model.init_args.encoder_ckpt", str(best)]
    assert (
        main([*fit, "--model.init_args.freeze_encoder", "true", "--model.init_args.trunk_losses", "null"])
        == 0
    )
    trained, begun = (
        read_checkpoint(best)["state_dict"],
        next(iter((run / "checkpoints").glob("resume-*.ckpt"))),
    )
    found = read_checkpoint(begun)["state_dict"]
    encoder = [name for name in trained if name.startswith("encoder.")]
    assert all(torch.equal(found[name], trained[name]) for name in encoder)
