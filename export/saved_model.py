"""A bundle becomes `MODEL/VERSION/`, a SavedModel that TensorFlow Serving runs."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import tensorflow as tf
from absl import logging

from export.closure.check import check
from export.closure.history import DEFAULT_SERVING_VERSION, registry_of
from export.golden.examples import read_examples
from export.golden.pairs import read_golden_pairs, write_golden_pairs
from export.golden.replay import Session, local_session, problems_of, replay
from export.golden.requests import make_golden_pairs, warmup_requests, write_warmup
from export.model_card import write_model_card
from export.model_folder import (
    BATCHING_FILE,
    DEBUG_INFO_FILE,
    GOLDEN_FILE,
    WARMUP_FILE,
    find_versions,
)
from export.precision.reduce import reduce_bundle
from export.precision.report import compare_answers, write_report
from export.signatures import ServedModule, declare
from zoo.bundle import Bundle

_PARTIAL = ".partial-"
_LOCKED_SECONDS = 60  # between making a folder and locking it, generously


class ExportError(ValueError):
    """The model cannot be exported; nothing was left behind."""


def export_saved_model(
    bundle: Bundle,
    model_folder: str | os.PathLike[str],
    version: int | None = None,
    serving_version: str = DEFAULT_SERVING_VERSION,
    precision: str = "float32",
    eval_data: str | os.PathLike[str] | None = None,
    accept_deviation: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Path:
    """Writes a new version of a served model, whole or not at all.

    The SavedModel is written to a sibling whose name is no number (no server looks at it), its
    ops are checked against those of a TensorFlow Serving release, its golden pairs are replayed
    through a session, and only then it is renamed to `VERSION`.

    Args:
        bundle: from `zoo.load`.
        model_folder: the folder that a server gets as --model_base_path; created if missing.
        version: int, at least 0. Defaults to one more than the newest.
        serving_version: the release that is to run it, as "2.19.1" or "2.21".
        precision: "float32", or "bfloat16" or "int8" for its large weights; for those two
            `assets.extra/precision_report.md` tells size, speed and what it does to the answers.
        eval_data: JSONL file of examples (`docs/export.md`) for that report.
        accept_deviation: whether golden answers may move past the tolerance.
        on_step: called with the name of each step when it begins, for people who wait.

    Returns:
        Path of the version's folder.

    Raises:
        ExportError: the version exists, the folder cannot be written, the model's backend is not
            TensorFlow, no such release is known or it lacks an op of the model, the precision or
            its examples are no good, golden answers move past the tolerance, or the SavedModel
            does not answer as the Keras model does.

    Example:
        export_saved_model(zoo.load("runs/shakespeare"), "served/shakespeare")
    """
    model_folder, is_float32 = Path(model_folder).absolute(), precision == "float32"
    target = _target(model_folder, version, serving_version)
    try:
        if is_float32 and eval_data is not None:
            raise ValueError("--eval_data compares with float32: give --precision, too")
        if not is_float32:
            on_step(f"weights in {precision}")
        served = reduce_bundle(bundle, precision, serving_version)
        examples = None if eval_data is None else read_examples(eval_data, bundle)
        on_step("golden answers of the Keras model")
        if is_float32:
            pairs, deviations = make_golden_pairs(served), []
        else:
            pairs, deviations = compare_answers(bundle, served, precision, accept_deviation)
            float32_bytes = 4 * bundle.model.count_params()
            if not examples:
                del bundle  # its weights in float32 are of no use any more
    except ValueError as error:
        raise ExportError(str(error)) from error
    try:
        model_folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(model_folder)
        with _unfinished(model_folder, f"{_PARTIAL}{target.name}-") as partial:
            on_step("writing")
            _save(served, partial)
            on_step(f"operations of TensorFlow Serving {serving_version}")
            _require_closure(partial, serving_version)
            write_golden_pairs(pairs, partial / GOLDEN_FILE)
            write_warmup(warmup_requests(served, pairs), partial / WARMUP_FILE)
            shutil.copyfile(Path(__file__).with_name(BATCHING_FILE), partial / BATCHING_FILE)
            on_step("the same answers from the SavedModel")
            with local_session(partial) as session:
                _require_same_answers(session)
                if not is_float32:
                    if examples:
                        on_step("measuring")
                    compared = _float32_session(bundle, model_folder) if examples else None
                    with compared or contextlib.nullcontext() as float32:
                        sessions = [one for one in (float32, session) if one]
                        write_report(
                            precision, sessions, float32_bytes, pairs, deviations, examples
                        )
            partial.chmod(0o755)  # mkdtemp's 0700 would hide it from a server's user
            while True:
                write_model_card(served, partial, target, len(pairs), precision, serving_version)
                try:
                    os.rename(partial, target)
                    break
                except OSError as error:
                    if version is not None or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    # Another export took that number.
                    target = model_folder / str(_next_version(model_folder))
    except OSError as error:
        raise ExportError(f"cannot write {target}: {error.strerror or error}") from error
    logging.info("exported %s", target)
    return target


def _target(model_folder: Path, version: int | None, serving_version: str) -> Path:
    """The folder to write, or ExportError for what can be known to fail before any work."""
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            "a SavedModel is made of TensorFlow operations: run the export with "
            f"KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}"
        )
    try:
        registry_of(serving_version)
    except ValueError as error:
        raise ExportError(f"--{error}") from error
    if model_folder.name.isdecimal():
        raise ExportError(
            f"--out={model_folder} is named like a version: give the model's folder, "
            f"--out={model_folder.parent}, and --version={model_folder.name} to choose the number"
        )
    if version is not None and version < 0:
        raise ExportError(f"--version must be at least 0. Received: {version}")
    following = _next_version(model_folder)
    target = model_folder / str(following if version is None else version)
    if target.exists():
        raise ExportError(
            f"{target} exists, and a served version never changes: choose another --version, "
            f"or leave it out for {following}"
        )
    return target


def _next_version(model_folder: Path) -> int:
    try:
        return 1 + max(find_versions(model_folder) or {}, default=0)
    except tf.errors.OpError as error:
        raise ExportError(f"cannot read {model_folder}: {error.message}") from error


@contextlib.contextmanager
def _unfinished(folder: Path, prefix: str) -> Iterator[Path]:
    """A folder that is gone in the end, unless it was renamed; locked while its writer lives."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # no locks there: then nobody removes what is abandoned
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _remove_abandoned(folder: Path) -> None:
    """Removes what killed exports left: unfinished folders whose lock is free."""
    for path in folder.glob(f"{_PARTIAL}*"):
        with contextlib.suppress(OSError):  # in use, or gone meanwhile
            if time.time() - path.stat().st_mtime < _LOCKED_SECONDS:
                continue
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                logging.info("removing %s, left by an export that was killed", path)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


