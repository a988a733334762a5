"""Tensor by tensor, what of a model is in other weights."""

from __future__ import annotations

import pytest
import torch

from minifold_pl.modules.weight_matching import lies_under, match_weights

OWN = {
    "a.x": torch.zeros(2, 3),
    "a.y": torch.zeros(4),
    "b.p.w": torch.zeros(5),
    "b.p.v": torch.zeros(6),
    "b.q.w": torch.zeros(7),
    "c.w": torch.zeros(8),
}
THEIRS = {
    "a.x": torch.ones(2, 3),
    "a.y": torch.ones(4),
    "b.p.w": torch.ones(5),
    "b.p.v": torch.ones(9),
    "c.w": torch.ones(8),
    "c.u": torch.ones(10),
    "d.w": torch.ones(11),
    "a.buffer": torch.ones(1),
}


@pytest.fixture
def matching():
    return match_weights(OWN, THEIRS, fresh=["c"], ignored=["a.buffer"])


def test_every_tensor_of_both_has_one_fate(matching) -> None:
    assert matching.fates == {
        "a.x": "matched", "a.y": "matched", "b.p.w": "matched", "b.p.v": "shape", "b.q.w": "missing",
        "c.w": "fresh", "d.w": "unexpected",
    }  # fmt: skip


def test_modules_are_counted_and_mixed_ones_show_the_parts_that_do_not_match(matching) -> None:
    told = {
        module: {fate: (tally.tensors, tally.elements) for fate, tally in tallies.items()}
        for module, tallies in matching.modules().items()
    }
    assert told == {
        "a": {"matched": (2, 10)},
        "b": {"matched": (1, 5), "shape": (1, 6), "missing": (1, 7)},
        "b.p": {"matched": (1, 5), "shape": (1, 6)},
        "b.q": {"missing": (1, 7)},
        "c": {"fresh": (1, 8)},
        "d": {"unexpected": (1, 11)},
    }


def test_the_table_has_a_line_for_each_module_and_the_shapes_that_differ(matching) -> None:
    lines = matching.table().splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines}
    assert cells["a"] == ["2", "(10)", "–", "–", "–", "–"]
    assert cells["d"] == ["–", "–", "–", "1", "(11)", "–"]
    assert cells["all"] == ["3", "(15)", "1", "(6)", "1", "(7)", "1", "(11)", "1", "(8)"]
    assert lines[-1] == "other shape: b.p.v ([9] there, [6] here)"
    assert max(map(len, lines)) <= 110


def test_a_module_differs_in_what_either_side_lacks_but_not_in_what_begins_at_random() -> None:
    matching = match_weights(OWN, THEIRS)
    assert matching.differing("a") == ["a.buffer (absent here)"]
    assert matching.differing("b") == ["b.p.v ([9] there, [6] here)", "b.q.w (absent there)"]
    assert matching.differing("c") == ["c.u (absent here)"]
    assert match_weights(OWN, THEIRS, fresh=["c.u"]).differing("c") == []


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(4, dtype=torch.int64),
        torch.zeros(4, dtype=torch.complex64),
        torch.zeros(4, dtype=torch.bool),
        torch.zeros(4, device="meta"),
        torch.zeros(4).to_sparse(),
    ],
    ids=["integers", "complex", "booleans", "meta", "sparse"],
)
def test_what_is_no_weight_does_not_match_although_its_shape_does(value) -> None:
    assert match_weights({"w": torch.zeros(4)}, {"w": value}).fates == {"w": "shape"}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_match(kind) -> None:
    assert match_weights({"w": torch.zeros(4)}, {"w": torch.zeros(4, dtype=kind)}).fates == {"w": "matched"}


def test_names_from_a_file_neither_flood_the_screen_nor_write_on_it() -> None:
    theirs = {f"{k}\x1b[2J\n{'x' * 500}.w": torch.zeros(1) for k in range(3000)}
    table = match_weights({"a.w": torch.zeros(1)}, theirs).table()
    assert "\x1b" not in table
    assert len(table.splitlines()) < 50
    assert max(map(len, table.splitlines())) < 200
    assert "2961 more modules are not shown" in table


def test_a_prefix_is_a_whole_name() -> None:
    assert lies_under("denoiser.backbone_head.w", ["denoiser.backbone_head"])
    assert lies_under("denoiser", ["denoiser"])
    assert not lies_under("denoiser_2.w", ["denoiser"])
