"""Every lesson is checked twice: on the code as it is, and with the mistake put back, where the check must fail."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.geometry import precision
from minifold_pl.modules.diffusion import DiffusionModule


@pytest.fixture(params=[False, True], ids=["as_it_is", "with_the_mistake"])
def mistake(request: pytest.FixtureRequest) -> bool:
    """Whether the mistake is put back."""
    return request.param


@pytest.fixture
def holds(mistake: bool) -> Callable[[], AbstractContextManager[None]]:
    """Around a check: it passes on the code as it is, and fails, by an assertion, on the mistake."""

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        if not mistake:
            yield
            return
        with pytest.raises(AssertionError):
            yield

    return around


@pytest.fixture
def without_fp32_island(mistake: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake: geometry runs in the precision that autocast chooses and the input has."""
    if mistake:
        monkeypatch.setattr(precision, "_promote", lambda value: value)
        monkeypatch.setattr(precision, "without_autocast", lambda like: nullcontext())


@pytest.fixture(scope="session")
def _untouched() -> DiffusionModule:
    torch.manual_seed(0)
    module = instantiate_model("v13_small.yaml")
    assert isinstance(module, DiffusionModule)
    return module


@pytest.fixture
def diffusion(_untouched: DiffusionModule) -> DiffusionModule:
    """v13 at reduced width, fresh; what starts at zero is moved, so that everything is reached."""
    module = copy.deepcopy(_untouched)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module.eval()
