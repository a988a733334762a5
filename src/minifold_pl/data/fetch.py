"""Downloads that end with the whole file, over connections that do not.

A download goes to ``NAME.part``; beside it ``NAME.part.json`` says of which version of the file the bytes are
(ETag or date, and size). What is there is kept whatever happens, and the next try, or the next call, asks for the
rest (RFC 9110 section 14: Range and If-Range); where the server has another version by now, or ignores the
range, it starts again. The finished file is put at its name in one step, with its sha256 beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

import minifold_pl

_BLOCK: Final = 1 << 16
_SPARE: Final = 64 * 2**20
"""Bytes that stay free on the disk."""
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be another in a while."""
_LONGEST_WAIT: Final = 120.0
_LONGEST_TIMEOUT: Final = 86_400.0
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class FetchError(ValueError):
    """A file that could not be downloaded; what has arrived stays and is used by the next call."""


class NotThere(FetchError):
    """The server has no such file, or does not give it."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file that is there whole."""

    path: Path
    bytes: int
    sha256: str
    downloaded: bool
    """False when it was there already."""
    tries: int


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to go on."""

    tries: int = 8
    """Failures in a row, each without one new byte, after which it gives up."""
    wait: float = 1.0
    """Seconds before the second try; doubled each time, up to two minutes, with up to a quarter added at random."""
    timeout: float = 60.0
    """Seconds without an answer, or with less than ``slowest`` bytes a second, after which it connects anew."""
    slowest: float = 1024.0
    """Bytes a second."""

    def __post_init__(self) -> None:
        sound = (
            self.tries >= 1 and self.wait >= 0 and 0 < self.timeout <= _LONGEST_TIMEOUT and self.slowest >= 0
        )
        if not sound:
            raise ValueError(
                f"{self}: tries and timeout must be above 0, the others not below, and timeout at most "
                f"{_LONGEST_TIMEOUT:,.0f} s"
            )


Report = Callable[[int, int | None], None]
"""Called with the bytes that are there and the size of the whole, where known."""


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    patience: Patience | None = None,
    report: Report | None = None,
    log: Callable[[str], None] | None = None,
) -> Fetched:
    """Download ``url`` to ``path``; returns at once when it is there with the sha256 noted beside it.

    Args:
        url: http or https.
        path: The file to make; its folder is made too.
        sha256: What the content must have; hexadecimal.
        patience: When to give up.
        report: Told of the progress.
        log: Told of each failed try, a line each.

    Raises:
        FetchError: not found, not allowed, given up, no room on the disk, another checksum, or another process is
            downloading it.
        OSError: the file cannot be written.
    """
    path = Path(path)
    check_address(url)
    if sha256 is not None and not _SHA256.fullmatch(sha256.lower()):
        raise FetchError(f"sha256 {sha256!r} is not 64 hexadecimal digits")
    wanted = sha256.lower() if sha256 else None
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and (there := _already_there(path, wanted)) is not None:
        return there
    job = _Download(url, path, patience or Patience(), report or (lambda *_: None), log or (lambda _: None))
    with job.locked():
        tries = job.run()
        found = file_sha256(job.part)
        if wanted is not None and found != wanted:
            job.forget()
            raise FetchError(
                f"{url} has sha256 {found}, {wanted} is expected; what was downloaded was removed. Is it the right "
                "file, and the right checksum?"
            )
        size = job.part.stat().st_size
        _note_sha256(path, found)
        os.replace(job.part, path)
        job.notes.unlink(missing_ok=True)
    return Fetched(path=path, bytes=size, sha256=found, downloaded=True, tries=tries)


def check_address(url: str) -> None:
    """Refuse what is no address of a file on a server.

    Raises:
        FetchError: as said.
    """
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets, or a port that is no number
        sound = False
    if not sound:
        raise FetchError(f"{url} is no http or https address")


def _speaks_of_bytes(tag: str) -> bool:
    """Whether an ETag is there and no weak one."""
    return bool(tag) and not tag.startswith("W/")


def _is_of(version: str, tag: str, date: str) -> bool:
    """Whether a part is of the version whose beginning is there.

    A part that was asked for by an ETag must have it, one that was asked for by a date may come without (RFC 9110
    section 15.3.7).
    """
    return tag == version if version.startswith('"') else date in ("", version)


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_file(path: Path) -> Path:
    """Where a file's sha256 is noted, in the form of ``sha256sum``."""
    return path.with_name(f"{path.name}.sha256")


