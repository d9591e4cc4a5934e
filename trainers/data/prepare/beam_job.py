"""The same job as an Apache Beam pipeline, for corpora that outgrow one machine.

The units of the plan are spread over the runner's workers, each of which writes its shards. Source
and result must lie on a file system that all workers see, and this project must be installed
there. A pipeline and a local run may go on with each other's work.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from absl import logging

from trainers.data.prepare import folder as job
from trainers.data.prepare.plan import Plan
from trainers.data.prepare.settings import PrepareConfig
from trainers.data.prepare.unit import prepare_unit
from trainers.data.prepare.vocabulary import job_tokenizer
from trainers.data.shard_format import Index, read_index
from zoo.config import ConfigError
from zoo.tokenizers import Tokenizer, load_tokenizer


def prepare_with_beam(
    config: PrepareConfig,
    folder: Path,
    *,
    runner: str = "DirectRunner",
    options: Sequence[str] = (),
    data_dir: str | None = None,
) -> Index:
    """Prepares a source on a Beam runner; the result is that of `local.prepare`.

    Args:
        config, folder, data_dir: as `local.prepare` has them; `folder` absolute for workers
            elsewhere.
        runner: name of a Beam runner. Defaults to "DirectRunner", which is this machine.
        options: further pipeline options, such as "--direct_num_workers=2".

    Raises:
        ConfigError: apache-beam is not installed. Else as `local.prepare`.

    Example: `prepare_with_beam(PrepareConfig(DataConfig(train="books")), Path("/shared/prepared"))`
    """
    beam = _beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    folder = folder.absolute()
    with job.claimed(folder):
        plan = job.begin(folder, config, data_dir)
        if job.is_finished(folder, plan):
            logging.info("%s: this job is finished; nothing to do", folder)
            return read_index(folder)
        tokenizer = job_tokenizer(folder, plan)
        todo = job.unfinished(folder, plan)
        logging.info("%s: %d of %d units to do by %s", folder, len(todo), len(plan.units), runner)
        with beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *options])) as pipeline:
            _ = (
                pipeline
                | "Units" >> beam.Create(todo)
                | "Spread" >> beam.Reshuffle()
                | "Tokenize" >> beam.Map(tokenize_unit, str(folder))
            )
        index = job.finish(folder, plan, tokenizer)
        job.log_totals(folder, index)
        return index


def tokenize_unit(number: int, folder: str) -> int:
    """Makes the shards of a unit on a worker; a step of the pipeline. Returns its tokens."""
    plan, tokenizer = _plan_and_tokenizer(folder)
    shards = prepare_unit(Path(folder), plan, number, tokenizer)
    job.mark_finished(Path(folder), number, shards)
    tokens = sum(shard.tokens for shard in shards)
    _beam().metrics.Metrics.counter("prepare", "tokens").inc(tokens)
    return tokens


@functools.lru_cache(maxsize=1)
def _plan_and_tokenizer(folder: str) -> tuple[Plan, Tokenizer]:
    place = Path(folder)
    return job.read_plan(place), load_tokenizer(job.tokenizer_folder(place))


def _beam() -> ModuleType:
    try:
        return importlib.import_module("apache_beam")
    except ImportError as error:
        raise ConfigError(
            f"--beam needs the package apache-beam ({error}); BUILD_NOTES.md tells how to install "
            "it beside this project"
        ) from error
