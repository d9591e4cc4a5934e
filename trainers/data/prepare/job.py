"""Text to shards, unit by unit: in this process, in several, or on a Beam runner.

plan.json            the settings, the files and the units; written first
units/00003.json     the shards of a finished unit; written when they are whole
index.json           written when all units are finished; see `trainers.data.shards`

A job that was killed goes on with the units that are not finished, by whichever of the three.
"""

from __future__ import annotations

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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from trainers.config import differing_keys
from trainers.data.config import PrepareConfig
from trainers.data.corpus import StreamEncoder
from trainers.data.documents import Meter, Piece, read_pieces
from trainers.data.prepare.plan import Plan, check_unchanged, make_plan
from trainers.data.shards import (
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
from trainers.data.sources import File
from trainers.tokenizers import encoder_tokenizer, language_model_tokenizer
from zoo.config import ConfigError, from_dict, to_dict
from zoo.files import locked_folder, own_files, replacing
from zoo.tokenizers import Tokenizer, load_tokenizer

PLAN_FILE = "plan.json"
_SPLITS: tuple[Split, ...] = ("train", "validation")
_POLL_SECONDS = 0.2
_LINE_SECONDS = 10  # between lines of progress where no terminal shows a bar


class PrepareError(ValueError):
    """The folder cannot hold this job."""


def prepare(
    config: PrepareConfig, folder: Path, *, processes: int = 1, data_dir: str | None = None
) -> Index:
    """Prepares a source on this machine, from wherever the job in `folder` is.

    Args:
        config: PrepareConfig. folder: of the result; created if missing, one job each.
        processes: int, 1 works in this process, more start so many. The result does not depend
            on it.
        data_dir: where relative paths and named corpora are looked for.

    Returns:
        The index. A job that was finished before is only looked at.

    Raises:
        PrepareError: the folder holds another job, is in use, or cannot be written.
        ValueError, OSError: the source or the vocabulary; the message names the file.
    """

    def work(plan: Plan, todo: list[int], tokenizer: Tokenizer) -> None:
        began, total = time.monotonic(), sum(plan.unit_bytes(number) for number in todo)
        interval = 0.1 if sys.stderr.isatty() else _LINE_SECONDS
        bar = tqdm(total=total, unit="B", unit_scale=True, desc="preparing", mininterval=interval)
        with bar:
            if processes == 1:
                for number in todo:
                    write_unit(folder, plan, number, tokenizer, bar.update)
            else:
                _in_processes(folder, todo, min(processes, max(len(todo), 1)), bar)
        seconds = max(time.monotonic() - began, 1e-9)
        logging.info("%.1f MB in %.1f s, %.1f MB/s", bar.n / 1e6, seconds, bar.n / seconds / 1e6)

    return _run(config, folder, data_dir, work)


def prepare_with_beam(
    config: PrepareConfig,
    folder: Path,
    *,
    runner: str = "DirectRunner",
    options: Sequence[str] = (),
    data_dir: str | None = None,
) -> Index:
    """Prepares a source as an Apache Beam pipeline; the result is that of `prepare`.

    Source and result must lie on a file system that all workers see, and this project must be
    installed there.

    Args:
        config, folder, data_dir: as `prepare` has them.
        runner: name of a Beam runner. Defaults to "DirectRunner", which is this machine.
        options: further pipeline options, such as "--direct_num_workers=2".

    Raises:
        ConfigError: apache-beam is not installed. Else as `prepare`.
    """
    beam, folder = _beam(), folder.absolute()
    pipeline_options = importlib.import_module("apache_beam.options.pipeline_options")

    def work(plan: Plan, todo: list[int], tokenizer: Tokenizer) -> None:
        flags = pipeline_options.PipelineOptions([f"--runner={runner}", *options])
        with beam.Pipeline(options=flags) as pipeline:
            _ = (
                pipeline
                | "Units" >> beam.Create(todo)
                | "Spread" >> beam.Reshuffle()
                | "Tokenize" >> beam.Map(_write_unit_on_worker, str(folder))
            )

    return _run(config, folder, data_dir, work)


def _run(
    config: PrepareConfig,
    folder: Path,
    data_dir: str | None,
    work: Callable[[Plan, list[int], Tokenizer], None],
) -> Index:
    with claimed(folder):
        plan = _begin(folder, config, data_dir)
        numbers = range(len(plan.units))
        todo = [number for number in numbers if not _is_finished(folder, number)]
        if (folder / INDEX_FILE).is_file() and not todo:
            logging.info("%s: this job is finished; nothing to do", folder)
            return read_index(folder)
        tokenizer = _tokenizer(folder, plan)
        logging.info("%s: %d of %d units to do", folder, len(todo), len(plan.units))
        work(plan, todo, tokenizer)
        return _finish(folder, plan, tokenizer)


# The folder of a job.


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The folder, made and locked while the block runs."""
    if folder.is_dir() and not (folder / PLAN_FILE).is_file() and (foreign := own_files(folder)):
        raise PrepareError(
            f"--out={folder} is not empty ({', '.join(foreign[:3])}) and holds no prepared data: "
            "choose another"
        )
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder))
        except BlockingIOError:
            raise PrepareError(f"--out={folder}: another process is preparing there") from None
        except OSError as error:
            raise PrepareError(
                f"--out={folder} cannot be written: {error.strerror}; choose another"
            ) from error
        yield


def _begin(folder: Path, config: PrepareConfig, data_dir: str | None) -> Plan:
    """The plan of the job, written to the folder; a job under way must be the same one."""
    plan = make_plan(config, data_dir)
    if (folder / PLAN_FILE).is_file():
        _refuse_other(folder, _read_plan(folder), plan)
    _write_json(folder / PLAN_FILE, to_dict(plan))
    return plan


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


def _shards(folder: Path, number: int) -> list[Shard]:
    path = _unit_file(folder, number)
    values = json.loads(path.read_text(encoding="utf-8"))
    return [from_dict(Shard, value, where=str(path)) for value in values]


def _is_finished(folder: Path, number: int) -> bool:
    """Whether the shards of a unit are noted as whole, and still there."""
    if not _unit_file(folder, number).is_file():
        return False
    shards = [(folder / shard.file, shard.bytes) for shard in _shards(folder, number)]
    return all(path.is_file() and path.stat().st_size == size for path, size in shards)


def _finish(folder: Path, plan: Plan, tokenizer: Tokenizer) -> Index:
    """Writes the index of a job whose units are all finished, and says what is there."""
    shards = [shard for number in range(len(plan.units)) for shard in _shards(folder, number)]
    shards.sort(key=lambda shard: (shard.split, shard.unit))
    for split, fix in (
        ("train", "name another --source"),
        ("validation", "set --validation, a larger --validation_fraction or another --seed"),
    ):
        if not any(shard.split == split for shard in shards):
            documents = sum(shard.documents for shard in shards)
            raise ValueError(
                f"{plan.config.data.train}: no {split} text among {documents} document(s): {fix}, "
                "and choose another --out"
            )
    index = Index(
        tokenizer=tokenizer.kind,
        fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        end_id=tokenizer.end_id,
        ends=not plan.single,
        dtype=token_dtype(tokenizer.vocabulary_size),
        record_tokens=plan.config.record_tokens,
        shards=tuple(shards),
        # As they come back from JSON, which has no tuples.
        settings=json.loads(json.dumps(to_dict(plan.config))),
        sources=tuple(json.loads(json.dumps(to_dict(file))) for file in plan.files),
    )
    write_index(folder, index)
    for split in _SPLITS:
        own = index.split(split)
        tokens, characters, documents = (
            f"{sum(getattr(shard, name) for shard in own):,}"
            for name in ("tokens", "characters", "documents")
        )
        message = "%s: %s: %d shard(s), %s tokens, %s characters, %s document(s)"
        logging.info(message, folder, split, len(own), tokens, characters, documents)
    return index


def _write_json(path: Path, values: object) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values) + "\n", encoding="utf-8")


# The tokenizer, once for the job.


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
        for split, piece in _unit_pieces(plan, number):
            if split == "train":
                yield piece.text
                taken += len(piece.text)
            if taken >= share and not everything:
                break


# One unit.


def write_unit(
    folder: Path,
    plan: Plan,
    number: int,
    tokenizer: Tokenizer,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> int:
    """Writes the shards of a unit and notes it as finished; returns its tokens.

    Memory does not grow with the unit: text is read in blocks and encoded by the million
    characters. `on_bytes` is called with the bytes that were read since it was called before.
    """
    end_id = None if plan.single else tokenizer.end_id
    dtype = token_dtype(tokenizer.vocabulary_size)
    with contextlib.ExitStack() as stack:
        writers, encoders = [], {}
        for split in _SPLITS:
            path = folder / f"{split}-{number:05d}-of-{len(plan.units):05d}.tfrecord"
            shard = writing_shard(path, number, split, dtype, plan.config.record_tokens)
            writers.append(stack.enter_context(shard))
            encoders[split] = StreamEncoder(tokenizer, end_id, writers[-1].add)
        for split, piece in _unit_pieces(plan, number, on_bytes):
            encoders[split].add(piece.text, piece.is_last)
        for encoder in encoders.values():
            encoder.flush()
    shards = [writer.shard for writer in writers if writer.shard is not None]
    _write_json(_unit_file(folder, number), [to_dict(shard) for shard in shards])
    return sum(shard.tokens for shard in shards)


def _unit_pieces(
    plan: Plan, number: int, on_bytes: Callable[[int], object] = lambda count: None
) -> Iterator[tuple[Split, Piece]]:
    """The text of a unit, each piece with its split, documents without text left out."""
    for stretch in plan.units[number]:
        file = plan.files[stretch.file]
        check_unchanged(file)
        reading = plan.validation_reading if file.validates else plan.reading
        meter, counted, has_text = Meter(), 0, stretch.start > 0
        for piece in read_pieces(
            File(file.name, file.path), reading, meter, start=stretch.start, stop=stretch.stop
        ):
            on_bytes(meter.bytes - counted)
            counted = meter.bytes
            has_text = has_text or bool(piece.text)
            if has_text:
                is_last = piece.is_last and stretch.ends
                yield plan.split_of(stretch, piece.text), Piece(piece.name, piece.text, is_last)
        on_bytes(meter.bytes - counted)
        check_unchanged(file)


# Several processes, and Beam's workers.


def _in_processes(folder: Path, todo: list[int], processes: int, bar: tqdm) -> None:
    # Spawned, because TensorFlow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("q", 0), context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(
        processes, context, initializer=_begin_worker, initargs=(str(folder), done, stop)
    )
    try:
        waiting = {pool.submit(_work, number) for number in todo}
        while waiting:
            finished, waiting = concurrent.futures.wait(
                waiting, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED
            )
            for future in finished:
                future.result()
            bar.update(done.value - bar.n)
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process was killed, perhaps for want of memory. Finished shards are kept: "
            "the same command goes on; fewer --processes need less memory"
        ) from error
    finally:
        stop.set()  # a unit under way would go on for seconds
        pool.shutdown(cancel_futures=True)


class _Stopped(Exception):
    """The job ended before this unit."""


def _begin_worker(folder: str, done, stop) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent tells the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Processes are what runs beside each other here.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    _worker = (Path(folder), *_plan_and_tokenizer(folder), done, stop)


def _end_with_parent() -> None:
    """A parent that was killed cannot tell: without this its units would go on being written."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(number: int) -> None:
    folder, plan, tokenizer, done, stop = _worker

    def on_bytes(count: int) -> None:
        if stop.is_set():
            raise _Stopped
        with done.get_lock():
            done.value += count

    write_unit(folder, plan, number, tokenizer, on_bytes)


def _write_unit_on_worker(number: int, folder: str) -> int:
    """A step of the Beam pipeline."""
    plan, tokenizer = _plan_and_tokenizer(folder)
    tokens = write_unit(Path(folder), plan, number, tokenizer)
    _beam().metrics.Metrics.counter("prepare", "tokens").inc(tokens)
    return tokens


@functools.lru_cache(maxsize=1)
def _plan_and_tokenizer(folder: str) -> tuple[Plan, Tokenizer]:
    return _read_plan(Path(folder)), load_tokenizer(Path(folder) / TOKENIZER_FOLDER)


def _beam() -> ModuleType:
    try:
        return importlib.import_module("apache_beam")
    except ImportError as error:
        raise ConfigError(
            f"--beam needs the package apache-beam ({error}); BUILD_NOTES.md tells how to install "
            "it beside this project"
        ) from error
