"""What the environment says about waiting threads is not touched."""

from __future__ import annotations

import pytest

from minifold_pl.cli.main import main


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_do_not_spin_unless_the_environment_says_so(monkeypatch, capsys, given, expected) -> None:
    environment: dict[str, str] = dict(given)
    monkeypatch.setattr("minifold_pl.cli.threads.os.environ", environment)
    assert main(["--version"]) == 0
    assert environment.get("GOMP_SPINCOUNT") == expected