def _note_sha256(path: Path, digest: str) -> None:
    sha256_file(path).write_text(f"{digest}  {path.name}\n")


def _already_there(path: Path, wanted: str | None) -> Fetched | None:
    """The file at ``path`` when it is known to be whole: its sha256 is the one wanted, or noted."""
    noted: str | None = None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        noted = next(iter(sha256_file(path).read_text().split()), None)
    if (expected := wanted or noted) is None:
        raise FetchError(
            f"{path} is there, and nothing says what it should be; move it away, or give its sha256"
        )
    found = file_sha256(path)
    if found == expected:
        return Fetched(path=path, bytes=path.stat().st_size, sha256=found, downloaded=False, tries=0)
    raise FetchError(
        f"{path} is there with sha256 {found}, {expected} is expected; move it away to download it again"
    )


class _Retry(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the server asks for."""


class _Download:
    """One file on its way."""

    def __init__(
        self, url: str, path: Path, patience: Patience, report: Report, log: Callable[[str], None]
    ) -> None:
        self.url, self.patience, self.report, self.log = url, patience, report, log
        self.part = path.with_name(f"{path.name}.part")
        self.notes = path.with_name(f"{path.name}.part.json")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out."""
        with self.part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FetchError(f"another process is downloading {self.part}; wait for it") from None
            try:
                yield
            finally:
                if self.part.exists() and not self.part.stat().st_size:
                    self.part.unlink()

    def forget(self) -> None:
        """Start from nothing the next time."""
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def run(self) -> int:
        """Try until the file is whole; returns how many tries that took."""
        furthest, failures, tries = self.part.stat().st_size, 0, 0
        while True:
            tries += 1
            try:
                self._attempt()
                return tries
            except _Retry as error:
                have = self.part.stat().st_size
                # A server that ignores ranges and always fails at the same place makes no progress.
                failures = 0 if have > furthest else failures + 1
                furthest = max(furthest, have)
                if failures >= self.patience.tries:
                    raise FetchError(
                        f"{self.url}: {error}; given up after {tries} tries, {failures} of them without progress. "
                        f"{have:,} bytes stay in {self.part}; the same command goes on from there"
                    ) from None
                wait = self._wait(failures, error.wait)
                self.log(f"{self.url}: {error}; trying again in {wait:.0f} s with {have:,} bytes there")
                time.sleep(wait)

    def _wait(self, failures: int, asked: float | None) -> float:
        wait = self.patience.wait * 2 ** max(failures - 1, 0) * random.uniform(1.0, 1.25)
        return min(max(wait, asked or 0.0), _LONGEST_WAIT)

    def _attempt(self) -> None:
        have, known = self.part.stat().st_size, self._known()
        if not known:  # nobody knows which version the bytes are of
            have = 0
        if have and have == known.get("size"):
            return
        headers = {"User-Agent": f"minifold-pl/{minifold_pl.__version__}", "Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": known["version"]}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url, headers=headers), timeout=self.patience.timeout
            ) as answer:
                self._receive(answer, have, known)
        except urllib.error.HTTPError as error:
            self._refused(error)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise FetchError(f"{self.url}: {error.reason}") from None
            raise _Retry(f"no connection ({error.reason})") from None
        except FetchError:
            raise
        except (ValueError, OverflowError, http.client.InvalidURL) as error:
            raise FetchError(f"{self.url}, or where the server sends to, is no address: {error}") from None
        except (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
            raise _Retry(f"the connection broke ({str(error) or type(error).__name__})") from None

    def _refused(self, error: urllib.error.HTTPError) -> None:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self.forget_content()
                raise _Retry("the file is shorter than what is there already")
            if error.code in _LATER:
                asked = error.headers.get("Retry-After", "")
                raise _Retry(
                    f"the server answers {error.code} {error.reason}",
                    wait=float(asked) if _NUMBER.fullmatch(asked) else None,
                )
            reason = " ".join(str(error.reason).split())  # of a redirection in a circle it has several lines
        raise NotThere(f"{self.url}: the server answers {error.code} {reason}")

    def forget_content(self) -> None:
        """Throw away what has arrived, keeping the lock."""
        os.truncate(self.part, 0)
        self.notes.unlink(missing_ok=True)

    def _receive(self, answer: Any, have: int, known: dict[str, Any]) -> None:
        if (encoding := answer.headers.get("Content-Encoding", "identity")) != "identity":
            raise FetchError(
                f"{self.url}: the server sends it as {encoding}, though the file as it is was asked for"
            )
        start, size = self._place(answer, known.get("size"))
        tag, date = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
        if start:
            if (
                start != have
                or size != (known.get("size") or size)
                or not _is_of(known["version"], tag, date)
            ):
                self.forget_content()
                raise _Retry("the server sends another part than was asked for, or of another file")
            self._check_room(size, start)
        else:
            # All of it: the first time, or the server ignores ranges, or it has another version by now.
            self._check_room(size, 0)
            os.truncate(self.part, 0)
            version = tag if _speaks_of_bytes(tag) else date
            self.notes.write_text(json.dumps({"version": version, "size": size}) if version else "{}")
        self._copy(answer, start, size)

    def _place(self, answer: Any, known_size: int | None) -> tuple[int, int | None]:
        """Where the body starts in the file, and the size of the whole, where the server says or said."""
        length = answer.headers.get("Content-Length", "")
        bytes_here = int(length) if _NUMBER.fullmatch(length) else None
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
            if match is None:
                self.forget_content()
                raise _Retry("the server sends a part and does not say which")
            if match[3] != "*":
                return int(match[1]), int(match[3])
            rest = None if bytes_here is None else int(match[1]) + bytes_here
            return int(match[1]), rest if known_size is None else known_size
        return 0, bytes_here

    def _check_room(self, size: int | None, start: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if size is not None and size - start + _SPARE > free:
            raise FetchError(
                f"{self.url} needs {(size - start) / 2**20:,.0f} MiB more in {self.part.parent}, "
                f"{free / 2**20:,.0f} MiB are free; make room, or give another --out"
            )

    def _copy(self, answer: Any, start: int, size: int | None) -> None:
        have = start
        window_began, window_bytes = time.monotonic(), 0
        with self.part.open("r+b") as file:
            file.seek(have)
            try:
                while size is None or have < size:
                    # read1 gives what is there: read would wait for a whole block from a server that trickles.
                    block = answer.read1(_BLOCK)
                    if not block:
                        break
                    block = block if size is None else block[: size - have]
                    file.write(block)
                    have += len(block)
                    window_bytes += len(block)
                    self.report(have, size)
                    passed = time.monotonic() - window_began
                    if passed > self.patience.timeout:
                        if window_bytes < self.patience.slowest * passed:
                            raise _Retry(f"only {window_bytes / passed:,.0f} bytes a second arrive")
                        window_began, window_bytes = time.monotonic(), 0
            finally:
                _to_disk(file)
        if size is not None and have < size:
            raise _Retry(f"the connection ended after {have:,} of {size:,} bytes")

    def _known(self) -> dict[str, Any]:
        """What is known of the bytes that are there; empty where they are of no use."""
        try:
            known = json.loads(self.notes.read_text())
        except (OSError, ValueError):
            return {}
        return (
            known
            if isinstance(known, dict) and isinstance(known.get("version"), str) and known["version"]
            else {}
        )


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
