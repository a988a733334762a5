"""The program itself: help, exit codes, errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from minifold_pl.cli.main import main


def test_help_fits_a_screen_and_names_every_command(capsys) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 40
    for command in (
        "fit",
        "validate",
        "test",
        "predict",
        "data",
        "sample",
        "evaluate",
        "score",
        "diagnose",
        "describe",
        "ckpt",
    ):
        assert f"\n    {command} " in text


def test_help_imports_no_torch() -> None:
    code = "import sys; from minifold_pl.cli.main import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("args", [[], ["nonsense"], ["data"], ["sample"]])
def test_wrong_use_is_exit_code_2(args, capsys) -> None:
    assert main(args) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["data prepare", "data synth", "data stats", "sample", "evaluate", "score", "describe", "ckpt show"],
)
def test_every_command_has_its_own_help(command, capsys) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert "usage: minifold-pl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["fit", "--config", "nowhere.yaml"], 2, "no config 'nowhere.yaml'"),
        (["fit", "--config", "v13_small.yaml"], 2, "data.path"),
        (["fit", "--config", "v13_small.yaml", "--data.path", "no/store"], 1, "no/store"),
        (["fit", "--config", "v13_small.yaml", "--data.pahts", "x"], 2, "pahts"),
        (
            ["fit", "--config", "v13_small.yaml", "--data.path", "x", "--model.init_args.p_uncond", "lots"],
            2,
            "p_uncond",
        ),
        (["validate", "--config", "v13_small.yaml", "--data.path", "x"], 2, "no checkpoint"),
        (
            ["validate", "--config", "v13_small.yaml", "--data.path", "x", "--ckpt_path", "no.ckpt"],
            1,
            "no.ckpt",
        ),
    ],
)
def test_mistakes_are_told_in_two_lines_at_most(args, code, told, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(args) == code
    err = capsys.readouterr().err
    errors = err[err.index("error: ") :]
    assert told in errors
    assert len(errors.strip().splitlines()) <= 2
    assert "Traceback" not in err


def test_a_typo_in_a_yaml_key_is_named(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("base: v13_small.yaml\nmodel: {init_args: {self_conditionning: 0.5}}")
    assert main(["fit", "--config", "mine.yaml", "--data.path", "x"]) == 2
    assert "self_conditionning" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys) -> None:
    assert main(["fit", "--config", "nowhere.yaml", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
