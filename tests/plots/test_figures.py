import re
import xml.etree.ElementTree as ET
from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from minifold_pl.metrics.dihedrals import PSEUDO_BASINS, basin_share, jensen_shannon, sampling_distance
from minifold_pl.metrics.silhouette import silhouette
from minifold_pl.plots.contacts import SHOWN, ContactPanel, contact_figure
from minifold_pl.plots.curves import Curve, Mark, RunCurves
from minifold_pl.plots.embedding import Labelling, Projection, embedding_figure, shown_labels
from minifold_pl.plots.gradients import cosine_table, gradient_figure
from minifold_pl.plots.losses import loss_figure
from minifold_pl.plots.one_step import OneStepCurve, one_step_figure
from minifold_pl.plots.ramachandran import DihedralSet, dihedral_numbers, ramachandran_figure
from minifold_pl.plots.structure import Superposed, Trace, structure_figure
from minifold_pl.plots.style import THEMES, look, picture, shortened


def _curve(values, first=1):
    epoch = np.arange(first, first + len(values), dtype=float)
    return Curve(step=10 * epoch, epoch=epoch, value=np.array(values, dtype=float))


def _run(name="run", **more):
    given = {
        "train": {"total": _curve([4, 3, 2.5]), "fape": _curve([2, np.nan, 1])},
        "val": {"total": _curve([3, 2, 2.25]), "fape": _curve([1.5, 1.25, 1.125])},
        "rates": {"rest": _curve([1e-3, 1e-3, 1e-4])},
        "waits": _curve([0, 0, 1]),
        "patience": 3,
        "monitored": _curve([3, 2, 2.25]),
    }
    return RunCurves(name=name, **{**given, **more})


def _panel(figure, title):
    return next(a for a in figure.axes if title in (a.get_title(loc="left"), a.get_title()))


def _texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def _drawn(axes, line):
    """Curves with data in a line style, crosses and limits left out."""
    return [
        one.get_ydata()
        for one in axes.lines
        if one.get_linestyle() == line and one.get_transform() == axes.transData
    ]


# --- losses ----------------------------------------------------------------------------------------


def test_each_panel_has_the_values_of_its_term_and_gaps_are_marked():
    figure = loss_figure([_run()])
    axes = _panel(figure, "fape")
    (train,), (val,) = _drawn(axes, "--"), _drawn(axes, "-")
    np.testing.assert_array_equal(train, [2, np.nan, 1])
    np.testing.assert_array_equal(val, [1.5, 1.25, 1.125])
    (cross,) = (one for one in axes.lines if one.get_marker() == "x")
    assert cross.get_xdata().tolist() == [2]
    assert axes.get_ylabel() == "model units" and _panel(figure, "learning rate").lines
    assert "not finite" in _texts(figure)


def test_the_best_value_and_its_place_are_named_along_either_axis():
    assert "best val/total 2 at epoch 2" in _texts(loss_figure([_run()]))
    assert "best val/total 2 at step 20" in _texts(loss_figure([_run()], x="step"))
    other = _run(monitor="ddim/tm_score", mode="max", monitored=_curve([0.2, 0.3, 0.25]))
    assert "best ddim/tm_score 0.3 at epoch 2" in _texts(loss_figure([other]))


def test_patience_has_its_limit_and_new_bests():
    axes = _panel(loss_figure([_run()]), "patience")
    bests = next(one for one in axes.lines if one.get_label() == "new best")
    assert bests.get_xdata().tolist() == [1, 2]
    assert "ends at 3" in [text.get_text() for text in axes.texts]


def test_runs_of_different_length_and_terms_are_drawn_over_each_other_in_colours_of_their_own():
    long = _run("long", val={"total": _curve([3, 2, 1, 0.5, 0.25]), "clash": _curve([1e-5])}, train={})
    figure = loss_figure([_run("short"), long])
    total = _panel(figure, "total (weighted sum)")
    assert [len(y) for y in _drawn(total, "-")[:1]] == [3]
    assert {one.get_color() for one in total.lines} == {
        THEMES["light"].colours[0],
        THEMES["light"].colours[1],
    }
    assert len(_drawn(_panel(figure, "fape"), "-")) == 1 and len(_drawn(_panel(figure, "clash"), "-")) == 1
    assert {"short", "long"} <= set(_texts(figure))
    assert len({axes.get_xlim() for axes in figure.axes if axes.lines}) == 1


