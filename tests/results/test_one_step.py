import json

import numpy as np
import pytest

from minifold_pl.results.one_step import NoScores, read_one_step


def _cell(mean):
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "n": 5}


def _rows(shift=0.0):
    return {
        "wiener smoother": {"x0_tm_t025": _cell(0.7), "x0_tm_t725": _cell(0.1)},
        "model": {"tm_score": _cell(0.5), "x0_tm_t725": _cell(0.3 + shift), "x0_tm_t025": _cell(0.8)},
        "centroid": {"tm_score": _cell(0.1)},
    }


def test_a_runs_last_evaluation_is_read_and_a_cut_line_is_not(tmp_path):
    lines = [json.dumps({"epoch": e, "step": 10 * e, "chains": 5, "scores": _rows(e / 10)}) for e in (1, 2)]
    (tmp_path / "ddim.jsonl").write_text("\n".join(lines) + '\n{"epoch": 3, "sc')
    found = read_one_step(tmp_path)
    assert [(c.name, c.floor) for c in found.curves] == [("model", False), ("wiener smoother", True)]
    assert found.curves[0].times.tolist() == [25, 725]
    np.testing.assert_array_equal(found.curves[0].mean, [0.8, 0.5])
    np.testing.assert_array_equal(found.curves[0].low, [0.8 - 0.01, 0.5 - 0.01])
    assert found.about == "after epoch 2, step 20; 5 chains"
    assert read_one_step(tmp_path, epoch=1).curves[0].mean[1] == pytest.approx(0.4)
    with pytest.raises(NoScores, match="after epoch 7; there are 1, 2"):
        read_one_step(tmp_path, epoch=7)


def test_a_summary_and_diagnose_noise_are_read(tmp_path):
    told = {"checkpoint": {"step": 9}, "data": {"chains": 5, "split": "test"}}
    (tmp_path / "summary.json").write_text(json.dumps({**told, "rows": _rows()}))
    levels = [
        {"t": 25, "rows": {"model": {"tm_kabsch": _cell(0.9)}, "wiener smoother": {"tm_kabsch": _cell(0.6)}}}
    ]
    (tmp_path / "noise.json").write_text(json.dumps({**told, "levels": levels}))
    assert read_one_step(tmp_path).curves[0].mean.tolist() == [0.8, 0.3]
    noise = read_one_step(tmp_path / "noise.json")
    assert [(c.name, c.mean.tolist()) for c in noise.curves] == [("model", [0.9]), ("wiener smoother", [0.6])]
    assert noise.about == "step 9; 5 chains of test"


def test_a_score_that_is_null_is_nan(tmp_path):
    rows = {"model": {"x0_tm_t025": {"mean": 0.5, "low": None, "high": None, "n": 1}}}
    (tmp_path / "summary.json").write_text(json.dumps({"rows": rows}))
    assert np.isnan(read_one_step(tmp_path).curves[0].low[0])


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("ddim.jsonl", "", "no evaluation yet"),
        ("summary.json", "{", "no JSON"),
        ("summary.json", "[]", "no one-step scores"),
        ("summary.json", '{"rows": {"model": {"tm_score": {"mean": 1}}}}', "no one-step scores"),
        ("other", "x", "nothing was evaluated yet"),
    ],
)
def test_what_holds_no_scores_says_why(tmp_path, name, content, why):
    (tmp_path / name).write_text(content)
    with pytest.raises(NoScores, match=why):
        read_one_step(tmp_path)
    with pytest.raises(NoScores, match="cannot be read"):
        read_one_step(tmp_path / "missing.json")
