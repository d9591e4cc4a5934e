"""Trains a model on a file of your own, or from a recipe.

python -m trainers --task=TASK --data=FILE --workdir=DIR [--init_from=WEIGHTS]
    [--teacher=BUNDLE] [--text_column=NAME] [--pair_column=NAME] [--label_column=NAME]
    [--set=key.path=value ...]
python -m trainers --list
python -m trainers --recipe=NAME --workdir=DIR [--data_dir=DIR] [--strategy=auto]
    [--set=key.path=value ...]
python -m trainers --recipe=NAME --compile_for=v5e-8 [--set=key.path=value ...]
python -m trainers --help_config

Run the same command again to go on where it was.
"""

import os
import sys
import time

from absl import app, flags, logging

from trainers.compile.chips import find_slice
from trainers.config import TASK_NAMES, TrainConfig, describe_keys, with_overrides
from trainers.recipes import describe_recipes, find_recipe
from zoo.output import outlive_readers, quiet_imports

_RECIPE = flags.DEFINE_string("recipe", None, "Name of a recipe; --list shows them.")
_TASK = flags.DEFINE_enum(
    "task", None, TASK_NAMES, "What to learn from --data; the rest is found or chosen, and printed."
)
_DATA = flags.DEFINE_string("data", None, "A file of your own, with --task.")
_INIT_FROM = flags.DEFINE_string(
    "init_from", None, "Weights: of an earlier --workdir, hf://OWNER/NAME, or a downloaded folder."
)
_TEACHER = flags.DEFINE_string(
    "teacher",
    None,
    "An earlier --workdir of the same task, whose answers a smaller model learns, too "
    "(classify, pair, tag, embed).",
)
_COLUMNS = {
    f"{name}_column": flags.DEFINE_string(f"{name}_column", None, f"Column of {what} in --data.")
    for name, what in {"text": "the text", "pair": "the second text", "label": "the label"}.items()
}
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of this run, or gs://bucket/folder; a run there is resumed."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder with named corpora. Default: $ZOO_DATA, then a download."
)
_SET = flags.DEFINE_multi_string(
    "set", [], "key.path=value, edits one field of the recipe; may be repeated."
)
_STRATEGY = flags.DEFINE_string(
    "strategy",
    "auto",
    "one_device, mirrored, multi_worker or tpu on TensorFlow; one_device, data_parallel or "
    "model_parallel on JAX; auto takes what it finds.",
)
_MODEL_SHARDS = flags.DEFINE_integer(
    "model_shards", None, "Devices that share one model's weights (model_parallel). Default: all."
)
_COMPILE_FOR = flags.DEFINE_list(
    "compile_for",
    [],
    "TPUs, such as v5e-8,v6e-1: compile the run's steps for them, on a machine without any, and "
    "say whether they fit and how fast they may be; nothing is trained (KERAS_BACKEND=jax).",
)
_PROFILE = flags.DEFINE_integer(
    "profile",
    0,
    "Write a profile of so many steps for TensorBoard (pip install tensorboard-plugin-profile).",
    lower_bound=0,
)
_EXTEND = flags.DEFINE_bool(
    "extend",
    False,
    "Train the run in --workdir longer: with a higher --set=steps, finished or not. It goes on "
    "from its last checkpoint, at the learning rate that a run of so many steps has there.",
)
_LIST = flags.DEFINE_bool(
    "list", False, "Show every recipe with its time and score, and the data sets, and stop."
)
_HELP_CONFIG = flags.DEFINE_bool(
    "help_config", False, "Show every key of --set with its default and meaning, and stop."
)

_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later


