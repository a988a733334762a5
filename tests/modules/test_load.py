"""Modules from checkpoints, without code from them."""

from __future__ import annotations

import copy

import pytest
import torch

from minifold_pl.modules.base import CHECKPOINT_KEY
from minifold_pl.modules.load import load_module


def test_a_module_comes_back_with_its_weights_and_labels(contact_checkpoint, saved) -> None:
    checkpoint = copy.deepcopy(contact_checkpoint)
    checkpoint[CHECKPOINT_KEY]["architectures"] = ["1.10", "2.60"]
    module = load_module(saved(checkpoint), "contact")
    assert module.architecture_labels == ("1.10", "2.60")
    assert not module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][name])


def test_raw_weights_are_taken_when_asked_for_and_refused_when_absent(contact_checkpoint, saved) -> None:
    path = saved(contact_checkpoint)
    with pytest.raises(ValueError, match="without EMA"):
        load_module(path, weights="raw")
    raw = {k: v + 1 for k, v in contact_checkpoint["state_dict"].items()}
    path = saved({**contact_checkpoint, "current_model_state": raw})
    name = next(iter(raw))
    assert torch.equal(load_module(path, weights="raw").state_dict()[name], raw[name])
    assert torch.equal(load_module(path).state_dict()[name], contact_checkpoint["state_dict"][name])


def test_the_other_stage_is_refused_in_one_line(contact_checkpoint, diffusion_checkpoint, saved) -> None:
    with pytest.raises(ValueError, match="is a contact checkpoint where a diffusion checkpoint is needed"):
        load_module(saved(contact_checkpoint), "diffusion")
    with pytest.raises(ValueError, match="is a diffusion checkpoint where a contact checkpoint is needed"):
        load_module(saved(diffusion_checkpoint), "contact")


def test_a_checkpoint_of_another_program_is_refused(saved) -> None:
    with pytest.raises(ValueError, match="not written by minifold-pl"):
        load_module(saved({"state_dict": {}, "global_step": 0}))


def test_a_newer_format_is_refused(contact_checkpoint, saved) -> None:
    checkpoint = copy.deepcopy(contact_checkpoint)
    checkpoint[CHECKPOINT_KEY]["format"] = 99
    with pytest.raises(ValueError, match=r"format 99.*update minifold-pl"):
        load_module(saved(checkpoint))


def test_a_config_that_names_a_class_elsewhere_is_refused_before_it_is_imported(
    contact_checkpoint, saved
) -> None:
    checkpoint = copy.deepcopy(contact_checkpoint)
    checkpoint[CHECKPOINT_KEY]["model_config"]["init_args"]["encoder"]["class_path"] = "antigravity.Encoder"
    with pytest.raises(ValueError, match=r"outside minifold_pl.*antigravity"):
        load_module(saved(checkpoint))
