"""``minifold-pl submit``: a run on its way through as many jobs as it takes."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from minifold_pl.cli.configs import config_chain
from minifold_pl.cli.errors import UserError
from minifold_pl.launch.job import script
from minifold_pl.launch.lead import lead_for
from minifold_pl.launch.plan import Limits, Plan, jobs_folder, plan_path, read_plan
from minifold_pl.launch.resources import ProfileError, Resources, find_profile, read_profile
from minifold_pl.launch.submission import (
    Refused,
    Wish,
    after_halt,
    refuse_a_second,
    settle,
    start,
    start_array,
)
from minifold_pl.launch.waiting import wait_for
from minifold_pl.run.folder import RunFolder, fresh_folder
from minifold_pl.run.marker import RunState, read_marker

DESCRIPTION = """\
Submit a run once; it trains through time limits, preemption and lost machines until it is done, halted or stopped.
Every argument that is not listed here goes to `fit` (`minifold-pl fit --help`)."""
EPILOG = """\
examples:
  minifold-pl submit --config v13.yaml --data.path STORE --profile gpu --partition a100 --time 12:00:00
  minifold-pl submit --config v13.yaml --data.path STORE --seeds 0-4 --parallel 2
  minifold-pl submit --config v11.yaml v13.yaml --data.path STORE --dry-run
  minifold-pl submit --config quickstart.yaml --cluster local --wait

--config A B gives one run each; a second --config lies on top of them, as with `fit`.
The settings are resolved now: what happens to the files later changes nothing in a run that is on its way."""

_TEXT = (
    "partition",
    "account",
    "qos",
    "time",
    "mem",
    "constraint",
    "exclude",
    "nodelist",
    "mail-user",
    "mail-type",
)
_NUMBERS = ("nodes", "tasks", "gpus", "cpus")
_ONCE = ("--accept-changes", "--run.accept_changes=true")


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What of the rest of the command line is not for ``fit``, or not for each start."""

    folder: str | None
    fresh: bool
    once: tuple[str, ...]
    extra: dict[str, str | bool]
    rest: tuple[str, ...]


