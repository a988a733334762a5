"""Settings into objects, and libraries' long complaints into one or two lines."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.checkpoint.contents import CheckpointError
from minifold_pl.cli import lightning_cli
from minifold_pl.cli.errors import UserError
from minifold_pl.cli.lightning_cli import STANDARD_CALLBACKS, resolve_config, user_errors
from minifold_pl.cli.main import main


def test_a_later_argument_wins_and_everything_else_stays() -> None:
    plain, changed = (
        resolve_config("v13_small.yaml", args) for args in ([], ["--model.init_args.p_uncond=0.25"])
    )
    assert plain["model"]["init_args"]["p_uncond"] == 0.1
    assert changed["model"]["init_args"]["p_uncond"] == 0.25
    changed["model"]["init_args"]["p_uncond"] = 0.1
    assert changed == plain


def test_a_resolved_config_states_every_default_and_every_callback() -> None:
    resolved = resolve_config("contact_small.yaml")
    assert STANDARD_CALLBACKS.keys() - {"throughput"} <= resolved.keys()  # which has no settings
    assert resolved["model"]["init_args"]["optimizer"]["betas"] == [0.9, 0.999]
    assert resolved["run"] == {
        "dir": None, "fresh": False, "accept_changes": False, "after_halt": None, "after_stop": None, "wait": 0.0,
        "max_fruitless_starts": 3, "profile": "off", "wandb": "auto", "wandb_project": "minifold-pl",
    }  # fmt: skip


@pytest.mark.parametrize(
    "argument",
    [
        "--model.init_args.p_uncnod=0.1",
        "--model.init_args.denoiser.init_args.layerz=3",
        "--trainer.max_epoch=4",
        "--ema.decai=0.9",
        "--model.init_args.loss_weights.fapee=1",
        "--model.init_args.sampler.steps=many",
    ],
)
def test_a_wrong_setting_is_told_by_its_own_name_in_two_lines(argument: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_config("v13_small.yaml", [argument])
    text = str(caught.value)
    key = argument.split("=")[0].rsplit(".", 1)[-1]
    assert key in text
    assert len(text.splitlines()) <= 2
    assert len(text) < 600
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ValueError("batch_size must be at least 1, got 0"), 1, "batch_size must be at least 1, got 0"),
        (CheckpointError("x.ckpt is damaged"), 1, "x.ckpt is damaged"),
        (FileNotFoundError(2, "No such file or directory", "a/b"), 1, "No such file or directory: a/b"),
        (OSError("disk gone"), 1, "disk gone"),
    ],
)
def test_what_users_can_put_right_becomes_a_line(error: Exception, code: int, told: str) -> None:
    with pytest.raises(UserError) as caught, user_errors():
        raise error
    assert (str(caught.value), caught.value.exit_code) == (told, code)
    assert caught.value.__cause__ is error


def test_what_nobody_foresaw_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), user_errors():
        _ = 1 // 0


def test_precision_is_the_fastest_safe_one_of_the_machine(monkeypatch) -> None:
    for gpu, bf16, expected in (
        (False, False, "32-true"),
        (True, True, "bf16-mixed"),
        (True, False, "16-mixed"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda bf16=bf16, **_: bf16)
        assert lightning_cli.machine_precision() == lightning_cli.machine_precision("gpu") == expected
        assert lightning_cli.machine_precision("cpu") == "32-true"


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_help_of_a_training_command_names_the_settings_and_returns_0(command: str, capsys) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--run.dir" in text
    assert "--ema.decay" in text
    assert "The run folder" in text or "Run folder" in text


def test_an_interruption_is_exit_code_130(monkeypatch, capsys) -> None:
    def interrupted(args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lightning_cli, "cli", interrupted)
    assert main(["fit", "--config", "v13_small.yaml"]) == 130
    assert "interrupted" in capsys.readouterr().err
