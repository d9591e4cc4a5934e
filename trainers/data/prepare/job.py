"""Text to shards, unit by unit: in this process, in several, or on a Beam runner.

plan.json            the settings, the files and the units; written first
units/00003.json     the shards of a finished unit; written when they are whole
index.json           written when all units are finished; see `trainers.data.prepare.shards`

A job that was killed goes on with the units that are not finished, by whichever of the three.
"""

import concurrent.futures
import contextlib
import functools
import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from trainers.config import differing_keys
from trainers.data.config import PrepareConfig
from trainers.data.corpus import StreamEncoder, read_pieces
from trainers.data.prepare.plan import Plan, make_plan, reading_of_file, unchanged
from trainers.data.prepare.shards import (
    INDEX_FILE,
    TOKENIZER_FOLDER,
    Index,
    Shard,
    Split,
    read_index,
    token_dtype,
    write_index,
    writing_shard,
)
from trainers.tokenizers import encoder_tokenizer, language_model_tokenizer
from zoo.config import ConfigError, from_dict, to_dict
from zoo.files import claimed_folder, write_json
from zoo.tokenizers import Tokenizer, load_tokenizer

PLAN_FILE = "plan.json"
# The splits, and what helps where one has no text.
_SPLITS: dict[Split, str] = {
    "train": "name another --source",
    "validation": "set --validation, a larger --validation_fraction or another --seed",
}
_LINE_SECONDS = 10  # between lines of progress where no terminal shows a bar


class PrepareError(ValueError):
    """The folder cannot hold this job."""


def prepare(
    config: PrepareConfig,
    folder: Path,
    *,
    processes: int = 1,
    beam: Sequence[str] | None = None,
    data_dir: str | None = None,
) -> Index:
    """Prepares a source, from wherever the job in `folder` is.

    On Beam, source and result must lie on a file system that all workers see, with this project
    installed there.

    Args:
        config: the settings. folder: of the result; created if missing, one job each.
        processes: 1 works in this process, more start so many. The result does not depend on it.
        beam: options of an Apache Beam pipeline that does the work, such as "--runner=NAME".
        data_dir: where relative paths and named corpora are looked for.

    Raises:
        PrepareError: the folder holds another job, is in use, or cannot be written.
        ValueError, OSError: the source or the vocabulary, whose file the message names; no Beam.
    """
    pipeline = None if beam is None else _beam_pipeline(beam)
    with claimed(folder):
        plan = make_plan(config, data_dir)
        if (folder / PLAN_FILE).is_file():
            _refuse_other(folder, _read_plan(folder), plan)
        write_json(folder / PLAN_FILE, to_dict(plan))
        numbers = range(len(plan.units))
        todo = [number for number in numbers if _finished_shards(folder, number) is None]
        if (folder / INDEX_FILE).is_file() and not todo:
            logging.info("%s: this job is finished; nothing to do", folder)
            return read_index(folder)
        tokenizer = _tokenizer(folder, plan)
        logging.info("%s: %d of %d units to do", folder, len(todo), len(plan.units))
        finished = (write_unit(folder, plan, tokenizer, number) for number in todo)
        if pipeline is not None:
            finished = _on_beam(pipeline, folder, todo)
        elif processes > 1:
            finished = _in_processes(folder, todo, min(processes, max(len(todo), 1)))
        began, total = time.monotonic(), sum(map(plan.unit_bytes, todo))
        interval = 0.1 if sys.stderr.isatty() else _LINE_SECONDS
        bar = tqdm(total=total, unit="B", unit_scale=True, desc="preparing", mininterval=interval)
        with bar:
            for number in finished:
                bar.update(plan.unit_bytes(number))
        seconds = max(time.monotonic() - began, 1e-9)
        logging.info("%.1f MB in %.1f s, %.1f MB/s", total / 1e6, seconds, total / seconds / 1e6)
        return _finish(folder, plan, tokenizer)


def claimed(folder: Path) -> contextlib.AbstractContextManager[None]:
    """The folder, made and locked while the block runs."""
    labels = "prepared data", "--out", "preparing"
    return claimed_folder(folder, PLAN_FILE, *labels, PrepareError)


