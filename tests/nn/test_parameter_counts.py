"""Parameter counts of the published presets (write-up and SCIENCE section 4, in millions)."""

from __future__ import annotations

import pytest
from torch import nn

from minifold_pl.nn.contact_classifier import ContactClassifier
from minifold_pl.nn.denoiser import IPADenoiser
from minifold_pl.nn.embeddings import LinearRelativePosition
from minifold_pl.nn.heads import AuxDistanceStack, RgHead
from minifold_pl.nn.pair_stack import PairStack


def millions(*modules: nn.Module) -> float:
    return sum(p.numel() for m in modules for p in m.parameters()) / 1e6


def axial_stack() -> PairStack:
    return PairStack(
        blocks=4, block="axial", heads=4, d_head=16, transition=3,
        relative_position=LinearRelativePosition(128),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("build", "published"),
    [
        (lambda: ContactClassifier(architectures=40), 1.191),
        (IPADenoiser, 28.484),
        (PairStack, 4.854),
        (axial_stack, 0.892),
        (AuxDistanceStack, 0.502),
        (RgHead, 0.033),
    ],
    ids=["encoder", "denoiser", "pair stack v13", "pair stack v12b", "aux", "rg"],
)
def test_each_module_has_the_published_number_of_parameters(build, published):
    assert millions(build()) == pytest.approx(published, rel=0.02)


def test_the_whole_of_v13_has_the_published_number_of_parameters():
    whole = millions(
        ContactClassifier(architectures=40), IPADenoiser(), PairStack(), AuxDistanceStack(), RgHead()
    )
    assert whole == pytest.approx(35.07, rel=0.02)


def test_the_whole_of_v12b_has_the_published_number_of_parameters():
    whole = millions(
        ContactClassifier(architectures=40), IPADenoiser(), axial_stack(), AuxDistanceStack(), RgHead()
    )
    assert whole == pytest.approx(31.10, rel=0.02)


def test_the_whole_of_v11_has_the_published_number_of_parameters():
    denoiser = IPADenoiser(d=256, layers=6, heads=4, query_points=4, ffn=768, update_hidden=0)
    whole = millions(
        ContactClassifier(architectures=40), denoiser, axial_stack(), AuxDistanceStack(), RgHead()
    )
    assert whole == pytest.approx(8.4, rel=0.02)
