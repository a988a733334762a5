from __future__ import annotations

import argparse
import os
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minifold_pl.checkpoint.contents import CheckpointError, foreign_state, read_checkpoint, summary, verify

Make = Callable[..., dict[str, Any]]


class _Bomb:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.touched}",)


def test_a_pickle_that_carries_code_is_refused_by_name_and_never_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "x": _Bomb(tmp_path / "touched")}, path)
    with pytest.raises(CheckpointError, match=r"carries code \((posix|nt)\.system\).*not loaded"):
        read_checkpoint(path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n", "Git LFS pointer"),
        (b"hello", "no checkpoint"),
        (b"PK\x03\x04 and nothing more", "damaged"),
    ],
)
def test_what_is_no_checkpoint_is_told_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert "a.ckpt" in str(caught.value)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        verify(tmp_path / "absent.ckpt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is a folder.*last\.ckpt"):
        verify(tmp_path / "run")


def test_a_zip_or_tensor_that_is_no_training_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(2), tmp_path / "tensor.ckpt")
    with pytest.raises(CheckpointError, match="Tensor, not a training checkpoint"):
        read_checkpoint(tmp_path / "tensor.ckpt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="state_dict"):
        summary(read_checkpoint(tmp_path / "other.ckpt"))


def test_the_summary_tells_what_was_saved(tmp_path: Path, checkpoint_of: Make) -> None:
    told = summary(checkpoint_of(57))
    assert (told.stage, told.step, told.epoch, told.version) == ("diffusion", 57, 5, "0.1.0")
    assert told.parameters == {"denoiser": 64 * 64, "pair_stack": 64}
    assert told.total == 64 * 64 + 64
    assert told.metrics == {"val/total (best)": 2.5, "val/total (current)": 2.75}
    assert told.model == "x.Y"
    assert told.data_config == {"max_length": 125}
    assert not told.ema
    assert summary({**checkpoint_of(57), "current_model_state": {}}).ema


@pytest.mark.parametrize(
    ("epochs", "batch", "validation", "told"),
    [
        ((3, 3), 0, (0, 0), "after epoch 3"),
        ((4, 3), 7, (0, 0), "in epoch 4, after batch 7"),
        ((4, 3), 9, (1, 0), "in epoch 4, after batch 9, with its validation"),
    ],
)
def test_the_summary_says_where_training_goes_on(
    checkpoint_of: Make, epochs: tuple[int, int], batch: int, validation: tuple[int, int], told: str
) -> None:
    loops = {
        "epoch_progress": {"current": {"ready": epochs[0], "processed": epochs[1]}},
        "epoch_loop.batch_progress": {"current": {"ready": batch}},
        "epoch_loop.val_loop.batch_progress": {"total": {"ready": validation[0], "processed": validation[1]}},
    }
    assert summary({**checkpoint_of(1), "loops": {"fit_loop": loops}}).place == told
    assert summary({**checkpoint_of(1), "loops": 3}).place is None


def test_a_checkpoint_of_stock_lightning_is_described_too() -> None:
    told = summary({"state_dict": {"w": torch.zeros(3)}, "global_step": 2, "epoch": 1})
    assert told.stage is None
    assert told.total == 3


PLAIN = [
    None,
    True,
    1,
    1.5,
    1j,
    "a",
    b"a",
    torch.zeros(1),
    torch.nn.Parameter(torch.zeros(1)),
    torch.Size([1]),
    torch.float32,
    torch.device("cpu"),
    OrderedDict(a=1),
    Counter("aab"),
    {1: [(2, {3})]},
]
FOREIGN = [np.float64(1), np.zeros(1), Path("x"), argparse.Namespace(a=1), defaultdict(int), slice(1), print]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_state_passes_and_is_loaded_back(tmp_path: Path, value: Any) -> None:
    assert foreign_state({"v": value}) is None
    torch.save({"v": value}, tmp_path / "a.ckpt")
    read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("value", FOREIGN, ids=repr)
def test_foreign_state_is_found_and_would_not_have_been_loaded(tmp_path: Path, value: Any) -> None:
    found = foreign_state({"v": [value]})
    assert found is not None
    assert "checkpoint['v'][0]" in found
    torch.save({"v": [value]}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="carries code"):
        read_checkpoint(tmp_path / "a.ckpt")
