"""What has changed in a run's settings, and what of it matters."""

from __future__ import annotations

import pytest

from minifold_pl.run.settings import MISSING, Change, changes, fingerprint, flat

CONFIG = {
    "seed_everything": 0,
    "model": {"class_path": "m.D", "init_args": {"p_uncond": 0.1, "betas": [0.9, 0.99], "rest": {}}},
    "data": {"path": "store", "num_workers": 2, "batch_size": 4},
    "trainer": {"max_epochs": 60, "precision": None, "callbacks": None},
    "clipping": {"max_norm": {"denoiser": 1.0}},
    "run": {"dir": "runs/a", "fresh": False},
}


def _with(name: str, value: object) -> dict:
    """``CONFIG`` with one setting replaced."""
    first, *rest = name.split(".")

    def put(config: dict, keys: list[str]) -> dict:
        key, *more = keys
        return {**config, key: value if not more else put(config.get(key, {}), more)}

    return put(CONFIG, [first, *rest])


def test_equal_settings_have_no_changes() -> None:
    assert changes(CONFIG, _with("model.init_args.p_uncond", 0.1)) == ()


def test_a_change_is_told_by_the_name_of_its_flag() -> None:
    (change,) = changes(CONFIG, _with("model.init_args.p_uncond", 0.3))
    assert str(change) == "model.init_args.p_uncond: 0.1 → 0.3"


def test_settings_that_came_or_went_are_changes() -> None:
    (came,) = changes(CONFIG, _with("clipping.max_norm.aux", 0.5))
    assert came == Change(name="clipping.max_norm.aux", before=MISSING, after=0.5)
    (went,) = changes(_with("clipping.max_norm.aux", 0.5), CONFIG)
    assert str(went) == "clipping.max_norm.aux: 0.5 → (none)"
    emptied = changes(CONFIG, _with("clipping.max_norm", {}))
    assert {change.name for change in emptied} == {"clipping.max_norm", "clipping.max_norm.denoiser"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trainer.max_epochs", 90), ("data.num_workers", 0), ("run.dir", "elsewhere"), ("trainer.callbacks", [{}]),
        ("ddim.chains", 4), ("patience.patience", 3), ("trainer.log_every_n_steps", 1), ("trainer.devices", 2),
        ("model.init_args.sampler.kind", "heun"),
    ],
)  # fmt: skip
def test_harmless_changes_leave_the_fingerprint(name: str, value: object) -> None:
    found = changes(CONFIG, _with(name, value))
    assert found
    assert all(change.harmless for change in found)
    assert fingerprint(_with(name, value)) == fingerprint(CONFIG)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed_everything", 1), ("data.batch_size", 8), ("data.num_workers_too", 8), ("ema.decay", 0.9),
        ("trainer.precision", "bf16-mixed"), ("trainer.accumulate_grad_batches", 2), ("model.class_path", "m.E"),
        ("model.init_args.betas", [0.9, 0.98]), ("something_new", 1), ("clipping.max_norm.denoiser", 2.0),
    ],
)  # fmt: skip
def test_everything_else_is_part_of_the_run(name: str, value: object) -> None:
    (change,) = changes(CONFIG, _with(name, value))
    assert not change.harmless
    assert fingerprint(_with(name, value)) != fingerprint(CONFIG)


def test_what_concerns_one_start_only_is_no_change() -> None:
    assert changes(CONFIG, _with("run.fresh", True)) == ()
    assert changes(CONFIG, {**CONFIG, "ckpt_path": "x.ckpt"}) == ()


def test_only_limits_say_when_a_run_is_done() -> None:
    limits = [n for n in ("trainer.max_epochs", "trainer.max_steps", "patience.patience", "run.dir", "ddim.chains")
              if changes(CONFIG, _with(n, 7))[0].limit]  # fmt: skip
    assert limits == ["trainer.max_epochs", "trainer.max_steps", "patience.patience"]


def test_the_fingerprint_does_not_depend_on_the_order_of_settings() -> None:
    assert fingerprint(dict(reversed(CONFIG.items()))) == fingerprint(CONFIG)
    assert len(fingerprint(CONFIG)) == 16


def test_long_values_are_cut_on_the_screen() -> None:
    assert len(str(Change(name="a", before="x" * 10_000, after=1))) < 300


def test_flat_names() -> None:
    assert flat({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}
