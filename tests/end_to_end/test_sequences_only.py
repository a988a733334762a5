"""Stage 1 on a store that holds chains with coordinates and chains of which only the sequence is known."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minifold_pl.cli.main import main
from minifold_pl.data.records import ChainRecord
from minifold_pl.data.store import ChainStore, write_store
from minifold_pl.data.synthetic import SyntheticConfig, generate


def _without_coordinates(record: ChainRecord) -> ChainRecord:
    return replace(record, coords=np.full_like(record.coords, np.nan), breaks=())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Every other training chain is a labelled sequence, the others are unlabelled structures.

    One validation chain is a sequence, too.
    """
    records = list(generate(SyntheticConfig(n=120, folds=5, min_length=24, max_length=34)))
    training = [i for i, record in enumerate(records) if record.split == "train"]
    for i in training[::2]:
        records[i] = _without_coordinates(records[i])
    for i in training[1::2]:
        records[i] = replace(records[i], cath=())
    first = next(i for i, record in enumerate(records) if record.split == "validation")
    records[first] = _without_coordinates(records[first])
    path = tmp_path_factory.mktemp("data") / "mixed"
    write_store(path, records)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, mixed: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "contact"
    fit = ["fit", "--config", "contact_small.yaml", "--data.path", str(mixed), "--run.dir", str(folder)]
    fit += ["--data.batch_size", "8", "--run.wandb", "disabled", "--trainer.max_epochs", "3"]
    fit += [
        "--model.init_args.optimizer.lr",
        "2e-3",
        "--model.init_args.schedule.init_args.warmup_epochs",
        "1",
    ]
    assert main(fit) == 0
    return folder


def test_class_and_architecture_are_learned_from_sequences_and_contacts_from_structures(run: Path) -> None:
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    means = [row for row in rows if row.get("train/class_accuracy")]
    assert len(means) == 3
    # Only chains without coordinates have a label here.
    assert float(means[-1]["train/class_accuracy"]) > 0.9
    for term in ("class", "architecture", "contact"):
        values = [float(row[f"loss/{term}"]) for row in rows if row.get(f"loss/{term}")]
        assert np.isfinite(values).all()
        assert values[-1] < 0.6 * values[0]


def test_a_chain_without_coordinates_has_a_class_score_and_no_contact_score(
    run: Path, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "evaluation"
    evaluate = ["evaluate", "--ckpt", str(run / "checkpoints" / "best.ckpt"), "--data", str(mixed)]
    assert main([*evaluate, "--split", "validation", "--out", str(out)]) == 0
    store = ChainStore.open(mixed)
    chains = store.indices("validation")
    scores = json.loads((out / "summary.json").read_text())["rows"]["model"]
    assert scores["class_accuracy"]["n"] == len(chains)
    assert scores["contact_recall"]["n"] == int(store.has_coords[chains].sum()) == len(chains) - 1


def test_the_second_stage_refuses_a_store_of_sequences_with_the_reason(
    run: Path, mixed: Path, tmp_path: Path, capsys
) -> None:
    store = ChainStore.open(mixed)
    write_store(tmp_path / "sequences", [_without_coordinates(store[i]) for i in range(len(store))])
    fit = [
        "fit",
        "--config",
        "v13_small.yaml",
        "--data.path",
        str(tmp_path / "sequences"),
        "--run.wandb",
        "disabled",
    ]
    fit += [
        "--model.init_args.encoder_ckpt",
        str(run / "checkpoints" / "best.ckpt"),
        "--run.dir",
        str(tmp_path / "v13"),
    ]
    assert main(fit) != 0
    told = " ".join(capsys.readouterr().err.split())
    assert "has the Cα coordinates that the model needs: 84 have no coordinates" in told
