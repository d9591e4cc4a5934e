"""The training loop: fit, evaluate, resume, write the bundle and the report."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf
from absl import logging

from trainers.checkpoints import Checkpoints, Progress
from trainers.config import TrainConfig
from trainers.distribution import Distribution
from trainers.distribution.hardware import precision_policy
from trainers.distribution.rows import own_rows
from trainers.distribution.strategy_loop import StrategyLoop, build_metrics
from trainers.metrics import MetricsLog, should_stop
from trainers.optim.optimizers import make_optimizer, schedule_of
from trainers.recorder import (
    Bar,
    Board,
    Callbacks,
    Follower,
    Interruption,
    Preempted,
    Recorder,
    StopTogether,
)
from trainers.report.report import REPORT_FILE, write_report
from trainers.tasks import Task, make_task
from trainers.tasks.lm import ResetValidationState
from trainers.workdir import RemoteWorkdir, WorkdirError, claimed, is_remote
from zoo import bundle
from zoo.loading import load
from zoo.weights.locations import temporary_folder

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
        workdir: created if missing; one run each, which several workers share. A string such as
            "gs://bucket/run" is kept up to date there.
        data_dir: where named corpora lie.
        distribution: from `make_distribution`, which may change between runs. Default: one device.
        profile_steps: steps whose profile is written for TensorBoard, after the first few.
        extend: whether a run there, finished or not, may go on to a higher `config.steps`. From
            its last checkpoint on, the learning rate is that of a run of so many steps.

    Returns:
        The finished bundle; None for a worker that is not the chief. A run that was finished
        before is only loaded, or its bundle written anew where that is damaged.

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
    is_chief, publish = distribution.is_chief, None
    if is_remote(workdir):
        remote = RemoteWorkdir(str(workdir), temporary_folder())
        remote.download()
        workdir = remote.local
        if is_chief:  # what the other workers have is only read
            publish = remote.upload
    workdir = Path(workdir)
    claim = claimed(workdir, config, extend) if is_chief else contextlib.nullcontext()
    with claim, distribution.active():
        finished = _finished(workdir) if is_chief else None
        if distribution.from_chief(int(finished is not None)):
            _check_data_of_finished(config, workdir, data_dir, distribution)
            return finished
        checkpoints = Checkpoints(workdir, config.keep_checkpoints, publish)
        task = make_compiled_task(config, data_dir, distribution)
        summary = workdir, config.recipe, task.model.count_params(), task.data_summary()
        logging.info("%s: %s, %d parameters; %s", *summary)
        logging.info("%s, %s", distribution.describe(config), keras.config.dtype_policy().name)
        progress = _train(task, workdir, checkpoints, distribution, profile_steps)
        if is_chief:
            with distribution.alone(task.trained_model):
                if config.select == "best":
                    checkpoints.restore_best(task.model, progress)
                finished = task.save(workdir)
                write_report(finished, task, list(progress.records), progress)
                if distribution.of_jax_processes:  # whose model is shared again
                    finished = load(workdir)
            if publish is not None:
                publish()
        distribution.barrier()
        return finished


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
        message = "%s: this run is finished; nothing to do. Whether its data are still the same is "
        logging.warning(message + "not known: %s", workdir, error)
        return
    if progress is not None and progress.corpus != fingerprint:
        raise WorkdirError(
            f"{workdir}: this run is finished, and the data at {config.data.named!r} have changed "
            "since. Its model is left as it is: train on them in another --workdir"
        )
    logging.info("%s: this run is finished; nothing to do (--extend trains it longer)", workdir)


def make_compiled_task(
    config: TrainConfig, data_dir: str | None, distribution: Distribution
) -> Task:
    """The task of a run with its model, compiled, on the distribution; as `train` makes it."""
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(precision_policy(config.precision, distribution.kind))
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
    return task


def _train(
    task: Task,
    workdir: Path,
    checkpoints: Checkpoints,
    distribution: Distribution,
    profile_steps: int,
) -> Progress:
    """Does the steps and evaluations that are left; gives the progress at the end."""
    config, log = task.config, MetricsLog(workdir)
    with distribution.scope():
        progress = _resume(task, checkpoints, log, distribution)
    together = distribution.workers > 1 and not distribution.of_jax_processes
    with Interruption(together) as interruption:
        callbacks: list[keras.callbacks.Callback] = [ResetValidationState()]
        if distribution.is_chief:
            recorder = Recorder(task, checkpoints, log, progress, interruption, distribution)
            first = _STEPS_BEFORE_PROFILE + 1
            profiled = (first, first + profile_steps - 1) if profile_steps else 0
            folder = workdir / "tensorboard"
            board = Board(folder, write_graph=False, profile_batch=profiled)
            # The recorder before TensorBoard, which shows the metrics that it adds.
            callbacks += [recorder, board]
        else:
            recorder = Follower(task.config, progress, interruption, distribution)
            callbacks += [recorder]
        if distribution.of_jax_processes:
            callbacks += [StopTogether(distribution)]
        try:
            if progress.step < config.steps or progress.training_logs:
                if should_stop(progress.records, *task.monitor, config.patience):
                    message = "no better %s in %d evaluations: nothing is trained; a higher "
                    message += "--set=patience goes on"
                    logging.info(message, task.monitor[0], config.patience)
                else:
                    _fit(task, progress, callbacks, interruption, distribution)
        except tf.errors.DataLossError:
            task.check_data()  # names the shard, which TensorFlow does not
            raise
        finally:
            checkpoints.wait()
    return recorder.progress


def _fit(
    task: Task,
    progress: Progress,
    callbacks: Sequence[keras.callbacks.Callback],
    interruption: Interruption,
    distribution: Distribution,
) -> None:
    config, model = task.config, task.trained_model
    # A moving bar for people, a line an evaluation for log files.
    verbose = (1 if sys.stdout.isatty() else 2) if distribution.is_chief else 0
    validation = validation_batches(task, distribution)
    strategy = distribution.strategy
    loop = KerasLoop(model) if strategy is None else StrategyLoop(model, distribution)
    # An "epoch" is the stretch between two evaluations; one iterator serves all that are whole.
    for first_step, steps, epochs in _stretches(config, progress):
        batches = task.training_data(first_step, distribution.worker, distribution.workers)
        if first_step % config.evaluate_every:
            # The run goes on between two evaluations: the recorder sets the sums of their metrics.
            loop.build_metrics(next(iter(batches)))
        loop.fit(batches, steps, epochs, validation, callbacks, verbose)
        if model.stop_training:
            # Asked to stop at the last step before an evaluation, which was done and saved.
            if distribution.any_worker(interruption.requested):
                raise Preempted
            return


def _stretches(config: TrainConfig, progress: Progress) -> Iterator[tuple[int, int, range]]:
    """First step, steps an epoch and epochs of what is left of a run: the rest of an epoch that
    was interrupted, which may be its evaluation alone, and then whole ones.
    """
    every, step = config.evaluate_every, progress.step
    if progress.training_logs:
        yield step, 0, range(step // every - 1, step // every)
    elif step % every:
        rest = every - step % every
        yield step, rest, range(step // every, step // every + 1)
        step += rest
    if step < config.steps:
        yield step, every, range(step // every, config.steps // every)


def validation_batches(task: Task, distribution: Distribution) -> dict[str, tf.data.Dataset]:
    """This worker's rows of what `fit` validates on, with empty rows so that they divide."""
    share = distribution.replicas, distribution.worker, distribution.workers
    return {name: own_rows(batches, *share) for name, batches in task.validation_data.items()}


