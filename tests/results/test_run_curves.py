import json

import numpy as np
import pytest
import yaml

from minifold_pl.loggers.csv_table import CsvTable
from minifold_pl.results.run_curves import NoCurves, read_curves


@pytest.fixture
def run(tmp_path):
    """Two epochs of four steps, with a validation each, and a third that has begun."""
    folder = tmp_path / "a_run"
    folder.mkdir()
    table = CsvTable(folder / "metrics.csv")
    for step in range(10):
        table.add(step, {"epoch": str(step // 4), "lr/rest": "0.001"})
    for step, total, val in ((3, "2.5", "3.0"), (7, "nan", "2.0")):
        row = {
            "loss/total": total,
            "loss/fape": "1.5",
            "val/total": val,
            "val/fape": "1.25",
            "val/score": val,
        }
        table.add(step, row | {"grad/denoiser": "0.5", "grad_clipped/denoiser": "0.25", "patience/wait": "0"})
    table.add(7, {"ddim/tm_score": "0.3", "baseline/other_chain/tm_score": "0.2", "val/sequence/real": "9"})
    table.flush()
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "best": {"monitor": "val/total", "mode": "min"},
                "patience": {"patience": 7},
                "clipping": {"max_norm": {"denoiser": 1.0, "aux": None}, "rest": None, "whole": 2.0},
            }
        )
    )
    events = [
        {"event": "started", "step": 0},
        {"event": "tripwire", "step": 6, "module": "pair_stack"},
        {"event": "resumed", "step": 4},
        {"event": "saved", "step": 8},
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + '{"event": "res')
    return folder


def test_curves_hold_the_numbers_of_the_file_at_steps_and_epochs_taken(run):
    curves = read_curves(run)
    assert curves.name == "a_run"
    assert list(curves.train) == ["total", "fape"]
    assert list(curves.val) == ["total", "fape", "score"]  # the sequence test is no term
    np.testing.assert_array_equal(curves.val["total"].value, [3.0, 2.0])
    np.testing.assert_array_equal(curves.val["total"].step, [4, 8])
    np.testing.assert_array_equal(curves.val["total"].epoch, [1, 2])
    np.testing.assert_array_equal(curves.train["total"].value, [2.5, np.nan])
    np.testing.assert_allclose(curves.rates["rest"].epoch, np.arange(1, 11) / 4)  # also beyond the last end
    assert curves.epochs == 2.5


def test_best_patience_limits_scores_and_events_come_along(run):
    curves = read_curves(run, "named")
    assert curves.name == "named"
    assert (curves.monitor, curves.best, curves.patience) == ("val/total", 1, 7)
    assert curves.limits == {"denoiser": 1.0, "all": 2.0}
    assert curves.scores["ddim/tm_score"].value.tolist() == [0.3]
    assert curves.baselines == {"ddim/tm_score": {"other chain": 0.2}}
    assert [(m.kind, m.step, m.epoch, m.told) for m in curves.marks] == [
        ("tripwire", 6, 1.5, "pair_stack"),
        ("resumed", 4, 1.0, ""),
    ]
    assert curves.gradients["denoiser"].value.tolist() == [0.5, 0.5]
    assert curves.clipped["denoiser"].value.tolist() == [0.25, 0.25]


def test_a_line_that_is_being_written_and_cells_that_are_no_numbers_are_left_out(run):
    path = run / "metrics.csv"
    text = path.read_text().replace("0.3,", "rubbish,")
    path.write_text(text + "10,2,0.1")
    curves = read_curves(run)
    assert "ddim/tm_score" not in curves.scores
    assert curves.rates["rest"].step[-1] == 10


def test_a_run_without_a_sound_config_has_its_curves(run):
    (run / "config.yaml").write_text("a: [")
    curves = read_curves(run)
    assert curves.monitor == "val/total" and curves.best == 1 and curves.limits == {}


def test_before_the_first_epoch_ends_the_axis_counts_its_part(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,epoch,lr/rest\n0,0,1\n49,0,1\n")
    curves = read_curves(tmp_path)
    assert curves.rates["rest"].epoch.tolist() == [1 / 50, 1.0]
    assert curves.train == {} and curves.best is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no folder of a run"),
        ("", "holds no rows"),
        ("step,epoch,loss/total\n", "holds no rows"),
        ("name,score\nx,1\n", "holds no rows"),
        ("step,epoch\n1,0", "holds no rows"),
    ],
)
def test_what_has_no_curves_says_why(tmp_path, content, why):
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(NoCurves, match=why):
        read_curves(tmp_path)


def test_a_missing_folder_and_a_file_are_told_apart(tmp_path):
    with pytest.raises(NoCurves, match="does not exist"):
        read_curves(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NoCurves, match="is a file"):
        read_curves(tmp_path / "file")
    (tmp_path / "config.yaml").write_text("a: 1")
    with pytest.raises(NoCurves, match="logged nothing yet"):
        read_curves(tmp_path)
