"""Beginning with another run's weights."""

from __future__ import annotations

import copy
import os
import re
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from minifold_pl.callbacks.ema import EMA
from minifold_pl.checkpoint.contents import CheckpointError, summary, verify
from minifold_pl.checkpoint.io import save
from minifold_pl.modules.base import CHECKPOINT_KEY
from minifold_pl.modules.init_from import InitFrom
from minifold_pl.modules.load import build_module


@pytest.fixture
def with_ema(diffusion_checkpoint) -> dict:
    """A checkpoint whose raw weights are those of the average plus one."""
    raw = {name: value + 1 for name, value in diffusion_checkpoint["state_dict"].items()}
    return {**diffusion_checkpoint, "current_model_state": raw, "averaging_state": {}}


def begin(module, path, **settings):
    """The module as at the start of a fit."""
    module.init_from = InitFrom(ckpt=str(path), **settings)
    module.on_fit_start()
    return module


def parameters(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.named_parameters()}


def untouched(module, before) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.named_parameters())


# --- what comes over -------------------------------------------------------------------------------


def test_every_weight_comes_over_and_the_table_says_so(
    diffusion, diffusion_checkpoint, saved, capsys
) -> None:
    begin(
        diffusion, saved(diffusion_checkpoint), match=("denoiser", "pair_stack", "aux", "rg_head", "encoder")
    )
    for name, value in diffusion.named_parameters():
        assert torch.equal(value, diffusion_checkpoint["state_dict"][name]), name
    told = capsys.readouterr().out
    assert "weights, no EMA, step 5" in told
    assert re.search(r"^denoiser +84 \(409\.41 k\) +– +– +– +–$", told, re.MULTILINE)


@pytest.mark.parametrize(("weights", "key"), [("ema", "state_dict"), ("raw", "current_model_state")])
def test_the_set_of_weights_that_was_asked_for_is_taken(
    diffusion, with_ema, saved, weights, key, capsys
) -> None:
    begin(diffusion, saved(with_ema), weights=weights)
    name = "denoiser.layers.0.attention.points.weight"
    assert torch.equal(diffusion.get_parameter(name), with_ema[key][name])
    assert diffusion.initialised["weights"] == weights
    assert {"ema": "averaged weights", "raw": "raw weights"}[weights] in capsys.readouterr().out


def test_raw_weights_of_a_checkpoint_without_ema_are_refused_with_what_to_set(
    diffusion, diffusion_checkpoint, saved
) -> None:
    with pytest.raises(
        CheckpointError, match=r"trained without EMA: set model\.init_args\.init_from\.weights to ema"
    ):
        begin(diffusion, saved(diffusion_checkpoint), weights="raw")


def test_what_is_left_fresh_keeps_its_random_weights(diffusion, diffusion_checkpoint, saved, capsys) -> None:
    before = parameters(diffusion)
    begin(
        diffusion, saved(diffusion_checkpoint), fresh=("pair_stack", "denoiser.layers.0"), match=("denoiser",)
    )
    for name, value in diffusion.named_parameters():
        fresh = name.startswith(("pair_stack.", "denoiser.layers.0."))
        assert torch.equal(value, before[name] if fresh else diffusion_checkpoint["state_dict"][name]), name
    assert re.search(r"^pair_stack +– +– +– +– +97 ", capsys.readouterr().out, re.MULTILINE)


def test_other_shapes_are_skipped_and_everything_else_is_taken(diffusion_checkpoint, saved, capsys) -> None:
    config = copy.deepcopy(diffusion_checkpoint[CHECKPOINT_KEY]["model_config"])
    config["init_args"]["denoiser"]["init_args"].update(query_points=6, layers=4)
    module = build_module(config)
    before = parameters(module)
    begin(module, saved(diffusion_checkpoint), match=("aux",))
    fates = module.initialised["tensors"]
    assert (fates["shape"], fates["missing"], fates["unexpected"]) == (6, 25, 0)
    for name, value in module.named_parameters():
        theirs = diffusion_checkpoint["state_dict"].get(name)
        taken = theirs is not None and theirs.shape == value.shape
        assert torch.equal(value, theirs if taken else before[name]), name
    told = capsys.readouterr().out
    assert "denoiser.layers.0.attention.points.weight ([168, 96] there, [216, 96] here)" in told


