import io

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from minifold_pl.plots.chain import _turned, chain_figure


def _helix(length):
    t = np.arange(length) * np.deg2rad(100)
    return np.stack([2.3 * np.cos(t), 2.3 * np.sin(t), 1.5 * np.arange(length)], -1).astype(np.float32)


def _handedness(ca):
    a, b, c = ca[1:-2] - ca[:-3], ca[2:-1] - ca[1:-2], ca[3:] - ca[2:-1]
    return float(np.mean((np.cross(a, b) * c).sum(-1)))


def _joined(length):
    return np.arange(length) < length - 1


def test_a_trace_and_a_map_are_drawn_and_can_be_written():
    figure = chain_figure(_helix(40), _joined(40), "a helix")
    trace, contacts = figure.axes[:2]
    assert figure.get_suptitle() == "a helix"
    assert len(trace.collections) == 2 * 39 + 1
    (image,) = contacts.images
    shown = image.get_array()
    assert shown.shape == (40, 40)
    assert shown[0, 3] == pytest.approx(
        np.linalg.norm(_helix(40)[0] - _helix(40)[3]), rel=1e-5
    )  # above: distances
    assert shown[3, 0] == 0.0  # below: a contact
    assert shown[30, 0] == 30.0  # and none
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        out = io.BytesIO()
        figure.savefig(out, format=kind)
        assert out.getvalue().startswith(start)


def test_missing_residues_are_gaps_and_breaks_are_not_joined():
    ca, bonded = _helix(30), _joined(30)
    ca[10] = np.nan
    bonded[[9, 10, 20]] = False
    figure = chain_figure(ca, bonded, "gaps")
    trace, contacts = figure.axes[:2]
    assert len(trace.collections) == 2 * (29 - 3) + 1
    assert contacts.images[0].get_array().mask[10].all()


def test_the_view_has_the_longest_axis_across_and_does_not_mirror():
    ca = _helix(40)
    turned = _turned(ca, np.ones(40, dtype=bool))
    across, up, deep = turned.std(0)
    assert across > up >= deep
    assert np.sign(_handedness(turned)) == np.sign(_handedness(ca))
    np.testing.assert_allclose(
        np.linalg.norm(np.diff(turned, axis=0), axis=-1),
        np.linalg.norm(np.diff(ca, axis=0), axis=-1),
        rtol=1e-5,
    )


@pytest.mark.parametrize("count", [2, 3])
def test_the_shortest_chains_have_a_picture_and_less_is_refused(count):
    chain_figure(_helix(count), _joined(count), "short")
    ca = np.full((5, 3), np.nan, dtype=np.float32)
    ca[0] = 1.0
    with pytest.raises(ValueError, match="1 Cα are known; a picture needs two"):
        chain_figure(ca, _joined(5), "x")


def test_axes_have_the_residues_own_numbers():
    figure = chain_figure(_helix(40), _joined(40), "x", tuple(str(i + 100) for i in range(40)))
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert labels[0] == "100"
