"""The folder of a run: one run each, one process at a time, always the same config."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from trainers.checkpoints import Checkpoints
from trainers.config import CONFIG_FILE, TrainConfig, differing_keys, read_config
from zoo.atomic_write import replacing
from zoo.strict_config import to_dict

_LOCK_FILE = ".lock"
_PARTIAL = ".partial-"  # how `zoo.atomic_write` calls files under way


class WorkdirError(ValueError):
    """The workdir cannot hold this run."""


@contextlib.contextmanager
def claimed(workdir: Path, config: TrainConfig) -> Iterator[None]:
    """The workdir, made and locked while the block runs, with this config in it.

    Raises:
        WorkdirError: not writable, in use by another process, not empty and no run, or a run
            with another config that has a checkpoint.
    """
    _refuse_foreign(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / _LOCK_FILE, "a")  # noqa: SIM115  closed below, which unlocks
    except OSError as error:
        raise _not_writable(workdir, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkdirError(f"--workdir={workdir}: another process is training there") from None
        except OSError as error:
            raise _not_writable(workdir, error) from error
        _refuse_other_config(workdir, config)
        try:
            _remove_leftovers(workdir)
            with replacing(workdir / CONFIG_FILE) as temporary:
                temporary.write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise _not_writable(workdir, error) from error
        yield


def _not_writable(workdir: Path, error: OSError) -> WorkdirError:
    return WorkdirError(f"--workdir={workdir} cannot be written: {error.strerror}; choose another")


def _refuse_foreign(workdir: Path) -> None:
    if not workdir.is_dir() or (workdir / CONFIG_FILE).is_file():
        return
    # A process killed before its config was written leaves no more than these two.
    foreign = [n for n in os.listdir(workdir) if n != _LOCK_FILE and not n.startswith(_PARTIAL)]
    if foreign:
        shown = ", ".join(sorted(foreign)[:3]) + (", ..." if len(foreign) > 3 else "")
        raise WorkdirError(
            f"--workdir={workdir} is not empty ({shown}) and holds no training run: choose another"
        )


def _refuse_other_config(workdir: Path, config: TrainConfig) -> None:
    under_way = read_config(workdir)
    differing = [] if under_way is None else differing_keys(under_way, config)
    # Before the first checkpoint there is nothing to lose: a mistyped setting may be mended.
    if differing and Checkpoints(workdir).latest() is not None:
        raise WorkdirError(
            f"--workdir={workdir} holds a run with another config:\n  "
            + "\n  ".join(differing)
            + "\nRepeat its settings to go on with it, or choose another --workdir"
        )


def _remove_leftovers(workdir: Path) -> None:
    """Files that a killed process was writing; under the lock nobody else is."""
    for path in workdir.rglob(f"{_PARTIAL}*"):
        if path.is_file():
            path.unlink()
