"""``data embed``: embeddings into a store, before a training needs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers

from minifold_pl.cli.main import main
from minifold_pl.data.datamodule import write_synthetic
from minifold_pl.data.store import ChainStore
from minifold_pl.data.synthetic import SyntheticConfig

# ESM-2's own vocab.txt, in its order (facebook/esm2_t6_8M_UR50D).
VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("esm")
    config = transformers.EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=8, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=8, position_embedding_type="rotary",
        max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


@pytest.fixture(scope="module")
def _stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chains") / "store"
    write_synthetic(path, SyntheticConfig(n=15, folds=5, min_length=24, max_length=40))
    return path


@pytest.fixture
def store(_stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_stored, tmp_path / "store"))


def embed(store: Path, model: Path, *more: str) -> int:
    return main(["data", "embed", str(store), "--model", str(model), "--device", "cpu", *more])


def test_every_sequence_is_embedded_once_and_found_by_the_next_call(store, model, capsys) -> None:
    assert embed(store, model) == 0
    files = list((store / "embeddings").rglob("*.npy"))
    chains = ChainStore.open(store)
    assert len(files) == len({chains.tokens(i).tobytes() for i in range(len(chains))})
    assert f"{len(files)} sequences embedded, 0 there already" in capsys.readouterr().out
    files[0].write_bytes(files[0].read_bytes()[:-1])
    assert embed(store, model) == 0
    told = capsys.readouterr().out
    assert f"1 sequences embedded (1 of them damaged and made again), {len(files) - 1} there already" in told
    assert main(["data", "stats", str(store), "--check", "--leakage", "no"]) == 0


def test_only_the_split_and_the_lengths_that_are_asked_for(store, model, capsys) -> None:
    chains = ChainStore.open(store)
    train = chains.indices("train")
    long = int((chains.lengths[train] > 30).sum())
    assert long
    assert embed(store, model, "--split", "train", "--max-length", "30") == 0
    assert f"{long} chains longer than 30 left out" in capsys.readouterr().out
    assert len(list((store / "embeddings").rglob("*.npy"))) <= len(train) - long


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (["--split", "tarin"], 1, "tarin"),
        (["--max-length", "0"], 2, "--max-length 0"),
        (["--device", "abacus"], 2, "abacus"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(store, model, capsys, more, code, told) -> None:
    assert embed(store, model, *more) == code
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_a_folder_without_a_model_is_told(store, tmp_path, capsys) -> None:
    assert embed(store, tmp_path) == 1
    assert "no config.json" in capsys.readouterr().err


def test_a_store_that_cannot_be_written_is_told(store, model, capsys) -> None:
    (store / "embeddings").write_text("in the way")
    assert embed(store, model) == 1
    error = capsys.readouterr().err
    assert "embeddings" in error and "Traceback" not in error
