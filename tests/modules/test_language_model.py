"""ESM-2 in the encoder's place, with a tiny model of random weights."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import transformers

from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.constants import MASK
from minifold_pl.data.datamodule import ProteinDataModule, write_synthetic
from minifold_pl.data.store import ChainStore
from minifold_pl.data.synthetic import SyntheticConfig
from minifold_pl.data.tokenizer import encode, null_tokens
from minifold_pl.modules import language_model
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.embedding_cache import key_of
from minifold_pl.modules.language_model import LanguageModelEncoder, with_ends
from minifold_pl.modules.sampling import SamplerConfig

# ESM-2's own vocab.txt, in its order (facebook/esm2_t6_8M_UR50D).
VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]


def _save(folder: Path, seed: int) -> Path:
    config = transformers.EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, position_embedding_type="rotary", token_dropout=True,
        max_position_embeddings=1026, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(seed)
    transformers.EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("esm"), 0)


def _encoder(folder: Path, cache: Path | str | None = None) -> LanguageModelEncoder:
    torch.manual_seed(0)
    return LanguageModelEncoder(
        str(folder), None if cache is None else str(cache), d=16, d_pair=8, pair_heads=2
    )


@pytest.fixture(scope="module")
def _stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chains") / "store"
    write_synthetic(path, SyntheticConfig(n=15, folds=5, min_length=24, max_length=32))
    return path


@pytest.fixture
def store(_stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_stored, tmp_path / "store"))


def _of_store(store: Path) -> torch.Tensor:
    tokens = [
        torch.from_numpy(with_ends(ChainStore.open(store).tokens(i)).astype(np.int64)) for i in range(15)
    ]
    return torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)


def test_it_sees_what_the_language_model_says_of_the_same_letters(folder: Path, batch) -> None:
    model = transformers.EsmModel.from_pretrained(folder, add_pooling_layer=False).eval()
    sequence = "MKTAYIAKQR"
    ids = torch.tensor([[0, *(VOCABULARY.index(letter) for letter in sequence), 2]])
    with torch.no_grad():
        expected = model(input_ids=ids).last_hidden_state[0, 1:-1]
    found = _encoder(folder).embeddings(torch.from_numpy(encode(sequence))[None])[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)  # rounded to float16


def test_its_features_have_the_shapes_of_an_encoder_and_know_no_padding(folder: Path, batch) -> None:
    encoder = _encoder(folder)
    features = encoder.encode(batch.tokens)
    b, n = batch.residue_mask.shape
    assert features.single.shape == (b, n, 16) and features.pair.shape == (b, n, n, 8)
    assert features.pooled.shape == (b, 16)
    assert not features.single[~batch.residue_mask].any()
    logits = encoder.contact_logits(features)
    torch.testing.assert_close(logits, logits.mT)
    length = int(batch.lengths[2])
    alone = encoder.encode(batch.tokens[2:3, : length + 2])
    torch.testing.assert_close(features.single[2, :length], alone.single[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(features.pair[2, :length, :length], alone.pair[0], rtol=0, atol=1e-4)


def test_the_language_model_is_no_part_of_the_checkpoint_and_does_not_learn(folder: Path, batch) -> None:
    encoder = _encoder(folder)
    features = encoder.encode(batch.tokens)
    features.single.square().sum().backward()
    parts = {name.split(".")[0] for name in encoder.state_dict()}
    assert parts == {"single", "norm_single", "relative_position", "contact_block", "norm_pair", "pool", "contacts",
                     "fingerprint"}  # fmt: skip
    assert encoder.single[1].weight.grad.any()
    assert int(encoder.fingerprint) != 0


def test_another_language_model_than_it_was_trained_on_is_refused(
    folder: Path, tmp_path: Path, batch
) -> None:
    trained = _encoder(folder)
    trained.encode(batch.tokens)
    again, other = _encoder(folder), _encoder(_save(tmp_path / "other", 1))
    again.load_state_dict(trained.state_dict())
    torch.testing.assert_close(again.encode(batch.tokens).single, trained.encode(batch.tokens).single)
    other.load_state_dict(trained.state_dict())
    with pytest.raises(ValueError, match="other weights"):
        other.encode(batch.tokens)


def test_embeddings_are_read_from_the_cache_to_the_last_bit_and_masks_are_not_kept(
    folder: Path, tmp_path: Path, batch, monkeypatch
) -> None:
    cache = tmp_path / "cache"
    first = _encoder(folder, cache)
    expected = first.embeddings(batch.tokens)
    files = list(cache.rglob("*.npy"))
    assert len(files) == len(batch)
    assert torch.equal(expected, _encoder(folder).embeddings(batch.tokens))
    second = _encoder(folder, cache)
    second.load_state_dict(first.state_dict())
    monkeypatch.setattr(language_model, "_read_model", lambda folder: pytest.fail("not read from the cache"))
    assert torch.equal(second.embeddings(batch.tokens), expected)
    masked = batch.tokens.clone()
    masked[:, 3] = MASK
    monkeypatch.undo()
    assert not torch.equal(first.embeddings(masked), expected)
    first.embeddings(null_tokens(batch.tokens))
    assert len(list(cache.rglob("*.npy"))) == len(files)
    assert np.load(files[0]).dtype == np.float16
    assert not list(cache.rglob(".*"))


def test_embeddings_of_a_stores_chains_are_kept_in_it_and_those_of_crops_are_not(
    folder: Path, store: Path, monkeypatch
) -> None:
    tokens = _of_store(store)
    first = _encoder(folder, "store")
    first.embeddings(tokens)  # nobody has said which store: nothing is kept
    assert not (store / "embeddings").exists()
    first.use_store(store)
    expected = first.embeddings(tokens)
    files = sorted((store / "embeddings").rglob("*.npy"))
    distinct = {key_of(row[row != 0].numpy()) for row in tokens}
    assert [file.stem for file in files] == sorted(distinct)
    assert files[0].parent.parent.name == f"{int(first.fingerprint):016x}"
    crop = torch.cat([tokens[:1, :10], tokens.new_tensor([[3]])], dim=1)
    first.embeddings(crop)
    assert len(list((store / "embeddings").rglob("*.npy"))) == len(files)
    second = _encoder(folder, "store")
    second.load_state_dict(first.state_dict())
    second.use_store(store)
    monkeypatch.setattr(language_model, "_read_model", lambda folder: pytest.fail("not read from the store"))
    assert torch.equal(second.embeddings(tokens), expected)


def test_a_store_with_embeddings_is_as_sound_as_before_and_hands_them_on_when_it_is_replaced(
    folder: Path, store: Path
) -> None:
    encoder = _encoder(folder, "store")
    encoder.use_store(store)
    encoder.embeddings(_of_store(store))
    before = sorted(path.relative_to(store) for path in (store / "embeddings").rglob("*.npy"))
    ChainStore.open(store).verify()
    write_synthetic(store, SyntheticConfig(n=16, folds=5, min_length=24, max_length=32), overwrite=True)
    assert len(ChainStore.open(store)) == 16
    assert sorted(path.relative_to(store) for path in (store / "embeddings").rglob("*.npy")) == before
    assert [path.name for path in store.parent.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_embedding_is_made_again(folder: Path, store: Path) -> None:
    tokens = _of_store(store)
    encoder = _encoder(folder, "store")
    encoder.use_store(store)
    expected = encoder.embeddings(tokens)
    files = sorted((store / "embeddings").rglob("*.npy"))
    sound = [file.read_bytes() for file in files]
    files[0].write_bytes(sound[0][:-30])  # cut
    files[1].write_bytes(b"")
    flipped = bytearray(sound[2])
    flipped[200] ^= 1
    files[2].write_bytes(flipped)
    files[3].write_bytes(sound[0])  # another's, whole
    with pytest.warns(UserWarning, match="is damaged .* made again"):
        assert torch.equal(encoder.embeddings(tokens), expected)
    assert [file.read_bytes() for file in files] == sound


def test_a_store_that_cannot_be_written_is_told_once_and_read_all_the_same(
    folder: Path, store: Path, monkeypatch
) -> None:
    encoder = _encoder(folder, "store")
    encoder.use_store(store)

    def refuse(*args: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("minifold_pl.modules.embedding_cache.atomic_write", refuse)
    with pytest.warns(UserWarning, match="not kept from here on.*Read-only") as told:
        found = encoder.embeddings(_of_store(store))
    assert len([warning for warning in told if "not kept" in str(warning.message)]) == 1
    assert torch.equal(found, _encoder(folder).embeddings(_of_store(store)))


def test_copies_share_the_language_model(folder: Path, batch) -> None:
    encoder = _encoder(folder)
    encoder.embeddings(batch.tokens)
    assert copy.deepcopy(encoder).language_model._model is encoder.language_model._model


def test_a_training_tells_the_encoder_its_store(folder: Path, store: Path) -> None:
    module = instantiate_model(str(_config(folder, store.parent)))
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=ProteinDataModule(str(store), batch_size=2, limit_train=2))
    assert list((store / "embeddings").rglob("*.npy"))


@pytest.mark.parametrize(
    ("change", "told"), [("config", "no config.json"), ("type", "of type 'bert'"), ("vocab", "no vocab.txt"),
                         ("letters", "lacks <mask>"), ("[1]", "of type None"), ("{", "config.json is no JSON"),
                         ('{"model_type": "esm"}', "no hidden_size")]
)  # fmt: skip
def test_a_folder_that_holds_something_else_is_refused_with_the_reason(
    change: str, told: str, tmp_path: Path
) -> None:
    folder = _save(tmp_path, 0)
    if change == "config":
        (folder / "config.json").unlink()
    elif change == "type":
        (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    elif change == "vocab":
        (folder / "vocab.txt").unlink()
    elif change == "letters":
        (folder / "vocab.txt").write_text("\n".join(VOCABULARY[:-1]))
    else:
        (folder / "config.json").write_text(change)
    with pytest.raises(ValueError, match=told):
        _encoder(folder)


def _config(folder: Path, where: Path) -> Path:
    path = where / "plm.yaml"
    path.write_text(
        f"""base: v15_small.yaml
model:
  init_args:
    encoder:
      class_path: minifold_pl.modules.language_model.LanguageModelEncoder
      init_args: {{folder: {folder}, d: 64, d_pair: 32}}
"""
    )
    return path


def test_a_model_with_it_trains_a_step_and_samples(folder: Path, tmp_path: Path, batch) -> None:
    module = instantiate_model(str(_config(folder, tmp_path)))
    assert isinstance(module, DiffusionModule)
    total, terms = module.losses(batch)
    total.backward()
    assert {"x0", "distogram", "contacts"} <= terms.keys()
    reached = [p.grad is not None for n, p in module.encoder.named_parameters() if n.startswith("single")]
    assert all(reached)
    sampled = module.eval().sample(batch, SamplerConfig(steps=2), seed=0, keys=batch.names)
    assert sampled.x0.isfinite().all()