class KerasLoop:
    """Trains a compiled model by `keras.Model.fit`; `StrategyLoop` does it for several replicas."""

    def __init__(self, model: keras.Model):
        self.model = model

    def build_metrics(self, batch: tuple) -> None:
        """Makes the sums of the training metrics before the first step."""
        build_metrics(self.model, batch)

    def fit(
        self,
        batches: tf.data.Dataset,
        steps_per_epoch: int,
        epochs: range,
        validation_data: Mapping[str, tf.data.Dataset] | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: int = 0,
    ) -> None:
        """`keras.Model.fit` with one iterator for all epochs; with 0 steps they are evaluations
        alone. `validation_data` with a name are logged as "val_loss/NAME".
        """
        model, several = self.model, dict(validation_data or {})
        single = several.pop("", None)  # by Keras itself, which shows its progress
        callbacks = [_EvaluateEach(several), *callbacks]
        bar = [Bar()] if steps_per_epoch else []
        params = {"epochs": epochs.stop, "steps": steps_per_epoch, "verbose": verbose}
        called = Callbacks([*callbacks, *bar], add_history=True, model=model, **params)
        if steps_per_epoch:
            model.fit(
                batches,
                steps_per_epoch=steps_per_epoch,
                initial_epoch=epochs.start,
                epochs=epochs.stop,
                validation_data=single,
                callbacks=called,
                shuffle=False,  # the dataset has its own order
            )
            return
        model.stop_training = False
        called.on_train_begin()
        for epoch in epochs:
            found, options = {}, {"callbacks": callbacks, "verbose": 0, "return_dict": True}
            if single is not None:
                found = model.evaluate(single, **options)
            called.on_epoch_end(epoch, {f"val_{name}": value for name, value in found.items()})
        called.on_train_end()


class _EvaluateEach(keras.callbacks.Callback):
    """Evaluates on several sets by name at the end of an epoch; the logs get what it finds."""

    def __init__(self, sets: dict[str, tf.data.Dataset]):
        super().__init__()
        self.sets = sets

    def on_epoch_end(self, epoch, logs=None):
        for name, batches in self.sets.items():
            options = {"callbacks": [ResetValidationState()], "verbose": 0, "return_dict": True}
            found = self.model.evaluate(batches, **options)
            logs |= {f"val_{metric}/{name}": value for metric, value in found.items()}


def _resume(
    task: Task, checkpoints: Checkpoints, log: MetricsLog, distribution: Distribution
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
    progress = _extended(progress, task.config)
    if distribution.is_chief:
        log.restore(progress.records)
        checkpoints.drop_after(step)
    distribution.barrier()
    if step:  # all at once: variables of several JAX processes are assigned together
        checkpoints.restore(task.trained_model, step)
    return progress


def _extended(progress: Progress, config: TrainConfig) -> Progress:
    """Notes where a run was made longer, and logs what becomes of the learning rate."""
    planned = progress.planned_steps
    if planned in (0, config.steps):
        return progress
    both = planned, config.steps
    rates = [float(schedule_of(config.optimizer, steps)(progress.step)) for steps in both]
    logging.info(
        "made longer at step %d: %d steps, before %d. From here on the learning rate is that of a "
        "run of %d steps: %.3g in place of %.3g",
        *(progress.step, config.steps, planned, config.steps, rates[1], rates[0]),
    )
    extensions = (*progress.extensions, (progress.step, planned))
    return dataclasses.replace(progress, extensions=extensions)
