from __future__ import annotations

from minifold_pl.launch.tries import last_words, made_progress
from minifold_pl.run.history import Attempt


def attempt(**more: object) -> Attempt:
    return Attempt(number=1, began="", last_seen="", **more)  # type: ignore[arg-type]


def test_an_events_word_counts_before_what_was_printed() -> None:
    failed = attempt(end="failed", reason="boom")
    assert last_words("Traceback\nValueError: boom", [failed]) == "boom"
    assert (
        last_words("error: no such config\n", [attempt(end="interrupted", reason="SIGTERM")])
        == "error: no such config"
    )


def test_the_last_lines_are_those_of_the_training_without_labels_or_slurms_own() -> None:
    printed = (
        "0: Traceback (most recent call last):\n0:   File x\n0: ImportError: no module\n\n"
        "srun: error: n1: task 0: Exited with exit code 1\nslurmstepd-n1: error: *** STEP 6.0 ON n1 CANCELLED\n"
    )
    assert last_words(printed, []).endswith("ImportError: no module")


def test_progress_is_a_checkpoint_with_more_steps_than_the_start_had() -> None:
    saved = {"saved": 1}
    assert made_progress([attempt(first_step=4, last_step=6, counts=saved)])
    assert not made_progress([attempt(first_step=4, last_step=6)])
    assert not made_progress([attempt(first_step=6, last_step=6, counts=saved)])
    assert not made_progress([attempt(counts=saved)]) and not made_progress([])
    assert made_progress([attempt(end="done")])


def test_a_librarys_hint_is_not_the_reason_of_a_kill() -> None:
    hint = "/opt/lightning/fabric/plugins/environments/slurm.py:204: The `srun` command is available but not used."
    assert last_words(f"{hint}\n0: {hint}\n", []) == ""
