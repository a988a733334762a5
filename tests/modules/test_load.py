"""Modules from checkpoints, without code from them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from minifold_pl.checkpoint.io import save
from minifold_pl.cli.lightning_cli import resolve_config
from minifold_pl.modules.base import CHECKPOINT_KEY
from minifold_pl.modules.encoder_checkpoint import load_encoder
from minifold_pl.modules.load import build_module, load_module


def _checkpoint(config: str, overrides: tuple[str, ...] = ()) -> dict:
    module = build_module(resolve_config(config, overrides)["model"])
    checkpoint = {"state_dict": module.state_dict(), "global_step": 5, "epoch": 1}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.fixture(scope="module")
def contact_checkpoint() -> dict:
    return _checkpoint("contact_small.yaml")


@pytest.fixture(scope="module")
def diffusion_checkpoint() -> dict:
    return _checkpoint("v13_small.yaml")


def _saved(checkpoint: dict, folder: Path) -> Path:
    path = folder / "some.ckpt"
    save(checkpoint, path)
    return path


def test_a_module_comes_back_with_its_weights_and_labels(contact_checkpoint, tmp_path) -> None:
    checkpoint = copy.deepcopy(contact_checkpoint)
    checkpoint[CHECKPOINT_KEY]["architectures"] = ["1.10", "2.60"]
    module = load_module(_saved(checkpoint, tmp_path), "contact")
    assert module.architecture_labels == ("1.10", "2.60")
    assert not module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][name])


def test_raw_weights_are_taken_when_asked_for_and_refused_when_absent(contact_checkpoint, tmp_path) -> None:
    path = _saved(contact_checkpoint, tmp_path)
    with pytest.raises(ValueError, match="without EMA"):
        load_module(path, weights="raw")
    raw = {k: v + 1 for k, v in contact_checkpoint["state_dict"].items()}
    path = _saved({**contact_checkpoint, "current_model_state": raw}, tmp_path)
    name = next(iter(raw))
    assert torch.equal(load_module(path, weights="raw").state_dict()[name], raw[name])
    assert torch.equal(load_module(path).state_dict()[name], contact_checkpoint["state_dict"][name])


def test_the_other_stage_is_refused_in_one_line(contact_checkpoint, diffusion_checkpoint, tmp_path) -> None:
    with pytest.raises(ValueError, match="is a contact checkpoint where a diffusion checkpoint is needed"):
        load_module(_saved(contact_checkpoint, tmp_path), "diffusion")
    with pytest.raises(ValueError, match="is a diffusion checkpoint where a contact checkpoint is needed"):
        load_module(_saved(diffusion_checkpoint, tmp_path), "contact")


def test_a_checkpoint_of_another_program_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="not written by minifold-pl"):
        load_module(_saved({"state_dict": {}, "global_step": 0}, tmp_path))


def test_a_newer_format_is_refused(contact_checkpoint, tmp_path) -> None:
    checkpoint = copy.deepcopy(contact_checkpoint)
    checkpoint[CHECKPOINT_KEY]["format"] = 99
    with pytest.raises(ValueError, match=r"format 99.*update minifold-pl"):
        load_module(_saved(checkpoint, tmp_path))


def test_a_config_that_names_a_class_elsewhere_is_refused_before_it_is_imported(
    contact_checkpoint, tmp_path
) -> None:
    checkpoint = copy.deepcopy(contact_checkpoint)
    checkpoint[CHECKPOINT_KEY]["model_config"]["init_args"]["encoder"]["class_path"] = "antigravity.Encoder"
    with pytest.raises(ValueError, match=r"outside minifold_pl.*antigravity"):
        load_module(_saved(checkpoint, tmp_path))


def test_an_encoder_is_taken_over_whole(contact_checkpoint, diffusion_checkpoint, tmp_path) -> None:
    module = build_module(diffusion_checkpoint[CHECKPOINT_KEY]["model_config"])
    load_encoder(module.encoder, _saved(contact_checkpoint, tmp_path))
    for name, value in module.encoder.state_dict().items():
        assert torch.equal(value, contact_checkpoint["state_dict"][f"encoder.{name}"])


def test_an_encoder_of_other_sizes_is_refused_and_left_alone(diffusion_checkpoint, tmp_path) -> None:
    wide = _checkpoint("contact_small.yaml", ("--model.init_args.encoder.init_args.d_pair=16",))
    module = build_module(diffusion_checkpoint[CHECKPOINT_KEY]["model_config"])
    before = {k: v.clone() for k, v in module.encoder.state_dict().items()}
    with pytest.raises(ValueError, match="differs from this config's in"):
        load_encoder(module.encoder, _saved(wide, tmp_path))
    assert all(torch.equal(v, before[k]) for k, v in module.encoder.state_dict().items())


def test_a_diffusion_checkpoint_is_no_encoder(diffusion_checkpoint, tmp_path) -> None:
    module = build_module(diffusion_checkpoint[CHECKPOINT_KEY]["model_config"])
    with pytest.raises(ValueError, match="contact checkpoint is needed"):
        load_encoder(module.encoder, _saved(diffusion_checkpoint, tmp_path))
