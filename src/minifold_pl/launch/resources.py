"""What a job asks the scheduler for: profiles, flags, and submitit's names for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import yaml


class _Loader(yaml.SafeLoader):
    """Reads 1:30:00 as what it looks like; YAML 1.1 has it as a number to the base of 60."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:int"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))


class ProfileError(ValueError):
    """A profile or an option that makes no job; the message says what is allowed."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one job of a run asks for; None leaves it to the site's default."""

    partition: str | None = None
    """Partition, or several with commas."""
    account: str | None = None
    """Who pays."""
    qos: str | None = None
    """Quality of service."""
    time: str = "1-00:00:00"
    """Time limit of each job, as sbatch takes it: minutes, HH:MM:SS, D-HH:MM:SS. The run may take many of them."""
    nodes: int = 1
    """Machines."""
    tasks: int = 1
    """Processes on each machine: with GPUs one for each."""
    gpus: int = 0
    """GPUs on each machine."""
    cpus: int = 1
    """CPU cores for each process, its data workers among it."""
    mem: str | None = None
    """Memory of each machine, e.g. 32G."""
    constraint: str | None = None
    """Features that the machines must have."""
    exclude: str | None = None
    """Machines to stay away from."""
    nodelist: str | None = None
    """Machines to take."""
    mail_user: str | None = None
    """Who is told."""
    mail_type: str | None = None
    """Of what, e.g. END,FAIL; every job of the run tells."""
    requeue: bool = False
    """Let Slurm put the job itself back into the queue after a lost node or a preemption. Without it the successor
    takes over at once; a requeued job waits (two minutes at Slurm's defaults) and the successor waits for it."""
    extra: Mapping[str, str | bool] = field(default_factory=dict)
    """Any other option of sbatch by its long name, e.g. {reservation: course}."""
    srun: tuple[str, ...] = ()
    """More options for srun."""
    setup: tuple[str, ...] = ()
    """Shell lines before the run: modules, environment."""

    def __post_init__(self) -> None:
        for name in ("nodes", "tasks", "cpus"):
            if getattr(self, name) < 1:
                raise ProfileError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.gpus < 0:
            raise ProfileError(f"gpus must not be negative, got {self.gpus}")
        if self.gpus and self.gpus % self.tasks and self.tasks % self.gpus:
            raise ProfileError(f"{self.gpus} gpus do not divide among {self.tasks} tasks")
        seconds(self.time)

    @property
    def all_gpus(self) -> int:
        """GPUs of the job."""
        return self.nodes * self.gpus

    @property
    def processes(self) -> int:
        """Processes of the job."""
        return self.nodes * self.tasks

    def changed(self, options: Mapping[str, Any]) -> Self:
        """With other values, by name.

        Raises:
            ProfileError: An unknown name or a value of the wrong kind.
        """
        known = {f.name: f for f in fields(self)}
        for name, value in options.items():
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
                raise ProfileError(
                    f"unknown resource {name!r}{hint} (other options of sbatch go under extra)"
                )
            _check_kind(name, value, known[name].type)
        now = dict(options)
        for name in ("setup", "srun"):
            if isinstance(now.get(name), list):
                now[name] = tuple(now[name])
        if isinstance(now.get("time"), int):
            now["time"] = str(now["time"])
        if isinstance(now.get("extra"), Mapping):
            now["extra"] = {**self.extra, **now["extra"]}
        return replace(self, **now)


def seconds(time: str) -> int:
    """Seconds of a time limit as sbatch takes it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.

    Raises:
        ProfileError: It is none.
    """
    if time.upper() in ("UNLIMITED", "INFINITE"):
        return 10 * 365 * 86400
    matched = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if matched is None:
        raise ProfileError(f"time {time!r} is no time limit: minutes, HH:MM:SS or D-HH:MM:SS")
    days, *parts = (0 if p is None else int(p) for p in matched.groups())
    given = sum(p is not None for p in matched.groups()[1:])
    if matched.group(1) is not None or given == 3:
        hours, minutes, rest = parts
    else:
        hours, minutes, rest = 0, parts[0], parts[1]
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if total == 0:
        raise ProfileError(f"time {time!r} is no time at all")
    return total


def read_profile(path: Path) -> Resources:
    """The resources in a YAML file.

    Raises:
        ProfileError: It is no such file, or holds unknown names.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(f"profile {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ProfileError(f"profile {path} must be a mapping of resources, not {type(content).__name__}")
    try:
        return Resources().changed(content)
    except ProfileError as error:
        raise ProfileError(f"profile {path}: {error}") from error


def profile_folder() -> Path:
    """The shipped profiles: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "slurm"
    return installed if installed.is_dir() else package.parents[1] / "slurm"


def find_profile(name: str) -> Path:
    """The file that ``name`` means: a path, or the name of a shipped profile with or without ``.yaml``.

    Raises:
        ProfileError: Neither exists.
    """
    shipped = profile_folder()
    for path in (Path(name).expanduser(), shipped / name, shipped / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
    raise ProfileError(f"no profile {name!r}: neither a file nor a shipped one ({known})")


def _check_kind(name: str, value: Any, kind: Any) -> None:
    kind = str(kind)
    fits = {
        "int": isinstance(value, int) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str) or (name == "time" and isinstance(value, int)),
        "str | None": value is None or isinstance(value, str),
        "tuple[str, ...]": isinstance(value, list | tuple) and all(isinstance(v, str) for v in value),
        "Mapping[str, str | bool]": isinstance(value, Mapping),
    }
    if not fits[kind]:
        raise ProfileError(f"{name} must be {kind}, got {value!r}")
