import gzip
import zlib

import numpy as np
import pytest

from minifold_pl.data import structure_content
from minifold_pl.data.structure_content import StructureFileError, unpacked

TEXT = b"ATOM      1  N   MET A   1      27.340  24.430   2.614\n" * 300


@pytest.fixture(autouse=True, params=["zlib", "isal"])
def library(request, monkeypatch):
    """Each test with zlib alone, and with the faster library where it is installed: nothing else may differ."""
    fast = pytest.importorskip("isal.isal_zlib") if request.param == "isal" else None
    monkeypatch.setattr(structure_content, "_FAST", fast)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_all_members_of_a_gzip_file_are_unpacked(parts):
    assert unpacked(gzip.compress(TEXT) * parts) == TEXT * parts
    assert unpacked(gzip.compress(TEXT) * parts + bytes(512)) == TEXT * parts  # as tapes are padded


def test_whatever_follows_the_compressed_data_is_refused():
    packed = gzip.compress(TEXT)
    for rest in (b"x", packed[-8:], packed[-4:], packed[-9:] * 2, b"\0" * 4 + packed[-4:], packed[:-1]):
        with pytest.raises(StructureFileError, match="damaged gzip"):
            unpacked(packed + rest)


def test_a_member_whose_size_is_wrong_is_refused():
    packed = gzip.compress(TEXT)
    for size in (0, 1, len(TEXT) + 1, 2**32 - 1):
        with pytest.raises(StructureFileError, match="damaged gzip"):
            unpacked(packed[:-4] + size.to_bytes(4, "little"))


def test_what_is_unpacked_is_what_zlib_unpacks_member_by_member():
    rng = np.random.default_rng(3)
    packed = gzip.compress(TEXT, mtime=0)
    for _ in range(300):
        damaged = bytearray(packed)
        for place in rng.integers(len(damaged), size=rng.integers(1, 3)):
            damaged[place] ^= 1 << int(rng.integers(8))
        data = bytes(damaged)
        if not data.startswith(b"\x1f\x8b"):
            continue
        unpacker = zlib.decompressobj(wbits=31)
        try:
            expected = unpacker.decompress(data)
            sound = unpacker.eof and not unpacker.unused_data
        except zlib.error:
            sound = False
        if sound:
            assert unpacked(data) == expected
        else:
            with pytest.raises(StructureFileError, match="damaged gzip"):
                unpacked(data)


def test_flags_that_no_gzip_file_has_are_refused():
    packed = bytearray(gzip.compress(TEXT))
    for flag in (0x20, 0x40, 0x80):
        packed[3] = flag
        with pytest.raises(StructureFileError, match=r"damaged gzip.*unknown header flags"):
            unpacked(bytes(packed))