def _read_plan(folder: Path) -> Plan:
    path = folder / PLAN_FILE
    try:
        return from_dict(Plan, json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except ValueError as error:
        raise PrepareError(f"{path}: damaged ({error}); choose another --out") from error


def _refuse_other(folder: Path, old: Plan, new: Plan) -> None:
    if settings := differing_keys(old.config, new.config):
        raise PrepareError(
            f"--out={folder} holds a job with other settings:\n  "
            + "\n  ".join(settings)
            + "\nRepeat its settings to go on with it, or choose another --out"
        )
    before, now = ({file.name: (file.size, file.version) for file in p.files} for p in (old, new))
    changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if changed:
        raise PrepareError(
            f"--out={folder}: the source has changed since this job began: {changed[0]}"
            f"{f' and {len(changed) - 1} more file(s)' if changed[1:] else ''}. Restore it, or "
            "choose another --out"
        )
    if old.units != new.units:
        raise PrepareError(
            f"--out={folder} was begun by a release that parts the source otherwise; choose "
            "another --out"
        )


def _unit_file(folder: Path, number: int) -> Path:
    return folder / "units" / f"{number:05d}.json"


def _finished_shards(folder: Path, number: int) -> list[Shard] | None:
    """The shards of a unit, None if they are not noted as whole, or gone."""
    path = _unit_file(folder, number)
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    shards = [from_dict(Shard, value, where=str(path)) for value in values]
    sizes = {folder / shard.file: shard.bytes for shard in shards}
    whole = all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())
    return shards if whole else None


def _finish(folder: Path, plan: Plan, tokenizer: Tokenizer) -> Index:
    """Writes the index of a job whose units are all finished, and says what is there."""
    units = range(len(plan.units))
    shards = [shard for unit in units for shard in _finished_shards(folder, unit) or ()]
    shards.sort(key=lambda shard: (shard.split, shard.unit))
    index = Index(
        tokenizer=tokenizer.kind,
        fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        end_id=tokenizer.end_id,
        ends=not plan.single,
        dtype=token_dtype(tokenizer.vocabulary_size),
        record_tokens=plan.config.record_tokens,
        shards=tuple(shards),
        settings=to_dict(plan.config),
        sources=tuple(map(to_dict, plan.files)),
    )
    for split, fix in _SPLITS.items():
        own = index.split(split)
        if not own:
            documents = sum(shard.documents for shard in shards)
            raise ValueError(
                f"{plan.config.data.train}: no {split} text among {documents} document(s): {fix}, "
                "and choose another --out"
            )
        tokens, characters, documents = (
            f"{sum(getattr(shard, name) for shard in own):,}"
            for name in ("tokens", "characters", "documents")
        )
        message = "%s: %s: %d shard(s), %s tokens, %s characters, %s document(s)"
        logging.info(message, folder, split, len(own), tokens, characters, documents)
    write_index(folder, index)
    return read_index(folder)


def read_tokenizer(place: str | Path) -> Tokenizer:
    """The tokenizer in a folder, or in a bundle's folder."""
    inner = Path(place) / TOKENIZER_FOLDER
    return load_tokenizer(inner if inner.is_dir() else place)


def _tokenizer(folder: Path, plan: Plan) -> Tokenizer:
    """The tokenizer in the job's folder; where there is none yet it is made and saved there."""
    if (folder / TOKENIZER_FOLDER).is_dir():
        return load_tokenizer(folder / TOKENIZER_FOLDER)
    config = plan.config
    if config.tokenizer_from is not None:
        tokenizer = read_tokenizer(config.tokenizer_from)
    elif config.task == "mlm":
        tokenizer = encoder_tokenizer(config.data, lambda: _training_texts(plan))
    else:
        tokenizer = language_model_tokenizer(config.data)
        if not isinstance(tokenizer, Tokenizer):
            logging.info("%s: training a %s vocabulary", folder, config.data.tokenizer)
            tokenizer = tokenizer(_training_texts(plan))
    tokenizer.save(folder / TOKENIZER_FOLDER)
    return tokenizer


def _training_texts(plan: Plan) -> Iterator[str]:
    """Training text from every unit, `tokenizer_mb` in all; for characters everything."""
    everything = plan.config.data.tokenizer == "character"
    share = plan.config.tokenizer_mb * 1e6 / len(plan.units)
    for number in range(len(plan.units)):
        taken = 0
        for split, text, _ in _unit_pieces(plan, number):
            if split == "train":
                yield text
                taken += len(text)
            if taken >= share and not everything:
                break


