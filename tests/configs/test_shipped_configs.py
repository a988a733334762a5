"""Every shipped config: what it resolves to, and that it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from minifold_pl.cli.configs import shipped_configs
from minifold_pl.cli.lightning_cli import instantiate_model, resolve_config

SNAPSHOTS = Path(__file__).parent / "snapshots"
"""Resolved configs. Renew them with ``python tests/configs/renew_snapshots.py`` and read the difference."""


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_config_resolves_to_its_snapshot(name: str) -> None:
    resolved = resolve_config(name)
    snapshot = yaml.safe_load((SNAPSHOTS / name).read_text())
    assert {k: resolved[k] for k in snapshot} == snapshot


def test_no_snapshot_is_left_of_a_config_that_is_gone() -> None:
    assert sorted(p.name for p in SNAPSHOTS.glob("*.yaml")) == shipped_configs()


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_config_builds_its_model(name: str) -> None:
    module = instantiate_model(name)
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) > 0
    assert module.model_config["class_path"].startswith("minifold_pl.modules.")