def main(argv: list[str]) -> None:
    """Reads flags, trains, says where the result lies.

    Exit codes: 1 for bad input, 3 if the loss diverged, 75 if SIGTERM stopped it (all is saved:
    run it again), 130 if Ctrl-C did.
    """
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags are --name=value")
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.INFO)
    try:
        if _LIST.value:
            # Imported here: it reads files, for which TensorFlow is loaded.
            from trainers.data.datasets import describe_datasets

            print(f"{describe_recipes()}\n\nLabelled data sets by name:\n{describe_datasets()}")
        elif _HELP_CONFIG.value:
            print(describe_keys())
        elif not (_WORKDIR.value or _COMPILE_FOR.value) or (
            bool(_RECIPE.value) == bool(_TASK.value and _DATA.value)
        ):
            sys.exit(
                "trainers: --workdir is needed, and --task with --data (a file of your own) or "
                "--recipe; --list shows the recipes"
            )
        elif _COMPILE_FOR.value:
            _compile()
        else:
            _train(_config(), _WORKDIR.value)
    except KeyboardInterrupt:
        message = "stopped; the same command goes on from the last checkpoint"
        print(f"\ntrainers: {message}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        logging.debug("where it was raised", exc_info=True)
        sys.exit(f"trainers: {error}")


def _config() -> TrainConfig:
    settings = list(_SET.value)
    if _RECIPE.value:
        if _TASK.value or _DATA.value:
            raise ValueError(
                "--recipe has a task and data of its own: --set=data.train=FILE gives it yours, "
                "and --task with --data goes without a recipe"
            )
        given = {"finetune.init_from": _INIT_FROM.value, "distill.teacher": _TEACHER.value}
        given |= {f"data.{name}": flag.value for name, flag in _COLUMNS.items()}
        settings += [f"{k}={v}" for k, v in given.items() if v is not None]
        return with_overrides(find_recipe(_RECIPE.value), settings)
    # Imported here: a recipe does without what reads a file.
    from trainers.own_data import own_config

    columns = {name: flag.value for name, flag in _COLUMNS.items()}
    config, lines = own_config(
        *(_TASK.value, _DATA.value, settings),
        init_from=_INIT_FROM.value,
        teacher=_TEACHER.value,
        data_dir=_DATA_DIR.value,
        **columns,
    )
    print("\n".join(lines), flush=True)
    return config


def _compile() -> None:
    for name in _COMPILE_FOR.value:
        find_slice(name)
    os.environ["JAX_PLATFORMS"] = "cpu"  # a TPU that is here is left alone
    config = _config()
    with quiet_imports():
        import keras

        if keras.backend.backend() != "jax":
            raise ValueError(
                f"--compile_for compiles what JAX runs on TPUs, and Keras is on "
                f"{keras.backend.backend()}: KERAS_BACKEND=jax python -m trainers ..."
            )
        from trainers.compile.summary import compile_for
    where = _DATA_DIR.value, _STRATEGY.value, _MODEL_SHARDS.value
    for part in compile_for(config, _COMPILE_FOR.value, *where):
        print(part, flush=True)


def _train(config: TrainConfig, workdir: str) -> None:
    started = time.monotonic()
    # Imported here, so that all mistakes in the command are answered without TensorFlow.
    with quiet_imports():
        from trainers.distribution import make_distribution
        from trainers.loop import train
        from trainers.recorder import Preempted, TrainingDiverged
    distribution = make_distribution(_STRATEGY.value, _MODEL_SHARDS.value)
    options = _DATA_DIR.value, distribution, _PROFILE.value, _EXTEND.value
    try:
        bundle = train(config, workdir, *options)
    except (TrainingDiverged, Preempted) as error:
        stopped = isinstance(error, Preempted)
        message = "told to stop, and saved; the same command goes on from here"
        print(f"trainers: {message if stopped else error}", file=sys.stderr)
        sys.exit(_PREEMPTED if stopped else 3)
    seconds = time.monotonic() - started
    if bundle is None:
        print(f"worker {distribution.worker} finished in {seconds:.0f} s")
        return
    print(f"finished in {seconds:.0f} s: {workdir}/report.md")
    print(f"export it: python -m export --workdir={workdir} --out=served/NAME")


if __name__ == "__main__":
    # Read when TensorFlow is imported. Errors of its C++ side come as exceptions, too; what it logs
    # as errors besides is about GPUs that are not there and oneDNN.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    outlive_readers()
    app.run(main)
