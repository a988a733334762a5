import numpy as np
import pytest

from minifold_pl.metrics import silhouette as module
from minifold_pl.metrics.silhouette import silhouette


def _by_hand(x, labels):
    widths = []
    for i, label in enumerate(labels):
        d = np.linalg.norm(x - x[i], axis=1)
        own = [d[j] for j in range(len(x)) if labels[j] == label and j != i]
        if not own:
            widths.append(0.0)
            continue
        others = [d[[j for j in range(len(x)) if labels[j] == k]].mean() for k in set(labels) - {label}]
        widths.append((min(others) - np.mean(own)) / max(min(others), np.mean(own)))
    return np.mean(widths)


def test_it_is_the_mean_of_the_widths_by_hand(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5)) + 100  # far from the origin, where rounding would show
    labels = ["alone", *rng.choice(["a", "b", "c"], size=39).tolist()]
    expected = _by_hand(x, labels)
    assert silhouette(x, labels) == pytest.approx(expected, abs=1e-9)
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    assert silhouette(x, labels) == pytest.approx(expected, abs=1e-9)


def test_clusters_far_apart_score_1_and_wrong_labels_below_0():
    x = np.array([[0.0], [0.1], [100.0], [100.1]])
    assert silhouette(x, ["a", "a", "b", "b"]) > 0.99
    assert silhouette(x, ["a", "b", "a", "b"]) < 0
    assert silhouette(np.zeros((4, 2)), ["a", "a", "b", "b"]) == 0.0


def test_it_is_undefined_for_one_label_and_for_as_many_as_points():
    x = np.arange(6.0).reshape(3, 2)
    assert np.isnan(silhouette(x, ["a", "a", "a"]))
    assert np.isnan(silhouette(x, ["a", "b", "c"]))
    assert np.isnan(silhouette(np.zeros((0, 2)), []))
    with pytest.raises(ValueError, match="3 points have 2 labels"):
        silhouette(x, ["a", "b"])