def add_parser(subparsers: Any) -> None:
    """Add ``submit``."""
    parser = subparsers.add_parser(
        "submit",
        help="train on a cluster, or in the background here, until it is done",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", "-c", nargs="+", action="append", metavar="CONFIG")
    parser.add_argument(
        "--again", metavar="RUN", help="go on with a run as it was submitted before; flags change it"
    )
    parser.add_argument("--cluster", choices=("slurm", "local"), help="default: slurm")
    parser.add_argument("--profile", help="resources: cpu, gpu, multi_gpu or a YAML file")
    parser.add_argument("--seeds", nargs="+", metavar="SEED", help="one run each: 0 1 2 or 0-4")
    parser.add_argument(
        "--parallel", type=int, default=256, metavar="N", help="first jobs of an array at a time"
    )
    parser.add_argument(
        "--run.dir", dest="folder", metavar="DIR", help="run folder; of several runs, the folder above"
    )
    resources = parser.add_argument_group("resources of each job (over those of the profile)")
    for name in _TEXT:
        resources.add_argument(f"--{name}")
    for name in _NUMBERS:
        resources.add_argument(f"--{name}", type=int)
    resources.add_argument(
        "--requeue", action=argparse.BooleanOptionalAction, default=None, help="by Slurm itself"
    )
    resources.add_argument("--slurm.OPTION", dest="_", metavar="VALUE", help="any other option of sbatch")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-restarts", type=int, metavar="N", help="starts after the first")
    limits.add_argument("--max-gpu-hours", type=float, metavar="H", help="of all jobs of the run together")
    limits.add_argument(
        "--max-fruitless", type=int, metavar="N", help="failures without a newer checkpoint (3)"
    )
    limits.add_argument("--max-idle", type=int, metavar="N", help="stops without a newer checkpoint (10)")
    limits.add_argument(
        "--backoff", type=float, metavar="S", help="seconds after a fruitless start, doubled (15)"
    )
    limits.add_argument("--lead", type=float, metavar="S", help="warning before the time limit (as measured)")
    parser.add_argument("--after-halt", action="store_true", help="go on with a run that halted")
    parser.add_argument("--dry-run", action="store_true", help="print the batch script, submit nothing")
    parser.add_argument("--wait", action="store_true", help="stay until the run is over")
    parser.set_defaults(run=submit, takes_rest=True)


def submit(args: argparse.Namespace) -> int:
    """Submit the runs that the arguments ask for.

    Raises:
        UserError: A wrong setting, a run that is on its way already, no scheduler.
    """
    given = _given(args)
    if (args.config is None) == (args.again is None):
        raise UserError("give either --config CONFIG or --again RUN", exit_code=2)
    if args.parallel < 1:
        raise UserError(f"--parallel must be at least 1, got {args.parallel}", exit_code=2)
    try:
        if args.again is not None:
            given = _take_up(args, given)
        resources = _resources(args, given.extra)
        args.cluster = args.cluster or "slurm"
        wishes = _wishes(args, given, resources)
        if args.dry_run:
            return _show(args, wishes, resources)
        return _submit(args, wishes, resources)
    except ProfileError as error:
        raise UserError(str(error), exit_code=2) from error
    except Refused as error:
        raise UserError(str(error), exit_code=error.exit_code) from error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise UserError(f"{error.strerror or error}{where}") from error


def _submit(args: argparse.Namespace, wishes: Sequence[Wish], resources: Resources) -> int:
    if args.cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError("there is no sbatch on this machine; --cluster local trains here", exit_code=2)
    plans = [_plan(args, wish, resources) for wish in wishes]
    for plan in plans:
        refuse_a_second(plan.folder)
    configs = [settle(wish) for wish in wishes]
    if len(plans) > 1 and args.cluster == "slurm":
        place = plans[0].folder.parent / "arrays"
        jobs = start_array(plans, configs, args.parallel, place)
    else:
        jobs = [start(plan, config) for plan, config in zip(plans, configs, strict=True)]
    for plan, job in zip(plans, jobs, strict=True):
        kind = "job" if args.cluster == "slurm" else "process"
        print(f"{plan.folder}: {kind} {job}", flush=True)
    first = shlex.quote(str(plans[0].folder))
    print(f"  minifold-pl status {first}\n  minifold-pl logs {first}\n  minifold-pl stop {first}", flush=True)
    if not args.wait:
        return 0
    codes = []
    for plan in plans:
        prefix = f"{plan.folder.name}: " if len(plans) > 1 else ""
        codes.append(wait_for(plan.folder, args.cluster, partial(_tell, prefix)))
    return max(codes)


def _tell(prefix: str, line: str) -> None:
    print(prefix + line, flush=True)


def _show(args: argparse.Namespace, wishes: Sequence[Wish], resources: Resources) -> int:
    plans = [_plan(args, wish, resources) for wish in wishes]
    for wish in wishes:
        settle(wish)
    if args.cluster == "local":
        for plan in plans:
            print(shlex.join([plan.python, "-m", "minifold_pl", *plan.arguments, *plan.once]))
        return 0
    several = [plan.path for plan in plans] if len(plans) > 1 else []
    place = plans[0].folder.parent / "arrays" if several else None
    print(script(plans[0], lead=lead_for(plans[0]), plans=several, parallel=args.parallel, folder=place))
    return 0


def _given(args: argparse.Namespace) -> _Given:
    once: list[str] = []
    rest: list[str] = []
    extra: dict[str, str | bool] = {}
    fresh = False
    words = list(args.rest)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name.startswith("--slurm."):
            extra[name.removeprefix("--slurm.")] = value if equals else _value(words)
        elif word in ("--fresh", "--run.fresh=true"):
            fresh = True
        elif word in _ONCE:
            once.append(word)
        elif name == "--ckpt_path":
            once += [name, value if equals else _value(words)]
        elif name in ("--run.fresh", "--run.after_halt", "--run.wait", "--print_config"):
            raise UserError(f"{name} cannot be given to submit (see --help)", exit_code=2)
        else:
            rest.append(word)
    for name, value in extra.items():
        if value in ("", "true"):
            extra[name] = True
        elif value == "false":
            extra[name] = False
    return _Given(folder=args.folder, fresh=fresh, once=tuple(once), extra=extra, rest=tuple(rest))


def _value(words: list[str]) -> str:
    """Take the value of an option; empty where another option follows, or nothing."""
    return "" if not words or words[0].startswith("--") else words.pop(0)


def _resources(args: argparse.Namespace, extra: dict[str, str | bool]) -> Resources:
    base = Resources()
    if args.profile:
        base = read_profile(find_profile(args.profile))
    elif args.again is not None:
        base = args.before.resources
    flags = {name.replace("-", "_"): getattr(args, name.replace("-", "_")) for name in (*_TEXT, *_NUMBERS)}
    flags["requeue"] = args.requeue
    given = {name: value for name, value in flags.items() if value is not None}
    if given.get("gpus") and "tasks" not in given and not args.profile:
        given["tasks"] = given["gpus"]
    return base.changed({**given, **({"extra": extra} if extra else {})})


def _take_up(args: argparse.Namespace, given: _Given) -> _Given:
    folder = Path(args.again).expanduser().absolute()
    try:
        args.before = read_plan(plan_path(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} was never submitted: {error}", exit_code=2) from error
    if args.folder is not None or args.seeds is not None or given.fresh:
        raise UserError("--again takes neither --run.dir nor --seeds nor --fresh", exit_code=2)
    args.config = [[str(jobs_folder(folder) / "config.yaml")]]
    args.cluster = args.cluster or args.before.cluster
    args.lead = args.before.lead if args.lead is None else args.lead
    return replace(given, folder=str(folder))


def _folder_in(config: str) -> str | None:
    """The run folder that a config names; that of a run names its own."""
    found: str | None = None
    for text in config_chain(config):
        run = (yaml.safe_load(text) or {}).get("run")
        if isinstance(run, dict) and isinstance(run.get("dir"), str):
            found = run["dir"]
    return found


def _wishes(args: argparse.Namespace, given: _Given, resources: Resources) -> list[Wish]:
    first, *overlays = args.config
    if any(len(group) > 1 for group in overlays):
        raise UserError("only the first --config may name several configs, one run each", exit_code=2)
    seeds = [None] if args.seeds is None else _seeds(args.seeds)
    runs = [(config, seed) for config in first for seed in seeds]
    shape: list[str] = []
    if args.cluster == "slurm":
        if not any(word.partition("=")[0] == "--trainer.devices" for word in given.rest):
            shape += ["--trainer.devices", str(resources.tasks)]
        if not any(word.partition("=")[0] == "--trainer.num_nodes" for word in given.rest):
            shape += ["--trainer.num_nodes", str(resources.nodes)]
    wishes = []
    for config, seed in runs:
        name = Path([config, *(group[0] for group in overlays)][-1]).stem
        if len(first) > 1:
            name = Path(config).stem
        if seed is not None:
            name += f"-seed{seed}"
        own = _folder_in(config) if given.folder is None and seed is None else None
        if own is not None:
            folder = Path(own).expanduser()
        elif given.folder is None:
            folder = Path("runs") / name
        else:
            folder = (
                Path(given.folder).expanduser() / name if len(runs) > 1 else Path(given.folder).expanduser()
            )
        folder = folder.absolute()
        if args.cluster == "slurm" and any(mark in str(folder) for mark in "%\\\n"):
            # %j and the like are filled in, backslashes dropped: the job would find no file to print to, and fail.
            raise UserError(
                f"the run folder {str(folder)!r} holds %, a backslash or a line break, which Slurm reads as "
                "something else in the names of output files: choose another name",
                exit_code=2,
            )
        if given.fresh and not args.dry_run:
            folder = fresh_folder(folder)
        arguments = ["--config", config]
        for group in overlays:
            arguments += ["--config", group[0]]
        if seed is not None:
            arguments += ["--seed_everything", str(seed)]
        again = after_halt(folder, args.after_halt)
        _tell_if_done(folder)
        wishes.append(
            Wish(folder=folder, arguments=(*arguments, *shape, *given.rest), once=(*given.once, *again))
        )
    if len({wish.folder for wish in wishes}) < len(wishes):
        raise UserError("two of the runs would share a folder: give configs of different names", exit_code=2)
    return wishes


def _tell_if_done(folder: Path) -> None:
    marker = read_marker(RunFolder(folder).marker)
    if marker is not None and marker.state is RunState.DONE:
        print(
            f"{folder} is done ({marker.reason}); a job will only go on where a limit is higher now",
            file=sys.stderr,
        )


def _seeds(given: Sequence[str]) -> list[int | None]:
    seeds: list[int | None] = []
    for word in given:
        matched = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if matched is None or (matched[2] is not None and int(matched[2]) < int(matched[1])):
            raise UserError(f"--seeds takes numbers and ranges such as 0-4, not {word!r}", exit_code=2)
        seeds += range(int(matched[1]), int(matched[2] or matched[1]) + 1)
    return seeds


def _plan(args: argparse.Namespace, wish: Wish, resources: Resources) -> Plan:
    limits = {
        name: getattr(args, name)
        for name in ("max_fruitless", "max_idle", "max_restarts", "max_gpu_hours", "backoff")
        if getattr(args, name) is not None
    }
    before = {} if args.again is None else asdict(args.before.limits)
    try:
        return Plan(
            folder=wish.folder,
            cluster=args.cluster,
            name=f"mf-{wish.folder.name}",
            arguments=("fit", "--config", str(jobs_folder(wish.folder) / "config.yaml")),
            once=wish.once,
            python=sys.executable,
            resources=resources,
            limits=Limits(**{**before, **limits}),
            lead=args.lead,
        )
    except ValueError as error:
        raise UserError(str(error), exit_code=2) from error