def test_a_smaller_model_tells_what_it_leaves_behind(diffusion_checkpoint, saved) -> None:
    config = copy.deepcopy(diffusion_checkpoint[CHECKPOINT_KEY]["model_config"])
    config["init_args"]["denoiser"]["init_args"]["layers"] = 2
    module = begin(build_module(config), saved(diffusion_checkpoint))
    assert module.initialised["tensors"]["unexpected"] == 25
    assert all(name.startswith("denoiser.layers.2.") for name in module.initialised["unexpected"])


def test_optimizer_and_schedule_begin_anew(diffusion, diffusion_checkpoint, saved) -> None:
    moments = {"state": {0: {"step": torch.tensor(9.0)}}, "param_groups": []}
    begin(diffusion, saved({**diffusion_checkpoint, "optimizer_states": [moments], "lr_schedulers": [{}]}))
    diffusion._steps_per_epoch = lambda: 1
    made = diffusion.configure_optimizers()
    assert not made["optimizer"].state
    assert made["lr_scheduler"]["scheduler"].last_epoch == 0


def test_averages_begin_with_the_weights_that_were_taken(diffusion, diffusion_checkpoint, saved) -> None:
    """Lightning makes the average before the module reads its weights: without a copy it would hold random ones."""
    ema = EMA(decay=0.999)
    ema.setup(SimpleNamespace(), diffusion, "fit")
    begin(diffusion, saved(diffusion_checkpoint))
    name = "denoiser.layers.0.attention.points.weight"
    averaged = ema._average_model.module.get_parameter(name)
    assert not torch.equal(averaged, diffusion.get_parameter(name))
    ema.on_train_start(SimpleNamespace(), diffusion)
    assert torch.equal(averaged, diffusion.get_parameter(name))


# --- where it came from ----------------------------------------------------------------------------


def test_the_origin_travels_with_the_checkpoints_from_version_to_version(
    diffusion, diffusion_checkpoint, tmp_path
) -> None:
    """The first's weights, then those of a run that began with them, then once more."""
    paths = [tmp_path / f"{k}.ckpt" for k in range(3)]
    save(diffusion_checkpoint, paths[0])
    for k, (before, after) in enumerate(pairwise(paths)):
        begin(diffusion, before)
        checkpoint = {"state_dict": diffusion.state_dict(), "global_step": 10 + k, "epoch": 2}
        diffusion.on_save_checkpoint(checkpoint)
        save(checkpoint, after)
    told = summary(torch.load(paths[2], weights_only=True)).initialised
    assert (told["ckpt"], told["step"]) == (str(paths[1]), 10)
    assert [(entry["ckpt"], entry["step"]) for entry in told["before"]] == [(str(paths[0]), 5)]
    assert told["before"][0]["sha256"] != told["sha256"]


def test_a_resumed_run_does_not_read_it_again_and_remembers(diffusion, diffusion_checkpoint, saved) -> None:
    path = saved(diffusion_checkpoint)
    begin(diffusion, path)
    checkpoint: dict = {}
    diffusion.on_save_checkpoint(checkpoint)
    os.remove(path)
    origin, diffusion.initialised = diffusion.initialised, {}
    before = parameters(diffusion)
    diffusion.on_load_checkpoint(checkpoint)
    begin(diffusion, path)
    assert diffusion.initialised == origin
    assert untouched(diffusion, before)


# --- the encoder -----------------------------------------------------------------------------------


