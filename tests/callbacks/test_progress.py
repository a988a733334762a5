"""One line an epoch."""

from __future__ import annotations

import re

from minifold_pl.callbacks.patience import Patience
from minifold_pl.callbacks.progress import EpochLines


def test_every_epoch_is_one_line_that_says_how_it_went(tiny, make_trainer, capsys) -> None:
    make_trainer(Patience(patience=9), EpochLines()).fit(tiny)
    out = re.sub(r" +", " ", re.sub(r"\d+ s\b", "0 s", capsys.readouterr().out))
    lines = [line for line in out.splitlines() if "epoch" in line]
    assert lines == [
        "epoch 1 step 3 loss/total 2.500 val/total 5.000 0 s NEW BEST",
        "epoch 2 step 6 loss/total 2.500 val/total 3.000 0 s NEW BEST",
        "epoch 3 step 9 loss/total 2.500 val/total 4.000 0 s pat 1",
        "epoch 4 step 12 loss/total 2.500 val/total 4.500 0 s pat 2",
        "epoch 5 step 15 loss/total 2.500 val/total 4.200 0 s pat 3",
    ]


def test_a_value_that_is_not_there_yet_is_a_dash(tiny, make_trainer, capsys) -> None:
    make_trainer(EpochLines(columns=["ddim/tm_kabsch"]), max_epochs=1).fit(tiny)
    assert re.search(r"ddim/tm_kabsch +–", capsys.readouterr().out)


def test_an_epoch_without_validation_claims_no_best(tiny, make_trainer, capsys) -> None:
    make_trainer(Patience(patience=9), EpochLines(), max_epochs=2, check_val_every_n_epoch=2).fit(tiny)
    first, second = [line for line in capsys.readouterr().out.splitlines() if "epoch" in line]
    assert "NEW BEST" not in first
    assert "NEW BEST" in second
