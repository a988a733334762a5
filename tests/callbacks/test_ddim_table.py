"""The table of an evaluation."""

from __future__ import annotations

import torch

from minifold_pl.callbacks.ddim_evaluator import intervals
from minifold_pl.callbacks.ddim_table import cell_text, print_table, summary_line
from minifold_pl.metrics.bootstrap import bootstrap_interval

SCORES = ("tm_score", "tm_kabsch", "rmsd", "lddt_ca")


def rows(*names: str):
    return {name: intervals({score: torch.tensor([0.1, 0.2, 0.3]) for score in SCORES}) for name in names}


def test_the_table_shows_whole_intervals_and_marks_what_sees_the_answer(capsys) -> None:
    print_table("title", rows("model", "mirrored truth", "truth"))
    text = capsys.readouterr().out
    assert "…" not in text
    assert "mirrored truth*" in text
    assert "truth*" in text
    assert "model*" not in text
    assert text.count("[0.") == 12


def test_one_step_scores_have_their_own_table_by_timestep(capsys) -> None:
    found = rows("model", "centroid")
    for t, value in ((25, 0.9), (975, 0.1)):
        found["model"] |= intervals({f"x0_tm_t{t:03d}": torch.full((4,), value)})
        found["wiener smoother"] = found.get("wiener smoother", {}) | intervals(
            {f"x0_tm_t{t:03d}": torch.full((4,), value / 2)}
        )
    print_table("title", found)
    first, second = capsys.readouterr().out.split("one step from timestep")
    assert "wiener" not in first
    assert "centroid" not in second
    assert "t 25" in second
    assert "0.90 [0.90–0.90]" in second
    assert "0.05 [0.05–0.05]" in second


def test_the_line_says_what_is_compared_and_leaves_out_the_truth() -> None:
    line = summary_line(3, rows("model", "ideal helix", "truth"))
    assert line.startswith("tm_score of 3 held-out chains: model 0.200 [")
    assert "ideal helix" in line
    assert "truth" not in line


def test_a_mean_without_spread_and_an_undefined_one_do_not_pretend() -> None:
    assert cell_text(bootstrap_interval([0.25])) == "0.250"
    assert cell_text(bootstrap_interval([float("nan")])) == "–"


def test_every_timestep_of_the_dashboard_has_room(capsys) -> None:
    steps = intervals({f"x0_tm_t{t:03d}": torch.tensor([0.1, 0.9]) for t in (25, 75, 225, 475, 725, 975)})
    print_table("title", {"model": {**rows("model")["model"], **steps}, "shuffled sequence": steps})
    text = capsys.readouterr().out
    assert "…" not in text
    assert text.count("0.50 [0.10–0.90]") == 12
