"""Configs by bare name, and configs on top of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from minifold_pl.cli.configs import config_chain, expand_config_arguments, find_config, shipped_configs
from minifold_pl.cli.errors import UserError


def test_shipped_configs_are_found_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"quickstart.yaml", "contact.yaml", "v13.yaml"} <= set(shipped_configs())
    assert find_config("v13.yaml") == find_config("v13")


def test_a_file_here_wins_over_a_shipped_config(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v13.yaml").write_text("data: {batch_size: 7}")
    assert yaml.safe_load(config_chain("v13.yaml")[0]) == {"data": {"batch_size": 7}}


def test_a_missing_config_is_told_with_a_near_name() -> None:
    with pytest.raises(UserError, match=r"no config 'v13.yml'.*v13") as error:
        find_config("v13.yml")
    assert error.value.exit_code == 2


def test_a_chain_is_read_from_its_base_up(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "base.yaml").write_text("a: 1")
    (tmp_path / "deep" / "top.yaml").write_text("base: base.yaml\nb: 2")
    texts = config_chain("deep/top.yaml")
    assert [yaml.safe_load(t) for t in texts] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: me.yaml", "based on itself"),
        ("base: 3", "must name a config"),
        ("[1, 2]", "must be a mapping"),
        ("a: [", "is no YAML"),
        ("base: nowhere.yaml", "no config 'nowhere.yaml'"),
    ],
)
def test_broken_configs_are_told_in_one_line(tmp_path: Path, monkeypatch, text, message) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        config_chain("me.yaml")
    assert "\n" not in str(error.value)


def test_arguments_keep_their_order_and_config_needs_a_value() -> None:
    args, names = expand_config_arguments(["fit", "--config", "contact_small", "--x=1"])
    assert (args[0], args[-1], names) == ("fit", "--x=1", ["contact_small"])
    assert args.count("--config") == 2
    with pytest.raises(UserError, match="needs the path or name"):
        expand_config_arguments(["fit", "--config"])