def test_a_learning_rate_group_has_one_line_and_a_name_whichever_run_has_it():
    flat = _curve([1e-4, 1e-4, 1e-4])
    first = _run("first", rates={"rest": _curve([1e-3, 1e-3, 1e-3]), "encoder": flat})
    second = _run(
        "second",
        rates={"rest": _curve([1e-3, 1e-3, 1e-3]), "head": _curve([5e-4, 5e-4, 5e-4]), "encoder": flat},
    )
    axes = _panel(loss_figure([first, second]), "learning rate")
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["rest", "encoder", "head"]
    below = 1 / (1 + 3 * 0.15)  # of the axis, the legend is above
    assert 1e-3 <= axes.get_ylim()[1] * below < 1.1e-3
    styles = {float(line.get_ydata()[0]): set() for line in axes.lines}
    for line in axes.lines:
        styles[float(line.get_ydata()[0])].add(line.get_linestyle())
    assert all(len(one) == 1 for one in styles.values()) and len(set.union(*styles.values())) == 3


def test_starts_after_a_kill_are_ticks():
    marks = (
        *tuple(Mark(kind="resumed", step=10.0 * k, epoch=k) for k in (1, 2)),
        Mark(kind="tripwire", step=5, epoch=0.5),
    )
    axes = _panel(loss_figure([_run(marks=marks)]), "total (weighted sum)")
    ticks = next(one for one in axes.lines if one.get_marker() == "|")
    assert ticks.get_xdata().tolist() == [1, 2] and ticks.get_label() == "resumed (2 times)"


def test_one_epoch_a_broken_term_and_no_losses():
    one = _run(val={"total": _curve([3.0]), "angle": _curve([np.nan])}, train={}, waits=None, rates={})
    told = _texts(loss_figure([one]))
    assert "no patience was counted" in told and "no learning rate was logged" in told
    with pytest.raises(ValueError, match="no losses"):
        loss_figure([RunCurves(name="x")])


# --- gradients -------------------------------------------------------------------------------------


def test_norms_limits_clipping_events_and_cosines_are_those_given():
    run = _run(
        gradients={"denoiser": _curve([2, 1, 0.5]), "aux": _curve([0.1, 0, 0.2])},
        clipped={"denoiser": _curve([0.5, 0.25, 0])},
        limits={"denoiser": 1.5, "aux": 1.5},
        marks=(
            Mark(kind="tripwire", step=15, epoch=1.5, told="aux"),
            Mark(kind="resumed", step=3, epoch=0.3),
        ),
    )
    table = cosine_table({("fape", "dist"): -0.25, ("fape", "bond"): 0.75})
    assert table.terms == ("fape", "dist", "bond") and np.isnan(table.cosines[1, 2])
    np.testing.assert_array_equal(table.cosines[0], [1, -0.25, 0.75])
    figure = gradient_figure(run, table)
    norms = _panel(figure, "gradient norm before clipping, mean of each epoch")
    lines = {one.get_label(): one for one in norms.lines}
    np.testing.assert_array_equal(lines["denoiser"].get_ydata(), [2, 1, 0.5])
    np.testing.assert_array_equal(lines["aux"].get_ydata(), [0.1, np.nan, 0.2])  # 0 has no logarithm
    assert lines["tripwire: no gradient, noise begins (aux)"].get_xdata().tolist() == [15]
    assert not any("resumed" in label for label in lines)
    assert [list(one.get_ydata()) for one in norms.lines].count([1.5, 1.5]) == 1
    assert list(lines["clipped to 1.5: denoiser, aux"].get_ydata()) == [1.5, 1.5]
    clipped = _panel(figure, "steps in which the gradient was clipped")
    np.testing.assert_array_equal(clipped.lines[0].get_ydata(), [50, 25, 0])
    assert {"-0.25", "+0.75"} <= set(_texts(figure))


def test_steps_are_numbered_where_nothing_was_clipped_and_long_runs_have_few_symbols():
    figure = gradient_figure(_run(gradients={"aux": _curve(np.linspace(1, 2, 2000))}, clipped={}))
    norms = _panel(figure, "gradient norm before clipping, mean of each epoch")
    figure.draw_without_rendering()
    assert norms.get_xlabel() == "optimizer step"
    assert [tick.get_text() for tick in norms.get_xticklabels() if tick.get_visible()]
    assert 2000 / norms.lines[0].get_markevery() <= 50


