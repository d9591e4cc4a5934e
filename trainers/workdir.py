"""The folder of a run: one run each, one process at a time, always the same config."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from trainers.checkpoints import Checkpoints
from trainers.config import CONFIG_FILE, TrainConfig, differing_keys, read_config
from trainers.report.report import REPORT_FILE
from zoo.config import to_dict
from zoo.files import locked_folder, own_files, replacing

# What may change where a run is made longer.
_EXTENDING = ("steps", "evaluate_every", "patience")


class WorkdirError(ValueError):
    """The workdir cannot hold this run."""


@contextlib.contextmanager
def claimed(
    workdir: Path, config: TrainConfig, extend: bool = False
) -> Iterator[TrainConfig | None]:
    """The workdir, made and locked while the block runs, with this config in it.

    Args:
        extend: whether `steps` of a run there may become more, with `evaluate_every` and
            `patience`. A finished run is one under way then: its report goes, its bundle stays
            until the longer run has a new one.

    Yields:
        The config that was there before; None if there was none.

    Raises:
        WorkdirError: not writable, in use by another process, not empty and no run, or a run
            with another config that is finished or has a checkpoint.
    """
    _refuse_foreign(workdir)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(workdir))
        except BlockingIOError:
            raise WorkdirError(f"--workdir={workdir}: another process is training there") from None
        except OSError as error:
            raise _not_writable(workdir, error) from error
        before = read_config(workdir)
        _refuse_other_config(workdir, before, config, extend)
        try:
            if before is not None and _longer(before, config):
                (workdir / REPORT_FILE).unlink(missing_ok=True)
            with replacing(workdir / CONFIG_FILE) as temporary:
                temporary.write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise _not_writable(workdir, error) from error
        yield before


def _not_writable(workdir: Path, error: OSError) -> WorkdirError:
    return WorkdirError(f"--workdir={workdir} cannot be written: {error.strerror}; choose another")


def _refuse_foreign(workdir: Path) -> None:
    if not workdir.is_dir() or (workdir / CONFIG_FILE).is_file():
        return
    foreign = own_files(workdir)  # a process killed before its config was written leaves none
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise WorkdirError(
            f"--workdir={workdir} is not empty ({shown}) and holds no training run: choose another"
        )


def _refuse_other_config(
    workdir: Path, before: TrainConfig | None, config: TrainConfig, extend: bool
) -> None:
    if before is None:
        return
    if config.sample_prompts is None:  # not asked for: runs of before have the recipe's
        config = dataclasses.replace(config, sample_prompts=before.sample_prompts)
    differing = differing_keys(before, config)
    if not differing:
        return
    finished = (workdir / REPORT_FILE).is_file()
    # Before the first checkpoint there is nothing to lose: a mistyped setting may be mended.
    if not finished and Checkpoints(workdir).latest() is None:
        return
    may_extend = _longer(before, config)
    if may_extend and extend:
        return
    advice = "Repeat its settings to go on with it, or choose another --workdir"
    if may_extend:
        advice += f"; --extend trains it longer, to step {config.steps}"
    elif extend:
        advice += f"; --extend changes nothing but {', '.join(_EXTENDING)}, with more steps"
    kind = "a finished run" if finished else "a run"
    raise WorkdirError(
        f"--workdir={workdir} holds {kind} with another config:\n  "
        + "\n  ".join(differing)
        + f"\n{advice}"
    )


def _longer(before: TrainConfig, config: TrainConfig) -> bool:
    """Whether a config is another one with more steps."""
    changed = {name: getattr(config, name) for name in (*_EXTENDING, "sample_prompts")}
    return config.steps > before.steps and dataclasses.replace(before, **changed) == config
