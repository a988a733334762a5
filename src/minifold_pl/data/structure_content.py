"""The text of a structure file, and which format it is: told by content, never by name."""

from __future__ import annotations

import os
import re
import stat
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

PDB: Final = "pdb"
MMCIF: Final = "mmcif"
Format = Literal["pdb", "mmcif"]
MAX_BYTES: Final = 2 << 30
"""Largest file that is read, unpacked: several times the largest entry of the PDB archive."""

try:
    _FAST: Any = import_module("isal.isal_zlib")
    """Unpacks two to three times as fast as zlib, where it is installed."""
except ImportError:
    _FAST = None
_AT_ONCE: Final = 1 << 30
"""Bytes; a single read gives no more than twice that."""
_GZIP: Final = b"\x1f\x8b"
_LARGEST_FLAGS: Final = b"\x1f"
_COMPRESSIONS: Final = {
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"\x1f\x9d": "compress (.Z)",
}
_HEAD: Final = 4096
_CIF: Final = re.compile(rb"(?:\s|#[^\n]*\n)*data_", re.IGNORECASE)
_PDB_RECORD: Final = re.compile(
    rb"^(?:ATOM  |HETATM|HEADER|TITLE |COMPND|REMARK|SEQRES|MODEL |CRYST1|EXPDTA|AUTHOR)", re.MULTILINE
)
_ENDING: Final = re.compile(r"(?<=.)(?:\.(?:pdb|ent|cif|mmcif))?(?:\.gz)?$", re.IGNORECASE)
_ENTRY: Final = re.compile(r"(?:pdb)?([0-9][0-9a-z]{3})", re.IGNORECASE)
_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"


class StructureFileError(ValueError):
    """A file that holds no readable structure; one line that follows the file's name.

    ``reason`` is short and the same for all files with this problem, ``detail`` is about this one.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[StructureFileError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


def read_content(path: str | Path) -> bytes:
    """A file's bytes as they are.

    Raises:
        StructureFileError: it cannot be read, is no regular file, or is too large.
    """
    try:
        # A pipe would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise StructureFileError("is no regular file")
            if status.st_size > MAX_BYTES:
                raise StructureFileError(f"is larger than {MAX_BYTES >> 30} GiB")
            return os.read(descriptor, status.st_size) if status.st_size < _AT_ONCE else file.readall()
    except FileNotFoundError:
        raise StructureFileError("does not exist") from None
    except OSError as error:
        raise StructureFileError("cannot be read", error.strerror or one_line(error)) from None


def unpacked(content: bytes) -> bytes:
    """The text of a file that may be gzipped.

    Raises:
        StructureFileError: it is empty, damaged, or packed in another way.
    """
    for magic, name in _COMPRESSIONS.items():
        if content.startswith(magic):
            raise StructureFileError(f"is compressed by {name}; unpack it, or use gzip")
    if content.startswith(_GZIP):
        try:
            content = _gunzipped(content)
        except (EOFError, zlib.error) as error:
            raise StructureFileError("damaged gzip", one_line(error)) from None
        if len(content) > MAX_BYTES:
            raise StructureFileError(f"unpacks to more than {MAX_BYTES >> 30} GiB")
    if not content[:_HEAD].strip() and not content.strip():
        raise StructureFileError("is empty")
    return content


def _gunzipped(content: bytes) -> bytes:
    """All members of a gzip file; reads at most a little more than ``MAX_BYTES``."""
    if _FAST is not None:
        try:
            return _members(content, _FAST)
        except (EOFError, zlib.error, _FAST.error):
            pass  # what is wrong is told in zlib's words, whatever is installed
    return _members(content, zlib)


def _members(content: bytes, library: Any) -> bytes:
    """In one call a member: Python's own file object copies twice."""
    parts: list[bytes] = []
    room = MAX_BYTES + 1
    while content.startswith(_GZIP) and room > 0:
        if content[3:4] > _LARGEST_FLAGS:  # which zlib refuses, and the other does not
            library = zlib
        unpacker = library.decompressobj(wbits=31)
        parts.append(unpacker.decompress(content, room))
        room -= len(parts[-1])
        if room > 0 and not unpacker.eof:
            raise EOFError("the file ends within its compressed data")
        content = unpacker.unused_data
    if room > 0 and content.strip(b"\0"):
        raise zlib.error("something else follows the compressed data")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def format_of(text: bytes) -> Format:
    """Which of the two formats a file's unpacked text is.

    Raises:
        StructureFileError: it is neither; says what it is where that can be told.
    """
    head = text[:_HEAD].removeprefix(b"\xef\xbb\xbf")
    if (
        b"\0" in head
        or head[:1] in b"\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\xde\xdf"
    ):
        # MessagePack of a small map, as BinaryCIF begins, or any other binary file.
        what = (
            "BinaryCIF; fetch the entry as mmCIF" if b"dataBlocks" in text or b"encoder" in head else "binary"
        )
        raise StructureFileError(f"is {what}, neither PDB nor mmCIF text")
    if head.startswith(_LFS_POINTER):
        raise StructureFileError("is a git-LFS pointer, not the data; run `git lfs pull` beside it")
    if _CIF.match(head) or (head.lstrip()[:1] == b"#" and _CIF.match(text.removeprefix(b"\xef\xbb\xbf"))):
        return MMCIF
    start = head.lstrip()[:64].lower()
    for opening, what in _OTHERS.items():
        if start.startswith(opening):
            raise StructureFileError(f"is {what}, neither PDB nor mmCIF")
    if _PDB_RECORD.search(head) or b"\nATOM  " in text or b"\nHETATM" in text:
        return PDB  # whether there are atoms in it is seen when it is parsed
    raise StructureFileError("is neither PDB nor mmCIF")


_OTHERS: Final = {
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "XML",
    b"{": "JSON (a chain set is to be given by itself)",
    b">": "FASTA",
}


def structure_name(path: str | Path) -> str:
    """``2abc`` of ``2ABC.cif.gz``, ``pdb2abc.ent`` or ``2abc.pdb``; other names as they are, without endings."""
    name = _ENDING.sub("", printable(os.path.basename(path)))
    entry = _ENTRY.fullmatch(name)
    return entry[1].lower() if entry else name


def printable(path: str | Path) -> str:
    """A path as text in one line: names of files may be any bytes."""
    return plain(os.fsencode(path).decode("utf-8", "replace"))


def plain(text: str) -> str:
    """A line of text without what would steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def one_line(error: BaseException, limit: int = 200) -> str:
    """What an error says, in one line of printable text."""
    words = "".join(c if c.isprintable() else " " for c in str(error)).split()
    text = " ".join(words) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def is_structure(path: str | Path) -> bool:
    """Whether a file is a structure file by its name or by how it begins; it need not be a sound one."""
    if re.search(r"\.(pdb|ent|cif|mmcif|bcif)(\.gz)?$", str(path), re.IGNORECASE):
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
        if head.startswith(_GZIP):
            head = zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except (OSError, zlib.error):
        return False
    return bool(_CIF.match(head) or re.match(_PDB_RECORD, head))
