"""ESM-2 in the encoder's place, with a tiny model of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.constants import MASK
from minifold_pl.data.tokenizer import encode, null_tokens
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.language_model import LanguageModelEncoder
from minifold_pl.modules.sampling import SamplerConfig

transformers = pytest.importorskip("transformers")

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


def _encoder(folder: Path, cache: Path | None = None) -> LanguageModelEncoder:
    torch.manual_seed(0)
    return LanguageModelEncoder(
        str(folder), None if cache is None else str(cache), d=16, d_pair=8, pair_heads=2
    )


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
    monkeypatch.setattr(second, "_language_model", lambda device: pytest.fail("not read from the cache"))
    assert torch.equal(second.embeddings(batch.tokens), expected)
    masked = batch.tokens.clone()
    masked[:, 3] = MASK
    assert not torch.equal(first.embeddings(masked), expected)
    first.embeddings(null_tokens(batch.tokens))
    assert len(list(cache.rglob("*.npy"))) == len(files)
    assert np.load(files[0]).dtype == np.float16
    assert not list(cache.rglob(".*"))


@pytest.mark.parametrize(
    ("change", "told"), [("config", "no config.json"), ("type", "of type 'bert'"), ("vocab", "no vocab.txt"),
                         ("letters", "lacks <mask>")]
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
    else:
        (folder / "vocab.txt").write_text("\n".join(VOCABULARY[:-1]))
    with pytest.raises(ValueError, match=told):
        _encoder(folder)


def test_a_model_with_it_trains_a_step_and_samples(folder: Path, tmp_path: Path, batch) -> None:
    path = tmp_path / "plm.yaml"
    path.write_text(
        f"""base: v15_small.yaml
model:
  init_args:
    encoder:
      class_path: minifold_pl.modules.language_model.LanguageModelEncoder
      init_args: {{folder: {folder}, d: 64, d_pair: 32}}
"""
    )
    module = instantiate_model(str(path))
    assert isinstance(module, DiffusionModule)
    total, terms = module.losses(batch)
    total.backward()
    assert {"x0", "distogram", "contacts"} <= terms.keys()
    reached = [p.grad is not None for n, p in module.encoder.named_parameters() if n.startswith("single")]
    assert all(reached)
    sampled = module.eval().sample(batch, SamplerConfig(steps=2), seed=0, keys=batch.names)
    assert sampled.x0.isfinite().all()