def test_the_frozen_encoder_comes_along_without_a_warning(
    diffusion, diffusion_checkpoint, saved, recwarn
) -> None:
    path = saved(diffusion_checkpoint)
    begin(diffusion, path)
    assert diffusion.encoder_origin == str(path)
    assert not [w for w in recwarn if "RANDOM" in str(w.message)]


def test_a_frozen_encoder_that_came_over_in_part_is_warned_about(
    diffusion, diffusion_checkpoint, saved
) -> None:
    weights = {k: v for k, v in diffusion_checkpoint["state_dict"].items() if k != "encoder.classes.bias"}
    assert len(weights) < len(diffusion_checkpoint["state_dict"])
    with pytest.warns(UserWarning, match="frozen at RANDOM weights"):
        begin(diffusion, saved({**diffusion_checkpoint, "state_dict": weights}))


def test_an_encoder_of_its_own_comes_from_there(
    diffusion, diffusion_checkpoint, contact_checkpoint, tmp_path
) -> None:
    own, other = tmp_path / "contact.ckpt", tmp_path / "v13.ckpt"
    changed = {name: value + 1 for name, value in contact_checkpoint["state_dict"].items()}
    save({**contact_checkpoint, "state_dict": changed}, own)
    save(diffusion_checkpoint, other)
    diffusion.encoder_ckpt = str(own)
    with pytest.raises(ValueError, match=r"names encoder.*encoder_ckpt names.*leave it out"):
        begin(diffusion, other, match=("encoder",))
    begin(diffusion, other)
    assert diffusion.encoder_origin == str(own)
    assert diffusion.initialised["modules"]["encoder"].keys() == {"fresh"}
    for name, value in diffusion.encoder.named_parameters():
        assert torch.equal(value, changed[f"encoder.{name}"])


def test_stage_1_takes_everything_but_a_head_for_other_labels(contact, contact_checkpoint, saved) -> None:
    checkpoint = copy.deepcopy(contact_checkpoint)
    checkpoint[CHECKPOINT_KEY]["architectures"] = ["1.10", "3.40"]
    path, before = saved(checkpoint), parameters(contact)
    contact.architecture_labels = ("1.10", "2.60")
    begin(contact, path)
    for name, value in contact.named_parameters():
        own = name.startswith("encoder.architectures.")
        assert torch.equal(value, before[name] if own else checkpoint["state_dict"][name]), name
    contact.architecture_labels = ("1.10", "3.40")
    begin(contact, path)
    assert contact.initialised["whole"] == ["encoder"]


# --- refusals: nothing is changed ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"match": ("denoiser.backbone",)}, r"no parameter lies under \['denoiser.backbone'\].*modules here"),
        ({"fresh": ("pairstack",)}, r"no parameter lies under \['pairstack'\].*pair_stack"),
        ({"match": ("aux.head",), "fresh": ("aux",)}, "cannot match"),
        ({"match": ("",)}, "empty name"),
    ],
)
def test_names_that_mean_nothing_are_refused(diffusion, diffusion_checkpoint, saved, settings, said) -> None:
    before = parameters(diffusion)
    with pytest.raises(ValueError, match=said):
        begin(diffusion, saved(diffusion_checkpoint), **settings)
    assert untouched(diffusion, before)


@pytest.mark.parametrize("change", ["missing", "shape", "unexpected"])
def test_a_module_that_was_to_match_and_does_not_is_an_error_after_the_table(
    diffusion, diffusion_checkpoint, saved, change, capsys
) -> None:
    weights = dict(diffusion_checkpoint["state_dict"])
    name = next(n for n in weights if n.startswith("aux."))
    if change == "missing":
        del weights[name]
    elif change == "shape":
        weights[name] = torch.zeros(1, 2, 3)
    else:
        weights["aux.more"] = torch.zeros(2)
    path, before = saved({**diffusion_checkpoint, "state_dict": weights}), parameters(diffusion)
    with pytest.raises(ValueError, match=r"aux was to match .*some\.ckpt.*and 1 of its tensors do not"):
        begin(diffusion, path, match=("denoiser", "aux"))
    assert untouched(diffusion, before)
    assert "unexpected" in capsys.readouterr().out
    # Not asked for, it is skipped, and the table says so.
    begin(diffusion, path)
    assert diffusion.initialised["tensors"][change] == 1


