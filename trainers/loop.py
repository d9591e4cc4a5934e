"""The training loop: fit, evaluate, resume, write the bundle and the report."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import tensorflow as tf
from absl import logging

from trainers.checkpoints import Checkpoints, Progress
from trainers.config import TrainConfig
from trainers.distribution import Distribution
from trainers.distribution.hardware import hardware, precision_policy
from trainers.distribution.strategy_loop import StrategyLoop
from trainers.fit import KerasLoop, validation_batches
from trainers.metrics import MetricsLog, should_stop
from trainers.optim.optimizers import make_optimizer, schedule_of
from trainers.recorder import Follower, Interruption, Preempted, Recorder
from trainers.report.report import REPORT_FILE, write_report
from trainers.tasks import Task, make_task
from trainers.tasks.training_models import ResetValidationState
from trainers.workdir import WorkdirError, claimed, is_remote, local_copy
from zoo import bundle
from zoo.loading import load

# The first steps compile, which is not what a profile is looked at for.
_STEPS_BEFORE_PROFILE = 5


def train(
    config: TrainConfig,
    workdir: Path | str,
    data_dir: str | None = None,
    distribution: Distribution | None = None,
    profile_steps: int = 0,
    extend: bool = False,
) -> bundle.Bundle | None:
    """Trains to the end, from wherever the run in `workdir` is, and writes the bundle.

    Args:
        config: TrainConfig. workdir: created if missing; one run each. Several workers share it.
            A string such as "gs://bucket/run" is kept up to date there; see `workdir`.
        data_dir: where named corpora lie; see `trainers.data.sources`.
        distribution: devices to train on, from `make_distribution`. Default: one device. Another
            run of the same workdir may have another one.
        profile_steps: int, steps whose profile is written for TensorBoard, after the first few.
        extend: whether a run there, finished or not, may go on to a higher `config.steps`. From
            its last checkpoint on, the learning rate is that of a run of so many steps.

    Returns:
        The finished bundle. A run that was finished before is only loaded; where its bundle is
        damaged, it is written anew from the last checkpoint. None for a worker that is not the
        chief.

    Raises:
        ConfigError: the batch does not divide by the replicas.
        WorkdirError: not writable, holds another run, is in use, or the data have changed.
        TrainingDiverged: the loss is not finite; the last checkpoint stays.
        WorkerLost: another worker stopped.
        Preempted: SIGTERM came; a checkpoint of that step was written.
        ValueError, OSError: the corpus; the message names the file and the fix.

    Example: `train(find_recipe("shakespeare_gpt_cpu"), Path("runs/shakespeare"))`
    """
    distribution = distribution or Distribution("one_device")
    distribution.check(config)
    publish = _publish_nothing
    if is_remote(workdir):
        remote = local_copy(str(workdir))
        workdir = remote.local
        if distribution.is_chief:  # what the other workers have is only read
            publish = remote.upload
    workdir = Path(workdir)
    is_chief = distribution.is_chief
    claim = claimed(workdir, config, extend) if is_chief else contextlib.nullcontext()
    with claim as before, distribution.active():
        finished = _finished(workdir) if is_chief else None
        if distribution.from_chief(int(finished is not None)):
            _check_data_of_finished(config, workdir, data_dir, distribution)
            return finished
        trained = _train(config, workdir, data_dir, distribution, publish, profile_steps, before)
        distribution.barrier()
        return trained


def _finished(workdir: Path) -> bundle.Bundle | None:
    """The bundle of a run that has nothing left to do."""
    # The report is written last: a run killed just before it has that left to do.
    if not (workdir / REPORT_FILE).is_file():
        return None
    try:
        return load(workdir)
    except bundle.BundleError as error:
        logging.warning("%s The run is finished: its end is done again, from the checkpoint", error)
        return None


def _check_data_of_finished(
    config: TrainConfig, workdir: Path, data_dir: str | None, distribution: Distribution
) -> None:
    """Raises WorkdirError where the data are not those of the finished run in `workdir`."""
    try:
        progress = Checkpoints(workdir).latest()
        with distribution.scope():
            fingerprint = make_task(config, data_dir).fingerprint()
    except (ValueError, OSError) as error:
        logging.warning(
            "%s: this run is finished; nothing to do. Whether its data are still the same is not "
            "known: %s",
            workdir,
            error,
        )
        return
    if progress is not None and progress.corpus != fingerprint:
        raise WorkdirError(
            f"{workdir}: this run is finished, and the data at {config.data.named!r} have changed "
            "since. Its model is left as it is: train on them in another --workdir"
        )
    logging.info("%s: this run is finished; nothing to do (--extend trains it longer)", workdir)


def _train(
    config: TrainConfig,
    workdir: Path,
    data_dir: str | None,
    distribution: Distribution,
    publish: Callable[[], None],
    profile_steps: int,
    before: TrainConfig | None,
) -> bundle.Bundle | None:
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(precision_policy(config.precision, hardware()))
    with distribution.scope():
        task = make_task(config, data_dir)
        if config.remat:
            task.model.backbone.remat = True
        optimizer = make_optimizer(config.optimizer, config.steps)
        if distribution.strategy is not None:
            # All workers at once: they agree on the initial value of each variable.
            optimizer.build(task.trained_model.trainable_variables)
    distribution.check_model(task.trained_model)
    task.compile(optimizer)
    _describe(task, workdir, distribution)
    checkpoints = Checkpoints(workdir, config.keep_checkpoints, publish)
    log = MetricsLog(workdir)
    with distribution.scope():
        progress = _resume(task, checkpoints, log, distribution, before)
    with Interruption(together=distribution.workers > 1) as interruption:
        recorder = Recorder(task, checkpoints, log, progress, interruption)
        to_do = progress.step < config.steps or progress.training_logs
        try:
            if to_do and stopped_early(task, progress):
                logging.info(
                    "no better %s in %d evaluations: nothing is trained; a higher --set=patience "
                    "goes on",
                    task.monitor[0],
                    config.patience,
                )
            elif to_do:
                _fit(task, recorder, workdir, distribution, profile_steps)
        except tf.errors.DataLossError:
            task.check_data()  # names the shard, which TensorFlow does not
            raise
        finally:
            checkpoints.wait()
    if not distribution.is_chief:
        return None
    if config.select == "best":
        checkpoints.restore_best(task.model, recorder.progress.best_step)
    finished = task.save(workdir)
    write_report(finished, task, list(recorder.progress.records), recorder.progress)
    publish()
    return finished


def _publish_nothing() -> None:
    """No-op upload for local workdirs."""


def _fit(
    task: Task,
    recorder: Recorder,
    workdir: Path,
    distribution: Distribution,
    profile_steps: int,
) -> None:
    callbacks: list[keras.callbacks.Callback] = [ResetValidationState()]
    # A moving bar for people, a line an evaluation for log files.
    verbose = 1 if sys.stdout.isatty() else 2
    if distribution.is_chief:
        # The recorder before TensorBoard, which shows the metrics that it adds.
        first = _STEPS_BEFORE_PROFILE + 1
        profiled = (first, first + profile_steps - 1) if profile_steps else 0
        board = keras.callbacks.TensorBoard(
            workdir / "tensorboard", write_graph=False, profile_batch=profiled
        )
        callbacks += [recorder, board]
    else:
        callbacks += [Follower(recorder.step, recorder.interruption)]
        verbose = 0
    validation = validation_batches(task, distribution)
    loop = KerasLoop(task.trained_model)
    if distribution.strategy is not None:
        loop = StrategyLoop(task.trained_model, distribution)
    # An "epoch" is the stretch between two evaluations; one iterator serves all that are whole.
    for first_step, steps, epochs in _stretches(task.config, recorder.progress):
        batches = task.training_data(first_step, distribution.worker, distribution.workers)
        if first_step % task.config.evaluate_every:
            # The run goes on between two evaluations: the recorder sets the sums of their metrics.
            loop.build_metrics(next(iter(batches)))
        loop.fit(batches, steps, epochs, validation, callbacks, verbose)
        if task.trained_model.stop_training:
            # Asked to stop at the last step before an evaluation, which was done and saved.
            if distribution.any_worker(recorder.interruption.requested):
                raise Preempted
            return


def _stretches(config: TrainConfig, progress: Progress) -> Iterator[tuple[int, int, range]]:
    """First step, steps an epoch and epochs of what is left of a run: the rest of an epoch that
    was interrupted, which may be its evaluation alone, and then whole ones."""
    every, step = config.evaluate_every, progress.step
    if progress.training_logs:
        yield step, 0, range(step // every - 1, step // every)
    elif step % every:
        rest = every - step % every
        yield step, rest, range(step // every, step // every + 1)
        step += rest
    if step < config.steps:
        yield step, every, range(step // every, config.steps // every)


def stopped_early(task: Task, progress: Progress) -> bool:
    """Whether the evaluations so far say that `config.patience` was used up."""
    patience = task.config.patience
    return patience is not None and should_stop(progress.records, *task.monitor, patience)


def _resume(
    task: Task,
    checkpoints: Checkpoints,
    log: MetricsLog,
    distribution: Distribution,
    before: TrainConfig | None,
) -> Progress:
    fingerprint = task.fingerprint()
    progress = checkpoints.latest()
    step = 0 if progress is None else progress.step
    chiefs_step = distribution.from_chief(step)
    if chiefs_step != step:
        raise WorkdirError(
            f"--workdir={checkpoints.folder.parent}: this worker finds a checkpoint of step {step} "
            f"there, the chief one of step {chiefs_step}. All workers need the same folder, on a "
            "disk that they share"
        )
    if progress is None:
        progress = Progress(corpus=fingerprint)
    elif progress.corpus != fingerprint:
        raise WorkdirError(
            f"{checkpoints.folder.parent}: the data at {task.config.data.named!r} are not those "
            "this run began with. Restore it, or start in another --workdir"
        )
    if not progress.records and progress.evaluated_step:  # of an older release
        records = tuple(log.read(progress.evaluated_step))
        progress = dataclasses.replace(progress, records=records)
    progress = _extended(progress, task.config, before)
    if distribution.is_chief:
        log.restore(progress.records)
        checkpoints.drop_after(step)
    if step and distribution.is_chief:
        checkpoints.restore(task.trained_model, step)
    distribution.barrier()  # restoring tidies up, which only the chief may do
    if step and not distribution.is_chief:
        checkpoints.restore(task.trained_model, step)
    return progress


def _extended(progress: Progress, config: TrainConfig, before: TrainConfig | None) -> Progress:
    """Notes where a run was made longer, and logs what becomes of the learning rate."""
    planned = progress.planned_steps or (config.steps if before is None else before.steps)
    if not progress.step or planned == config.steps:
        return progress
    rates = [
        float(schedule_of(config.optimizer, n)(progress.step)) for n in (planned, config.steps)
    ]
    logging.info(
        "made longer at step %d: %d steps, before %d. From here on the learning rate is that of a "
        "run of %d steps: %.3g in place of %.3g",
        *(progress.step, config.steps, planned, config.steps, rates[1], rates[0]),
    )
    extensions = (*progress.extensions, (progress.step, planned))
    return dataclasses.replace(progress, extensions=extensions)


def _describe(task: Task, workdir: Path, distribution: Distribution) -> None:
    logging.info(
        "%s: %s, %d parameters; %s",
        workdir,
        task.config.recipe,
        task.model.count_params(),
        task.data_summary(),
    )
    logging.info("%s, %s", distribution.describe(task.config), keras.config.dtype_policy().name)