def write_unit(folder: Path, plan: Plan, tokenizer: Tokenizer, number: int) -> int:
    """Writes the shards of a unit, in bounded memory, notes it as finished; returns its number."""
    end_id = None if plan.single else tokenizer.end_id
    dtype = token_dtype(tokenizer.vocabulary_size)
    with contextlib.ExitStack() as stack:
        writers, encoders = [], {}
        for split in _SPLITS:
            path = folder / f"{split}-{number:05d}-of-{len(plan.units):05d}.tfrecord"
            shard = writing_shard(path, number, split, dtype, plan.config.record_tokens)
            writers.append(stack.enter_context(shard))
            encoders[split] = StreamEncoder(tokenizer, end_id, writers[-1].add)
        for split, text, is_last in _unit_pieces(plan, number):
            encoders[split].add(text, is_last)
        for encoder in encoders.values():
            encoder.flush()
    shards = [writer.shard for writer in writers if writer.shard is not None]
    write_json(_unit_file(folder, number), [to_dict(shard) for shard in shards])
    return number


def _unit_pieces(plan: Plan, number: int) -> Iterator[tuple[Split, str, bool]]:
    """The text of a unit: split, text and whether its document ends; empty ones are left out."""
    for stretch in plan.units[number]:
        file = plan.files[stretch.file]
        reading = reading_of_file(file, plan.config.data)
        has_text, place = stretch.start > 0, {"start": stretch.start, "stop": stretch.stop}
        for piece in read_pieces(unchanged(file), reading, **place):
            has_text = has_text or bool(piece.text)
            if has_text:
                split = plan.split_of(stretch, piece.text)
                yield split, piece.text, piece.is_last and stretch.ends
        unchanged(file)


def _in_processes(folder: Path, todo: list[int], processes: int) -> Iterator[int]:
    """The numbers of units, each when it is finished."""
    # Spawned, because TensorFlow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    pool = concurrent.futures.ProcessPoolExecutor(
        processes, context, initializer=_begin_worker, initargs=(theirs,)
    )
    try:
        units = [pool.submit(_write_unit_of, number, str(folder)) for number in todo]
        for unit in concurrent.futures.as_completed(units):
            yield unit.result()
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process was killed, perhaps for want of memory. Finished shards are kept: "
            "the same command goes on; fewer --processes need less memory"
        ) from error
    finally:
        ours.close()
        pool.shutdown(cancel_futures=True)


def _begin_worker(job: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent tells the others
    threading.Thread(target=_end_with, args=(job,), daemon=True).start()
    # Processes are what runs beside each other here.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _end_with(job: Connection) -> None:
    """Ends this process, with its unit under way, when its parent stops the job or is killed."""
    with contextlib.suppress(EOFError, OSError):
        job.recv()
    os._exit(1)


def _write_unit_of(number: int, folder: str) -> int:
    """A unit, in a worker process or a step of the Beam pipeline."""
    return write_unit(Path(folder), *_plan_and_tokenizer(folder), number)


@functools.lru_cache(maxsize=1)
def _plan_and_tokenizer(folder: str) -> tuple[Plan, Tokenizer]:
    return _read_plan(Path(folder)), load_tokenizer(Path(folder) / TOKENIZER_FOLDER)


def _beam_pipeline(options: Sequence[str]) -> tuple[ModuleType, Any]:
    """The package, and the pipeline that is to run."""
    try:
        beam = importlib.import_module("apache_beam")
    except ImportError as error:
        raise ConfigError(
            f"--beam needs the package apache-beam ({error}); BUILD_NOTES.md tells how to install "
            "it beside this project"
        ) from error
    module = importlib.import_module("apache_beam.options.pipeline_options")
    return beam, beam.Pipeline(options=module.PipelineOptions([*options]))


def _on_beam(beam_pipeline: tuple[ModuleType, Any], folder: Path, todo: list[int]) -> list[int]:
    beam, pipeline = beam_pipeline
    with pipeline:
        step = beam.Map(_write_unit_of, str(folder.absolute()))
        units = pipeline | "Units" >> beam.Create(todo)
        _ = units | "Spread" >> beam.Reshuffle() | "Tokenize" >> step
    return todo