def test_a_run_without_norms_says_so():
    assert any(
        "logged no gradient norms" in t
        for t in _texts(gradient_figure(_run(), cosine_table({("a", "b"): 0.0})))
    )
    with pytest.raises(ValueError, match="no gradient norms"):
        gradient_figure(_run())


# --- one step --------------------------------------------------------------------------------------


def test_one_step_scores_are_drawn_and_the_first_models_are_written():
    times, mean = np.array([25.0, 725.0]), np.array([0.8125, 0.25])
    model = OneStepCurve(name="model", times=times, mean=mean, low=mean - 0.1, high=mean + 0.1)
    floor = OneStepCurve(name="smoother", times=times, mean=mean / 2, low=mean / 2, high=mean / 2, floor=True)
    figure = one_step_figure([model, floor], about="54 chains")
    (axes,) = figure.axes
    assert [one.get_label() for one in axes.lines] == ["model", "smoother"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), mean)
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), mean / 2)
    assert {"0.812", "0.250", "54 chains"} <= set(_texts(figure))
    with pytest.raises(ValueError, match="no one-step scores"):
        one_step_figure([])


# --- dihedrals -------------------------------------------------------------------------------------


def test_the_numbers_below_a_panel_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    truth, samples = rng.normal(50, 20, size=(900, 2)), rng.uniform(-180, 180, size=(200, 2))
    sets = [
        DihedralSet(name="truth", angles=truth),
        DihedralSet(name="samples", angles=samples, told="10 steps"),
    ]
    first, second = dihedral_numbers(sets)
    assert first.distance is None and second.distance == jensen_shannon(truth, samples)
    assert second.shares["helix"] == basin_share(samples, PSEUDO_BASINS[0])
    assert second.sampling == sampling_distance(truth, 200)
    figure = ramachandran_figure(sets)
    below = _panel(figure, "samples").get_xlabel()
    assert f"n = 200, helix {second.shares['helix']:.1%}, strand {second.shares['strand']:.1%}" in below
    assert f"JS distance {second.distance:.3f} (truth at this n: {second.sampling:.3f})" in below
    assert below.endswith("10 steps") and "degrees" in below
    assert "JS" not in _panel(figure, "truth").get_xlabel()
    # Counts over their mean: spread evenly every square would be 1.
    shown = _panel(figure, "samples").images[0].get_array().filled(0)
    assert shown.mean() == pytest.approx(1.0)
    # The first dihedral is across: all of the truth is near (50, 50); turned by 90° it would be the same, so:
    lone = ramachandran_figure([DihedralSet(name="truth", angles=np.array([[-175.0, 175.0]]))])
    assert lone.axes[0].images[0].get_array().filled(0)[-1, 0] > 0


def test_sets_without_pairs_are_refused_by_name():
    with pytest.raises(ValueError, match="no dihedrals in samples"):
        dihedral_numbers(
            [
                DihedralSet(name="truth", angles=np.zeros((3, 2))),
                DihedralSet(name="samples", angles=np.zeros((0, 2))),
            ]
        )
    with pytest.raises(ValueError, match="no dihedrals to draw"):
        ramachandran_figure([])
    with pytest.raises(ValueError, match="none of pseudo, phi_psi"):
        dihedral_numbers([DihedralSet(name="truth", angles=np.zeros((3, 2)))], "chi")


# --- contacts --------------------------------------------------------------------------------------


def _maps(length=6):
    contact = np.abs(np.subtract.outer(np.arange(length), np.arange(length))) <= 2
    probability = np.zeros((length, length))
    for i, j in ((0, 1), (2, 1), (0, 5)):
        probability[i, j] = probability[j, i] = 0.9
    return contact, probability


def test_found_missed_and_wrong_contacts_are_counted_once_and_scores_are_written():
    contact, probability = _maps()
    panel = ContactPanel(
        name="1abc.A", contact=contact, probability=probability, observed=np.ones(6, dtype=bool), told="Mainly Beta",
        scores={"contact_precision": 2 / 3, "contact_recall": 2 / 9, "precision_long_L": np.nan, "other": 1.0},
    )  # fmt: skip
    figure = contact_figure([panel])
    told = _texts(figure)
    assert {"found 2", "missed 7", "wrong 1", "1abc.A, Mainly Beta", "P 0.667  R 0.222  long L –"} <= set(
        told
    )
    predicted = figure.axes[1].images[0].get_array()
    assert predicted[0, 5] == 0.9 and predicted.mask[5, 0] and predicted.mask[3, 3]


