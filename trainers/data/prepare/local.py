"""A job on this machine, in this process or in several."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from absl import logging

from trainers.data.config import PrepareConfig
from trainers.data.prepare import folder as job
from trainers.data.prepare.plan import Plan
from trainers.data.prepare.progress import Progress
from trainers.data.prepare.unit import prepare_unit
from trainers.data.prepare.vocabulary import job_tokenizer
from trainers.data.shards import Index, read_index
from zoo.tokenizers import Tokenizer, load_tokenizer

_POLL_SECONDS = 0.2


def prepare(
    config: PrepareConfig, folder: Path, *, processes: int = 1, data_dir: str | None = None
) -> Index:
    """Prepares a source, from wherever the job in `folder` is.

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

    Example: `prepare(PrepareConfig(DataConfig(train="books", tokenizer="byte")), Path("prepared"))`
    """
    with job.claimed(folder):
        plan = job.begin(folder, config, data_dir)
        if job.is_finished(folder, plan):
            logging.info("%s: this job is finished; nothing to do", folder)
            return read_index(folder)
        tokenizer = job_tokenizer(folder, plan)
        todo = job.unfinished(folder, plan)
        logging.info("%s: %d of %d units to do", folder, len(todo), len(plan.units))
        began = time.monotonic()
        total = sum(plan.unit_bytes(number) for number in todo)
        with Progress(total) as progress:
            if processes == 1:
                done = _here(folder, plan, todo, tokenizer, progress)
            else:
                done = _in_processes(folder, todo, min(processes, max(len(todo), 1)), progress)
        seconds = max(time.monotonic() - began, 1e-9)
        logging.info("%.1f MB in %.1f s, %.1f MB/s", done / 1e6, seconds, done / seconds / 1e6)
        index = job.finish(folder, plan, tokenizer)
        job.log_totals(folder, index)
        return index


def _here(
    folder: Path, plan: Plan, todo: list[int], tokenizer: Tokenizer, progress: Progress
) -> int:
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress.show(done)

    for number in todo:
        shards = prepare_unit(folder, plan, number, tokenizer, on_bytes)
        job.mark_finished(folder, number, shards)
    return done


def _in_processes(folder: Path, todo: list[int], processes: int, progress: Progress) -> int:
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
            progress.show(done.value)
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process was killed, perhaps for want of memory. Finished shards are kept: "
            "the same command goes on; fewer --processes need less memory"
        ) from error
    finally:
        stop.set()  # a unit under way would go on for seconds
        pool.shutdown(cancel_futures=True)
    return done.value


class _Stopped(Exception):
    """The job ended before this unit."""


def _begin_worker(folder: str, done, stop) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent tells the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import tensorflow as tf

    # Processes are what runs beside each other here.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tokenizer = load_tokenizer(job.tokenizer_folder(Path(folder)))
    _worker = (Path(folder), job.read_plan(Path(folder)), tokenizer, done, stop)


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

    job.mark_finished(folder, number, prepare_unit(folder, plan, number, tokenizer, on_bytes))
