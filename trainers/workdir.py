"""The folder of a run: one run each, one process at a time, always the same config.

A workdir in an object store, such as `gs://bucket/run`, is a local folder, where writing is quick
and atomic, and a copy kept there: by `tf.io.gfile`, after each checkpoint and at the end.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from absl import logging

from trainers.checkpoints import Checkpoints
from trainers.config import CONFIG_FILE, TrainConfig, differing_keys, read_config
from trainers.report.report import REPORT_FILE
from zoo.config import to_dict
from zoo.files import claimed_folder, own_files, write_json
from zoo.weights.locations import download

# What may change where a run is made longer.
_EXTENDING = ("steps", "evaluate_every", "patience")
# Copied to an object store after all others, before checkpoints/*.json: that these are there says
# that others are whole, to a reader or to the run that goes on elsewhere.
_COPIED_LAST = ("config.json", "report.md")


class WorkdirError(ValueError):
    """The workdir cannot hold this run."""


@contextlib.contextmanager
def claimed(workdir: Path, config: TrainConfig, extend: bool = False) -> Iterator[None]:
    """The workdir, made and locked while the block runs, with this config in it. With `extend` a
    finished run may become one of more steps under way: its report goes, its bundle stays until the
    longer run has a new one.
    """
    labels = "training run", "--workdir", "training"
    with claimed_folder(workdir, CONFIG_FILE, *labels, WorkdirError):
        before = read_config(workdir)
        if before is not None:
            _refuse_other_config(workdir, before, config, extend)
            if _longer(before, config):
                (workdir / REPORT_FILE).unlink(missing_ok=True)
        write_json(workdir / CONFIG_FILE, to_dict(config), indent=2)
        yield


def _refuse_other_config(
    workdir: Path, before: TrainConfig, config: TrainConfig, extend: bool
) -> None:
    if config.sample_prompts is None:  # not asked for: runs of before have the recipe's
        config = dataclasses.replace(config, sample_prompts=before.sample_prompts)
    differing, may_extend = differing_keys(before, config), _longer(before, config)
    if not differing or (may_extend and extend):
        return
    finished = (workdir / REPORT_FILE).is_file()
    # Before the first checkpoint there is nothing to lose: a mistyped setting may be mended.
    if not finished and Checkpoints(workdir).latest() is None:
        return
    advice = "Repeat its settings to go on with it, or choose another --workdir"
    if may_extend:
        advice += f"; --extend trains it longer, to step {config.steps}"
    elif extend:
        advice += f"; --extend changes nothing but {', '.join(_EXTENDING)}, with more steps"
    kind, keys = "a finished run" if finished else "a run", "\n  ".join(differing)
    raise WorkdirError(f"--workdir={workdir} holds {kind} with another config:\n  {keys}\n{advice}")


def _longer(before: TrainConfig, config: TrainConfig) -> bool:
    """Whether a config is another one with more steps."""
    changed = {name: getattr(config, name) for name in (*_EXTENDING, "sample_prompts")}
    return config.steps > before.steps and dataclasses.replace(before, **changed) == config


def is_remote(workdir: str | Path) -> bool:
    """Whether a --workdir names an object store."""
    return isinstance(workdir, str) and "://" in workdir


class RemoteWorkdir:
    """A remote folder, such as "gs://bucket/run", and its local copy, an empty folder at first. One
    process at a time may train there: an object store has no locks.
    """

    def __init__(self, remote: str, local: Path):
        self.remote = remote.rstrip("/")
        self.local = local
        self._copied: dict[str, tuple[int, int]] = {}

    def download(self) -> None:
        """Copies what is there; nothing if there is nothing yet."""
        with self._naming_workdir("read"):
            for relative, path in download(self.remote, self.local):
                self._copied[relative] = _state(path)
        logging.info("%s: %d files read", self.remote, len(self._copied))

    def upload(self) -> None:
        """Copies what is new or changed since, then removes what is no longer there."""
        folders = [self.local, *(path for path in self.local.rglob("*") if path.is_dir())]
        paths = [folder / name for folder in folders for name in own_files(folder)]
        files = {str(path.relative_to(self.local)): path for path in paths if path.is_file()}
        with self._naming_workdir("written"):
            for relative in sorted(files, key=_copy_order):
                with contextlib.suppress(FileNotFoundError, tf.errors.NotFoundError):
                    # Not there: dropped meanwhile, as an old checkpoint.
                    state = _state(files[relative])
                    if self._copied.get(relative) == state:
                        continue
                    target = f"{self.remote}/{relative}"
                    tf.io.gfile.makedirs(target.rpartition("/")[0])
                    # A copy to a name of its own and a rename would be two copies in such a store,
                    # where a file appears whole or not at all.
                    tf.io.gfile.copy(str(files[relative]), target, overwrite=True)
                    self._copied[relative] = state
            for relative in [*self._copied]:
                if relative not in files:
                    with contextlib.suppress(tf.errors.NotFoundError):
                        tf.io.gfile.remove(f"{self.remote}/{relative}")
                    del self._copied[relative]

    @contextlib.contextmanager
    def _naming_workdir(self, done: str) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            reason = error.message.splitlines()[0]
            raise WorkdirError(
                f"--workdir={self.remote} cannot be {done}: {reason}. Check the name, the network "
                "and the credentials of this machine; the same command goes on from the last "
                "checkpoint there"
            ) from error


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _copy_order(relative: str) -> tuple[bool, int, str]:
    is_progress = relative.startswith("checkpoints/") and relative.endswith(".json")
    last = _COPIED_LAST.index(relative) + 1 if relative in _COPIED_LAST else 0
    return is_progress, last, relative