@pytest.mark.parametrize("chains", [1, 2, 3])
def test_neither_words_nor_maps_of_contacts_lie_over_each_other(chains):
    contact, probability = _maps()
    scores = dict.fromkeys(SHOWN, 0.5)
    panel = ContactPanel(
        name="1abc.A",
        contact=contact,
        probability=probability,
        observed=np.ones(6, dtype=bool),
        scores=scores,
    )
    figure = contact_figure([panel] * chains, about="best.ckpt, step 9; 24 chains of validation")
    figure.draw_without_rendering()
    maps = figure.axes[: 2 * chains]
    things = [*figure.texts[1:], *(axes.xaxis.label for axes in maps)]
    things += [axes._left_title for axes in maps] + [axes.patch for axes in maps]
    things += [legend for axes in maps if (legend := axes.get_legend())]
    boxes = [thing.get_window_extent() for thing in dict.fromkeys(things)]
    assert len(boxes) == 2 + 7 * chains
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


def test_an_unknown_residue_has_no_contacts_and_a_map_of_another_size_is_refused():
    contact, probability = _maps()
    observed = np.array([True] * 5 + [False])
    figure = contact_figure(
        [ContactPanel(name="x", contact=contact, probability=probability, observed=observed)]
    )
    assert {"found 2", "missed 5", "wrong 0"} <= set(_texts(figure))
    assert figure.axes[0].images[0].get_array()[5, 4] == 2.0
    with pytest.raises(ValueError, match="of 5 residues need shape"):
        contact_figure(
            [ContactPanel(name="x", contact=contact, probability=probability, observed=observed[:5])]
        )
    with pytest.raises(ValueError, match="no chains"):
        contact_figure([])


# --- embeddings ------------------------------------------------------------------------------------


def test_every_chain_is_drawn_once_and_the_silhouette_is_that_of_the_vectors():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 4))
    labels = [None if k < 3 else f"{k % 12}.10" for k in range(30)]
    labelling = Labelling.of("architecture", labels, vectors)
    assert labelling.silhouette == silhouette(vectors[3:], labels[3:])
    shown = shown_labels(labels)
    assert len(shown) == 8 and list(shown) == sorted(shown)
    figure = embedding_figure(
        [Projection(name="PCA", points=vectors[:, :2], axes=("PC 1", "PC 2"))], [labelling]
    )
    (axes,) = figure.axes
    assert axes.get_title(
        loc="left"
    ) == f"PCA by architecture, silhouette {labelling.silhouette:.3f}".replace("-", "−")
    places = np.concatenate([part.get_offsets() for part in axes.collections])
    assert {tuple(p) for p in places} == {tuple(p) for p in vectors[:, :2]} and len(places) == 30
    numbers = [
        int(re.search(r"\((\d+)\)$", t)[1]) for t in (x.get_text() for x in axes.get_legend().get_texts())
    ]
    assert (
        sum(numbers) == 30
        and "unknown (3)" in _texts(figure)
        and any("4 others" in t for t in _texts(figure))
    )


def test_projections_and_labels_of_other_lengths_are_refused():
    points = Projection(name="PCA", points=np.zeros((3, 2)), axes=("a", "b"))
    with pytest.raises(ValueError, match="CATH class has 2 chains, PCA 3"):
        embedding_figure([points], [Labelling(name="CATH class", labels=["a", "b"])])


# --- structures ------------------------------------------------------------------------------------


def _trace(length, missing=()):
    t = np.arange(length) * np.deg2rad(100)
    ca = np.stack([2.3 * np.cos(t), 2.3 * np.sin(t), 1.5 * np.arange(length)], -1)
    ca[list(missing)] = np.nan
    return Trace(ca=ca, bonded=np.arange(length) < length - 1, kinds=np.ones(length, dtype=int))


def test_both_traces_are_drawn_from_two_sides_and_scores_are_written():
    pair = Superposed(
        name="1abc.A", truth=_trace(12), sample=_trace(12), scores={"tm_score": 0.5, "rmsd": 1.25}
    )
    figure = structure_figure([pair])
    assert {"1abc.A", "TM-score 0.500  RMSD 1.25 Å"} <= set(_texts(figure))
    for axes in figure.axes[:2]:
        (pieces,) = axes.collections
        assert (
            len(pieces.get_segments()) == 2 * 2 * 11 * 5
        )  # rim and piece, two chains, bonds, pieces of a bond
    # A helix along z: across in the first view, so it is longer there than high.
    drawn = np.concatenate(figure.axes[0].collections[0].get_segments())
    assert np.ptp(drawn[:, 0]) > 2 * np.ptp(drawn[:, 1])


