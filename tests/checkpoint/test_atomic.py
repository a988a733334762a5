from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minifold_pl.checkpoint.atomic import (
    HashingWriter,
    atomic_write,
    atomic_write_text,
    remove_stale_temporaries,
    sha256,
    staged,
)


def test_the_size_and_checksum_of_a_write_are_those_of_the_file(tmp_path: Path) -> None:
    def write(stream: HashingWriter) -> None:
        for part in (b"abc", b"", b"de" * 1000):
            assert stream.write(part) == len(part)

    done = atomic_write(tmp_path / "new" / "file", write)
    content = (tmp_path / "new" / "file").read_bytes()
    assert content == b"abc" + b"de" * 1000
    assert done.size == len(content)
    assert done.sha256 == sha256(tmp_path / "new" / "file") == hashlib.sha256(content).hexdigest()


def test_a_stream_that_takes_little_at_a_time_gets_everything() -> None:
    class Slow(io.RawIOBase):
        taken = b""

        def write(self, data: bytes) -> int:
            self.taken += bytes(data[:7])
            return min(7, len(data))

    slow = Slow()
    stream = HashingWriter(slow)
    assert stream.write(bytes(range(100))) == 100
    assert slow.taken == bytes(range(100))
    assert stream.sha256 == hashlib.sha256(bytes(range(100))).hexdigest()


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    atomic_write_text(target, "old")

    def fail(stream: HashingWriter) -> None:
        stream.write(b"half of the new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        atomic_write(target, fail)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_text_survives_the_round_trip_as_utf8(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "t", "Å β\n")
    assert (tmp_path / "t").read_bytes() == "Å β\n".encode()


def test_a_name_near_the_file_systems_limit_can_be_written(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / ("n" * 255), "x")
    assert (tmp_path / ("n" * 255)).read_text() == "x"


def test_leaving_without_a_commit_changes_nothing(tmp_path: Path) -> None:
    with staged(tmp_path / "file") as (stream, _):
        stream.write(b"x")
    assert os.listdir(tmp_path) == []


def test_a_kill_inside_a_write_leaves_the_old_file_and_a_leftover_that_can_be_swept(tmp_path: Path) -> None:
    target = tmp_path / "file"
    atomic_write_text(target, "old")
    script = (
        "import sys, time\n"
        "from minifold_pl.checkpoint.atomic import atomic_write\n"
        "def slow(stream):\n"
        "    stream.write(b'half'); stream.flush(); print('inside', flush=True); time.sleep(60)\n"
        "atomic_write(sys.argv[1], slow)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"inside\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert target.read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2

    assert len(remove_stale_temporaries(tmp_path)) == 1
    assert os.listdir(tmp_path) == ["file"]


def test_sweeping_spares_what_this_process_is_writing(tmp_path: Path) -> None:
    with staged(tmp_path / "file") as (stream, commit):
        stream.write(b"mine")
        assert remove_stale_temporaries(tmp_path) == []
        commit()
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_the_module_does_not_import_torch() -> None:
    start = time.monotonic()
    code = "import sys, minifold_pl.checkpoint.atomic; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert time.monotonic() - start < 20