def _save(bundle: Bundle, folder: Path) -> None:
    module = ServedModule(bundle)
    # Nobody differentiates a served model; without the first option the graph doubles.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False, save_debug_info=True)
    try:
        tf.saved_model.save(module, str(folder), signatures=module.functions, options=options)
    except tf.errors.OpError as error:  # as TensorFlow tells of a full disk
        raise ExportError(f"cannot write {folder}: {error.message}") from error
    declare(folder, module.methods, module.aliases, module.defaults)


def _require_same_answers(session: Session) -> None:
    replays = replay(read_golden_pairs(session.version_folder / GOLDEN_FILE), session.send)
    if problems := "\n  ".join(problems_of(replays)):
        raise ExportError(f"the SavedModel does not answer as the Keras model does:\n  {problems}")


@contextlib.contextmanager
def _float32_session(bundle: Bundle, model_folder: Path) -> Iterator[Session]:
    """A session of the SavedModel in float32, to compare with; it is not kept."""
    with _unfinished(model_folder, f"{_PARTIAL}float32-") as folder:
        _save(bundle, folder)
        shutil.rmtree((folder / DEBUG_INFO_FILE).parent)  # as of what is kept, for the sizes
        with local_session(folder) as session:
            yield session


def _require_closure(folder: Path, serving_version: str) -> None:
    findings = check(folder, serving_version)
    # It told the check where the nodes come from; a server has no use for it.
    shutil.rmtree((folder / DEBUG_INFO_FILE).parent)
    blocking = "\n  ".join(str(finding) for finding in findings if finding.blocks)
    if blocking:
        raise ExportError(
            f"TensorFlow Serving {serving_version} cannot run the model:\n  {blocking}"
        )
    for finding in findings:
        logging.warning("%s", finding)
