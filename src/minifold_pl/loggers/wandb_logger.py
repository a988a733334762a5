"""Weights & Biases with one run id for the life of a run folder."""

from __future__ import annotations

import os
import secrets
from netrc import NetrcParseError, netrc
from typing import Literal
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger

from minifold_pl.run.folder import RunFolder

_DEFAULT_SERVER = "https://api.wandb.ai"

Mode = Literal["auto", "online", "offline", "disabled"]


def wandb_logger(folder: RunFolder, mode: Mode, project: str) -> WandbLogger | None:
    """The W&B logger of a run, or None where it is disabled.

    The id is made once and kept in the run folder, so that a resumed run goes on with one curve.

    Args:
        folder: The run's folder.
        mode: ``auto`` is online where there is an API key and offline where there is none; ``WANDB_MODE`` wins.
        project: Project on the W&B side.
    """
    chosen = os.environ.get("WANDB_MODE", "") or mode
    if chosen == "auto":
        chosen = "online" if _has_key() else "offline"
    if chosen in ("disabled", "dryrun"):
        return None
    # wandb warns of settings that Lightning passes on; errors still come as exceptions.
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    folder.wandb_id.parent.mkdir(parents=True, exist_ok=True)
    if folder.wandb_id.is_file():
        run_id = folder.wandb_id.read_text().strip()
    else:
        run_id = secrets.token_hex(4)
        folder.wandb_id.write_text(run_id + "\n")
    return WandbLogger(
        project=project,
        name=folder.path.name,
        id=run_id,
        save_dir=str(folder.path),
        mode=chosen,
        resume=None if chosen == "offline" else "allow",
        settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, init_timeout=30),
    )


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or _DEFAULT_SERVER).hostname or ""
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
