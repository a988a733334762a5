"""The first stage's encoder inside the second stage."""

from __future__ import annotations

import copy

import pytest
import torch

from minifold_pl.checkpoint.contents import CheckpointError
from minifold_pl.modules.base import CHECKPOINT_KEY
from minifold_pl.modules.encoder_checkpoint import load_encoder
from minifold_pl.modules.load import build_module


def test_an_encoder_is_taken_over_whole(contact_checkpoint, diffusion_checkpoint, saved) -> None:
    module = build_module(diffusion_checkpoint[CHECKPOINT_KEY]["model_config"])
    load_encoder(module.encoder, saved(contact_checkpoint))
    for name, value in module.encoder.state_dict().items():
        assert torch.equal(value, contact_checkpoint["state_dict"][f"encoder.{name}"])


def test_an_encoder_of_other_sizes_is_refused_and_left_alone(
    diffusion_checkpoint, wide_checkpoint, saved
) -> None:
    module = build_module(diffusion_checkpoint[CHECKPOINT_KEY]["model_config"])
    before = {k: v.clone() for k, v in module.encoder.state_dict().items()}
    with pytest.raises(ValueError, match="differs from this config's in"):
        load_encoder(module.encoder, saved(wide_checkpoint))
    assert all(torch.equal(v, before[k]) for k, v in module.encoder.state_dict().items())


def test_an_encoder_with_windows_takes_one_without_and_says_the_same(
    contact_checkpoint, diffusion_checkpoint, saved
) -> None:
    config = copy.deepcopy(diffusion_checkpoint[CHECKPOINT_KEY]["model_config"])
    plain = build_module(config).eval()
    config["init_args"]["encoder"]["init_args"]["window"] = 5
    module = build_module(config).eval()
    path = saved(contact_checkpoint)
    for each in (plain, module):
        load_encoder(each.encoder, path)
    batch = plain.example_batch(2, 20)
    torch.testing.assert_close(module.encode(batch.tokens).single, plain.encode(batch.tokens).single)
    for name, value in plain.encoder.state_dict().items():
        assert torch.equal(value, module.encoder.state_dict()[name])
    assert sum(".window." in name for name in module.encoder.state_dict()) > 0


def test_a_diffusion_checkpoint_is_no_encoder(diffusion_checkpoint, saved) -> None:
    module = build_module(diffusion_checkpoint[CHECKPOINT_KEY]["model_config"])
    with pytest.raises(ValueError, match="contact checkpoint is needed"):
        load_encoder(module.encoder, saved(diffusion_checkpoint))


def test_a_missing_encoder_checkpoint_is_named(diffusion) -> None:
    with pytest.raises((ValueError, CheckpointError), match=r"nowhere\.ckpt"):
        load_encoder(diffusion.encoder, "nowhere.ckpt")


def _begin(module, path):
    module.encoder_ckpt = path
    before = {k: v.clone() for k, v in module.encoder.state_dict().items()}
    module.on_fit_start()
    return any(not torch.equal(v, before[k]) for k, v in module.encoder.state_dict().items())


def test_a_new_fit_takes_the_encoder_and_says_where_it_came_from(
    diffusion, contact_checkpoint, saved
) -> None:
    path = saved(contact_checkpoint)
    assert _begin(diffusion, path)
    assert diffusion.encoder_origin == str(path)
    checkpoint: dict = {}
    diffusion.on_save_checkpoint(checkpoint)
    assert checkpoint[CHECKPOINT_KEY]["encoder_origin"] == str(path)


def test_a_resumed_fit_does_not_need_the_stage_1_checkpoint_any_more(diffusion) -> None:
    checkpoint: dict = {}
    diffusion.on_save_checkpoint(checkpoint)
    diffusion.on_load_checkpoint(checkpoint)
    assert not _begin(diffusion, "gone.ckpt")


def test_a_frozen_encoder_with_random_weights_is_warned_about(diffusion) -> None:
    with pytest.warns(UserWarning, match="frozen at RANDOM weights"):
        _begin(diffusion, None)