def test_nothing_that_matches_is_an_error(diffusion, diffusion_checkpoint, saved) -> None:
    before = parameters(diffusion)
    other = {f"model.{name}": value for name, value in diffusion_checkpoint["state_dict"].items()}
    with pytest.raises(ValueError, match=r"nothing of .*some\.ckpt matches this model: it has model"):
        begin(diffusion, saved({**diffusion_checkpoint, "state_dict": other}))
    frozen = {k: v for k, v in diffusion_checkpoint["state_dict"].items() if k.startswith("encoder.")}
    path = saved({**diffusion_checkpoint, "state_dict": frozen})
    with pytest.raises(ValueError, match="nothing but frozen parameters of"):
        begin(diffusion, path)
    assert untouched(diffusion, before)
    # ... unless that is what was asked for.
    begin(diffusion, path, match=("encoder",))
    assert diffusion.initialised["whole"] == ["encoder"]


def test_a_checkpoint_of_the_other_stage_is_refused(
    diffusion, contact, contact_checkpoint, diffusion_checkpoint, saved
) -> None:
    with pytest.raises(ValueError, match="is a contact checkpoint where a diffusion checkpoint is needed"):
        begin(diffusion, saved(contact_checkpoint))
    with pytest.raises(ValueError, match="is a diffusion checkpoint where a contact checkpoint is needed"):
        begin(contact, saved(diffusion_checkpoint))


@pytest.mark.parametrize(
    "about",
    [
        {"stage": torch.zeros(3)},
        {"stage": "diffusion", "format": "new"},
        {"stage": "diffusion", "format": torch.zeros(2)},
        {"stage": ["diffusion"]},
        "diffusion",
    ],
)
def test_a_file_that_says_strange_things_of_itself_is_refused_in_a_line(
    diffusion, diffusion_checkpoint, saved, about
) -> None:
    with pytest.raises(ValueError, match=r"not written by minifold-pl|has format"):
        begin(diffusion, saved({**diffusion_checkpoint, CHECKPOINT_KEY: about}))


def test_a_strange_lineage_does_not_travel_on(diffusion, diffusion_checkpoint, saved) -> None:
    lineage = [3, {"ckpt": torch.zeros(9), "step": 4}, {"ckpt": "a.ckpt", "junk": "x" * 1000}] * 50
    about = {
        **diffusion_checkpoint[CHECKPOINT_KEY], "initialised": {"ckpt": "b.ckpt", "modules": 3, "before": lineage},
    }  # fmt: skip
    begin(diffusion, saved({**diffusion_checkpoint, CHECKPOINT_KEY: about}))
    before = diffusion.initialised["before"]
    assert before[:3] == [{"ckpt": "b.ckpt"}, {"step": 4}, {"ckpt": "a.ckpt"}]
    assert len(before) <= 20


def test_labels_that_are_none_leave_the_head_fresh(contact, contact_checkpoint, saved) -> None:
    contact.architecture_labels = ("1.10",)
    about = {**contact_checkpoint[CHECKPOINT_KEY], "architectures": 7}
    begin(contact, saved({**contact_checkpoint, CHECKPOINT_KEY: about}))
    assert contact.initialised["modules"]["encoder.architectures"].keys() == {"fresh"}


