"""The benchmarks' own clockwork: a check that cannot fail would be worth nothing."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from benchmarks.frame import contest, measure
from benchmarks.frame.contest import Contest, geomean, hold, worst
from benchmarks.frame.interface import Benchmark, Goal, Options, Result, Row, found
from benchmarks.frame.measure import Timing, interleaved, ratio
from benchmarks.frame.memory import peak_bytes
from benchmarks.modules.module_growth import cubic_share, exponent
from benchmarks.peers.adapter import make
from benchmarks.peers.checkout import importable
from torch import nn

from benchmarks import __main__ as program

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(monkeypatch):
    """Two cells, each run measured once, weights as they start, peaks all alike."""
    monkeypatch.setattr(contest, "QUICK", ((8, 1), (16, 1)))
    monkeypatch.setattr(measure, "SHORTEST_SAMPLE", 0.0)
    monkeypatch.setattr(contest, "awake", lambda module: module)
    monkeypatch.setattr(
        contest, "peak_bytes", lambda run, device: 1000
    )  # the profiler takes its time to start


def test_every_benchmark_is_found_by_its_file():
    names = set(found())
    assert names >= {"triangle", "ipa", "row_attention", "column_attention", "transition", "module_growth"}


def test_alternatives_take_turns_and_each_round_starts_with_another():
    order = []
    clock = iter(range(10_000))  # every reading a second later: no run is repeated
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    timings = interleaved(runs, rounds=3, device=CPU, clock=lambda: next(clock))
    assert "".join(order) == "aabbcc" + "abc" + "bca" + "cab"
    assert all(t.samples == (1000.0,) * 3 for t in timings.values())


def test_rounds_that_would_take_too_long_are_not_begun():
    count = []
    assert interleaved({"a": lambda: count.append(1)}, rounds=7, device=CPU, seconds=-1) is None
    assert len(count) <= 2


def test_a_ratio_is_taken_round_by_round():
    slow, fast = Timing(samples=(2.0, 40.0, 6.0)), Timing(samples=(1.0, 20.0, 2.0))
    assert ratio(slow, fast) == 2.0


def test_the_peak_counts_what_is_held_at_once():
    def run():
        a = torch.ones(500_000)
        b = a + 1
        del a
        c = b + 1
        return c[:1].clone()

    assert 4_000_000 <= peak_bytes(run, CPU) < 4_100_000


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(1.0, True, True), (0.9, True, False), (0.9, False, True), (None, True, None)],
)
def test_a_goal_is_met_on_the_right_side_of_its_target(value, at_least, met):
    assert Goal(name="", value=value, target=1.0, at_least=at_least).met is met


def test_the_worst_cell_is_the_goal_and_none_is_not_measured():
    ratios = {("fp32", "fwd", 64, 1): 1.5, ("fp32", "fwd", 125, 4): 1.1}
    assert worst("", ratios, 1.2, why="").value == 1.1
    assert worst("", ratios, 1.2, at_least=False, why="").value == 1.5
    assert geomean("", ratios, 1.2, why="").value == pytest.approx((1.5 * 1.1) ** 0.5)
    assert worst("", {}, 1.2, why="no peer").met is None


class Doubled(nn.Module):
    def __init__(self, wrong=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.wrong, self.same_weights = wrong, True

    def forward(self, x):
        return x * self.weight * 2 + self.wrong


def small_contest(**peers):
    def inputs(length, batch, device):
        return (torch.randn(batch, length, 3),), torch.ones(batch, length, dtype=torch.bool)

    makers = {name: ("openfold", lambda _, __, wrong=wrong: Doubled(wrong)) for name, wrong in peers.items()}
    return Contest(module=Doubled, inputs=inputs, makers=makers)


def test_what_disagrees_with_the_reference_is_not_timed(tiny, tmp_path):
    options = Options(device=CPU, rounds=2, quick=True, compiled=False, peers={"openfold": tmp_path})
    outcome = hold(small_contest(good=0.0, bad=0.5), options)
    timed = {row.alternative for row in outcome.rows}
    assert timed == {"fast", "textbook", "good"}
    assert any("bad is not timed" in note for note in outcome.notes)
    assert {row.cell["mode"] for row in outcome.rows} == {"fwd", "fwd+bwd"}
    assert all(row.median > 0 and row.peak_mb is not None for row in outcome.rows)
    assert all(goal.met for goal in outcome.exactness())


def test_an_error_of_our_own_fails_the_goal(tiny, monkeypatch):
    fast = contest._forms

    def broken(ours, what, options):
        forms = fast(ours, what, options)
        forms["fast"] = Doubled(1e-4)
        return forms

    monkeypatch.setattr(contest, "_forms", broken)
    outcome = hold(small_contest(), Options(device=CPU, rounds=1, quick=True, compiled=False))
    assert next(goal.met for goal in outcome.exactness()) is False


def test_cells_beyond_the_memory_cap_are_left_out_and_named(tiny):
    options = Options(device=CPU, rounds=1, quick=True, compiled=False, memory_cap=1_000)
    left_out = [row for row in hold(small_contest(), options).rows if row.median is None]
    assert left_out and all("needs about" in row.note for row in left_out)


def test_cells_beyond_the_time_are_left_out_without_a_single_run(tiny):
    outcome = hold(small_contest(), Options(device=CPU, rounds=1, quick=True, compiled=False, until=0.0))
    assert not outcome.timings
    assert {row.note for row in outcome.rows} == {"left out: no time left"}


def test_a_peer_without_checkout_or_with_a_broken_one_is_named(tmp_path):
    def broken(root, ours):
        with importable(root):
            import surely_not_there  # noqa: F401

    makers = {"absent": ("genie2", broken), "broken": ("openfold", broken)}
    made, reasons = make(makers, Doubled(), {"openfold": tmp_path})
    assert made == {}
    assert "absent: no checkout given (--peer genie2=PATH)" in reasons[0]
    assert "broken: cannot be imported" in reasons[1] and "surely_not_there" in reasons[1]


def test_two_checkouts_may_hold_a_package_of_the_same_name(tmp_path):
    seen = []
    for name in ("one", "two"):
        package = tmp_path / name / "shared_name_of_peers"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('imports all of the project')")
        (package / "part.py").write_text(f"import empty_extension\nWHO = {name!r}")
        with importable(tmp_path / name, ("shared_name_of_peers",), ("empty_extension",)):
            from shared_name_of_peers.part import WHO

            seen.append(WHO)
        assert not {"shared_name_of_peers", "shared_name_of_peers.part", "empty_extension"} & set(sys.modules)
    assert seen == ["one", "two"]


def test_growth_is_read_off_known_polynomials():
    lengths = (64, 128, 256, 512)
    assert exponent({n: 3.0 * n**2 for n in lengths}) == pytest.approx(2)
    assert cubic_share({n: 100.0 * n**2 + n**3 for n in lengths}, 512) == pytest.approx(512 / 612)
    assert cubic_share({n: 5.0 * n**2 for n in lengths}, 512) == pytest.approx(0, abs=1e-9)


def result(value):
    rows = [
        Row(alternative="fast", cell={"L": n}, median=float(n), iqr=0.1, peak_mb=1.0) for n in (64, 128, 256)
    ]
    return Result(rows=rows, goals=[Goal(name="faster", value=value, target=2.0)], notes=["a note"])


@pytest.mark.parametrize(
    ("value", "code", "verdict"), [(2.5, 0, "met"), (1.5, 1, "MISSED"), (None, 0, "not measured")]
)
def test_the_exit_code_says_whether_a_goal_was_missed(value, code, verdict, monkeypatch, capsys, tmp_path):
    one = Benchmark(name="one", about="a benchmark", run=lambda options: result(value))
    monkeypatch.setattr(program, "found", lambda: {"one": one})
    assert program.main(["--out", str(tmp_path / "out"), "--device", "cpu"]) == code
    text = capsys.readouterr().out
    assert verdict in text and "≥ 2×" in text and "a note" in text
    written = json.loads((tmp_path / "out" / "benchmarks.json").read_text())
    assert written["machine"]["torch"] == torch.__version__
    assert written["benchmarks"]["one"]["goals"][0]["met"] is {0: True, 1: False}.get(code if value else None)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--only", "nothing"],
        ["--rounds", "3"],
        ["--rounds", "0", "--quick"],
        ["--peer", "openfold"],
        ["--peer", "else=/"],
        ["--device", "tpu"],
    ],
)
def test_wrong_use_ends_with_2(wrong):
    with pytest.raises(SystemExit) as ended:
        program.main(wrong)
    assert ended.value.code == 2


def two_benchmarks(monkeypatch, first, second):
    """Named one and two."""
    runs = {"one": first, "two": second}
    monkeypatch.setattr(
        program, "found", lambda: {n: Benchmark(name=n, about="", run=run) for n, run in runs.items()}
    )


def out_of_memory(options):
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("value", [2.5, 1.5])
def test_a_benchmark_that_fails_is_named_and_the_others_are_measured(value, monkeypatch, capsys, tmp_path):
    two_benchmarks(monkeypatch, out_of_memory, lambda options: result(value))
    assert program.main(["--out", str(tmp_path), "--device", "cpu"]) == 3  # not 1, which is a missed goal
    assert "FAILED  one: RuntimeError: out of memory" in capsys.readouterr().out
    written = json.loads((tmp_path / "benchmarks.json").read_text())
    assert list(written["benchmarks"]) == ["two"]
    assert written["failed"] == {"one": "RuntimeError: out of memory"}


def test_a_run_that_is_ended_keeps_what_it_had(monkeypatch, tmp_path):
    def ended(options):
        raise KeyboardInterrupt

    two_benchmarks(monkeypatch, lambda options: result(2.5), ended)
    with pytest.raises(KeyboardInterrupt):
        program.main(["--out", str(tmp_path), "--device", "cpu"])
    assert list(json.loads((tmp_path / "benchmarks.json").read_text())["benchmarks"]) == ["one"]


@pytest.mark.parametrize("wrong", ["file", "file/below", "has_a_folder"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_measured(
    wrong, monkeypatch, tmp_path, capsys
):
    (tmp_path / "file").touch()
    (tmp_path / "has_a_folder" / "benchmarks.json").mkdir(parents=True)
    measured = []
    two_benchmarks(monkeypatch, measured.append, measured.append)
    with pytest.raises(SystemExit) as ended:
        program.main(["--out", str(tmp_path / wrong), "--device", "cpu"])
    assert ended.value.code == 2
    assert not measured
    assert f"--out {tmp_path / wrong}" in capsys.readouterr().err


def test_figures_that_cannot_be_written_are_shown_and_told(monkeypatch, tmp_path, capsys):
    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(program.report, "write_json", full)
    two_benchmarks(monkeypatch, lambda options: result(2.5), lambda options: result(2.5))
    assert program.main(["--out", str(tmp_path), "--device", "cpu"]) == 3
    shown = capsys.readouterr()
    assert shown.out.count("a note") == 2
    assert "no space left" in shown.err


def test_help_says_what_the_exit_codes_are(capsys):
    with pytest.raises(SystemExit):
        program.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "0 every measured goal is met, 1 a goal is missed, 2 wrong use, 3 a benchmark failed" in text