def test_a_missing_residue_is_a_gap_and_too_few_are_refused():
    gap = Superposed(name="x", truth=_trace(12), sample=_trace(12, missing=[5]))
    (pieces,) = structure_figure([gap]).axes[0].collections
    assert len(pieces.get_segments()) == 2 * (11 + 9) * 5
    with pytest.raises(ValueError, match="the structure has 1 known"):
        structure_figure([Superposed(name="x", truth=_trace(3), sample=_trace(3, missing=[0, 1]))])


def test_views_turn_and_never_mirror():
    from minifold_pl.plots.structure import _views

    def hand(ca):
        a, b, c = ca[1:-2] - ca[:-3], ca[2:-1] - ca[1:-2], ca[3:] - ca[2:-1]
        return np.sign((np.cross(a, b) * c).sum(-1).mean())

    rng = np.random.default_rng(1)
    for turn in (np.eye(3), np.linalg.qr(rng.normal(size=(3, 3)))[0]):
        ca = _trace(12).ca @ turn.T * 1.0
        trace = Trace(ca=ca, bonded=np.ones(12, dtype=bool))
        for truth, sample in _views(Superposed(name="x", truth=trace, sample=trace)):
            assert hand(truth) == hand(sample) == hand(ca)


# --- the look --------------------------------------------------------------------------------------


def _luminance(colour):
    from matplotlib.colors import to_rgb

    parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("name", list(THEMES))
def test_text_and_curves_stand_out_from_the_background(name):
    theme = THEMES[name]

    def contrast(colour):
        a, b = sorted((_luminance(colour), _luminance(theme.background)), reverse=True)
        return (a + 0.05) / (b + 0.05)

    assert contrast(theme.text) > 12 and contrast(theme.muted) > 4.5
    assert min(map(contrast, theme.colours)) > 2.0 and len(set(theme.colours)) == len(theme.colours)


def test_a_theme_holds_also_after_another_figure_was_drawn_and_leaves_no_trace():
    import matplotlib

    before = dict(matplotlib.rcParams)
    dark = loss_figure([_run()], theme="dark")
    light = loss_figure([_run()])
    assert dict(matplotlib.rcParams) == before
    for figure, theme in ((dark, "dark"), (light, "light")):
        picture(figure, dpi=40)  # ticks are made now
        axes = figure.axes[0]
        assert axes.get_facecolor()[:3] == pytest.approx(_rgb(THEMES[theme].background))
        tick = axes.xaxis.get_major_ticks()[0]
        assert _rgb(tick.label1.get_color()) == pytest.approx(_rgb(THEMES[theme].muted))


def _rgb(colour):
    from matplotlib.colors import to_rgb

    return to_rgb(colour)


def test_a_name_too_long_for_its_figure_loses_its_middle_and_letters_that_are_lacking_cost_no_warning(
    recwarn,
):
    assert shortened("run", 3) == "run"
    assert shortened("0123456789", 5) == "01…89"
    assert shortened("0123456789", 6) == "01…789"
    figure = loss_figure([_run("蛋白 " + "x" * 300)])
    picture(figure)
    assert not recwarn
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert not figure._suptitle.get_window_extent().overlaps(legend.get_window_extent())


def test_pictures_are_files_of_their_kind_the_same_each_time_and_svg_has_its_text():
    figure = one_step_figure(
        [
            OneStepCurve(
                name="m",
                times=np.array([25.0]),
                mean=np.array([0.5]),
                low=np.array([np.nan]),
                high=np.array([np.nan]),
            )
        ]
    )
    assert picture(figure, "png", dpi=40).startswith(b"\x89PNG") and picture(figure, "pdf").startswith(
        b"%PDF"
    )
    svg = picture(figure, "svg")
    assert svg == picture(figure, "svg")
    words = "".join(ET.fromstring(svg).itertext())
    assert "0.500" in words and "One-step estimates" in words
    with pytest.raises(ValueError, match="none of png, svg, pdf"):
        picture(figure, "gif")
    with pytest.raises(ValueError, match="none of light, dark"), look("pink"):
        pass