@pytest.mark.parametrize("times", [1, 5])
def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    diffusion, diffusion_checkpoint, tmp_path, monkeypatch, times
) -> None:
    """The run it comes from may still train: what is noted must be the file whose weights were taken."""
    path, left = tmp_path / "best.ckpt", [times]
    save(diffusion_checkpoint, path)
    newer = {name: value + 1 for name, value in diffusion_checkpoint["state_dict"].items()}

    def replaced_after(path):
        verified = verify(path)
        if left[0]:
            left[0] -= 1
            save({**diffusion_checkpoint, "state_dict": newer, "global_step": 9 + left[0]}, path)
        return verified

    monkeypatch.setattr("minifold_pl.modules.init_from.verify", replaced_after)
    if times > 3:
        with pytest.raises(CheckpointError, match="was replaced while it was read"):
            begin(diffusion, path)
        return
    begin(diffusion, path)
    assert diffusion.initialised["sha256"] == verify(path).sha256
    assert diffusion.initialised["step"] == 9


class _Bomb:
    def __init__(self, touched) -> None:
        self.touched = touched

    def __reduce__(self):
        return os.system, (f"touch {self.touched}",)


def test_damaged_and_hostile_files_are_told_in_one_line_and_change_nothing(
    diffusion, diffusion_checkpoint, tmp_path
) -> None:
    whole = tmp_path / "whole.ckpt"
    save(diffusion_checkpoint, whole)
    flipped = bytearray(whole.read_bytes())
    flipped[len(flipped) // 2] ^= 4
    (tmp_path / "flipped.ckpt").write_bytes(flipped)
    (tmp_path / "cut.ckpt").write_bytes(whole.read_bytes()[:-999])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({**diffusion_checkpoint, "x": _Bomb(tmp_path / "touched")}, tmp_path / "code.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"state_dict": diffusion_checkpoint["state_dict"]}, tmp_path / "foreign.ckpt")
    before = parameters(diffusion)
    for name, said in {
        "absent": "no checkpoint at", "flipped": "damaged", "cut": "damaged", "empty": "is empty",
        "text": "no checkpoint", "code": "carries code", "list": "holds a list",
        "foreign": "not written by minifold-pl",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=said) as caught:
            begin(diffusion, tmp_path / f"{name}.ckpt")
        assert f"{name}.ckpt" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert untouched(diffusion, before)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (None, "no weights in .*NoneType"),
        ([torch.zeros(2)], "no weights in .*list"),
        ({"denoiser": {"w": torch.zeros(2)}}, "something else than tensors: 'denoiser'"),
        ({3: torch.zeros(2)}, "something else than tensors: 3"),
        ({}, "nothing of .* matches this model: it has no weights"),
    ],
    ids=["none", "a list", "nested", "numbered", "empty"],
)
def test_a_sound_file_whose_weights_are_none_is_refused(
    diffusion, diffusion_checkpoint, saved, weights, said
) -> None:
    path = saved({**diffusion_checkpoint, "state_dict": weights})
    with pytest.raises(ValueError, match=said):
        begin(diffusion, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_unless_they_are_left_out(
    diffusion, diffusion_checkpoint, saved, value
) -> None:
    weights = dict(diffusion_checkpoint["state_dict"])
    name = next(n for n in weights if n.startswith("aux."))
    weights[name] = (
        weights[name].clone().flatten().index_fill(0, torch.tensor([0]), value).view_as(weights[name])
    )
    path, before = saved({**diffusion_checkpoint, "state_dict": weights}), parameters(diffusion)
    with pytest.raises(
        CheckpointError, match=rf"1 tensors of .*NaN or infinity, {re.escape(name)} among them"
    ):
        begin(diffusion, path)
    assert untouched(diffusion, before)
    begin(diffusion, path, fresh=("aux",))


def test_weights_that_overflow_in_this_models_precision_are_refused(
    diffusion, diffusion_checkpoint, saved
) -> None:
    weights = {name: value.double() for name, value in diffusion_checkpoint["state_dict"].items()}
    name = next(n for n in weights if n.startswith("aux."))
    weights[name] = torch.full_like(weights[name], 1e300)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        begin(diffusion, saved({**diffusion_checkpoint, "state_dict": weights}))
