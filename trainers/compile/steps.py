"""The steps of a run, compiled for chips that are not there.

Weights, optimizer and batches have shapes and places, and no values: a model may be larger than
this machine's memory. What is compiled are the functions that Keras' `fit` and `evaluate` call.
The names that begin with an underscore are Keras' own.
"""

import contextlib
import dataclasses
import importlib.util
import inspect
import math
import os
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import keras
import tensorflow as tf
from jax.experimental import topologies

from trainers.compile.chips import Slice
from trainers.compile.traced import layer_of, mistakes
from trainers.config import TrainConfig
from trainers.distribution import Distribution
from trainers.distribution.on_jax import jax_layout
from trainers.distribution.strategy_loop import build_metrics
from trainers.loop import make_compiled_task, validation_batches
from trainers.tasks import Task
from zoo.config import ConfigError

# In place of asking a server that only Google's machines reach.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Without a chip there is nothing to share: no lock that keeps a second process out.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_COLLECTIVE = re.compile(
    r" = (\(.*?\)|\S+) "
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}  # else 4
# What XLA says of a program that needs too much: "temporaries" are all, arguments and results, too.
_NEEDED = re.compile(
    r"(?:temporaries \(|Used )([\d.]+[KMGT])\)? (?:exceeds available HBM \(|of )([\d.]+[KMGT])"
)
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_OPERATION = re.compile(r'op_name="([^"]+)"')


class DoesNotCompile(ValueError):
    """A step that cannot run on a TPU, or that it would stop; the message names the layer."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each chip: what the step is given, and what it needs besides."""

    weights: int
    optimizer: int
    batch: int
    temporary: int  # activations, gradients, and the padding of all

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + self.batch + self.temporary


@dataclasses.dataclass(frozen=True)
class Step:
    """What a compiled step needs and does, on each chip."""

    name: str  # "train" or "evaluate"
    shape: tuple[int, ...]  # of the batch's token ids
    seconds: float  # to trace and compile
    memory: Memory
    jaxpr: Any  # of all chips together
    limit: int | None = None  # bytes that XLA lets a program have, of one that needs more
    flops: float = 0.0  # as XLA counts
    bytes_accessed: float = 0.0
    # Kind -> how many there are, and their bytes.
    collectives: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    donated: int = 0  # inputs whose memory an output takes
    executable: Any = None

    @property
    def fits(self) -> bool:
        return self.limit is None


def tpu_devices(where: Slice) -> list[Any]:
    """The chips of a slice, for which JAX compiles; ConfigError without libtpu."""
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "--compile_for needs XLA's compiler for TPUs, package libtpu: pip install libtpu "
            "(requirements-peers.txt has the version that was tested)"
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return topologies.get_topology_desc(where.topology, platform="tpu").devices


class AbstractRun:
    """A run's task without values, on devices that need not be there.

    Args:
        devices: of JAX, from `tpu_devices` or `jax.devices()`.
        hardware: "tpu" or "cpu".
        strategy, model_shards: as `make_distribution` takes them.

    Raises:
        ValueError, OSError: as `trainers.loop.train`; DoesNotCompile names a layer.
    """

    def __init__(
        self,
        config: TrainConfig,
        devices: Sequence[Any],
        hardware: str = "tpu",
        strategy: str = "auto",
        model_shards: int | None = None,
        data_dir: str | None = None,
    ):
        name, replicas, layout = jax_layout(strategy, model_shards, devices)
        self.distribution = Distribution(name, replicas, layout=layout, hardware=hardware)
        self.distribution.check(config)
        self.device = devices[0]
        made: list[Task] = []

        def make():
            # Variables that are made while JAX traces get a shape and a layout, and no value.
            task = make_compiled_task(config, data_dir, self.distribution)
            made.append(task)
            build_metrics(task.trained_model, next(_training_shapes(task)))

        with self.distribution.active(), _naming_layers():
            jax.eval_shape(make)
            [self.task] = made
            self.model = self.task.trained_model
            optimizer = self.model.optimizer
            for variable in (
                *self.model.variables,
                *optimizer.variables,
                *self.model.metrics_variables,
            ):
                layout = getattr(variable, "_layout", None)
                variable._value = self._struct(variable.shape, variable.dtype, layout)
            self.model.make_train_function()
            self.model.make_test_function()

    def training_shapes(self) -> Iterator[Any]:
        """The batches that the run's training steps read, as tensor specs: one of each shape."""
        return _training_shapes(self.task)

    def validation_shapes(self) -> list[Any]:
        """The same of what `fit` validates on."""
        batches = validation_batches(self.task, self.distribution)
        specs = [dataset.element_spec for dataset in batches.values()]
        return [spec for at, spec in enumerate(specs) if spec not in specs[:at]]

    def train_step(self, batch: Any) -> Step:
        """The compiled step of `fit` for batches of these tensor specs; DoesNotCompile."""
        return self._compiled("train", self.model.train_function, batch, True)

    def evaluation_step(self, batch: Any) -> Step:
        """The compiled step of `evaluate`; DoesNotCompile."""
        return self._compiled("evaluate", self.model.test_function, batch, False)

    def _compiled(self, name: str, function: Callable, batch: Any, training: bool) -> Step:
        # What `fit` makes of `train_step` is called with an iterator; inside is JAX's function.
        jitted = inspect.getclosurevars(function).nonlocals["step_function"]
        batch = keras.tree.map_structure(self._batch_struct, batch)
        state = self.model._get_jax_state(
            trainable_variables=True,
            non_trainable_variables=True,
            optimizer_variables=training,
            metrics_variables=True,
        )
        given = {
            "weights": sum(map(_bytes_on_chip, (*state[0], *state[1], *state[-1]))),
            "optimizer": sum(map(_bytes_on_chip, state[2])) if training else 0,
            "batch": sum(map(_bytes_on_chip, keras.tree.flatten(batch))),
        }
        inputs = batch[0]["token_ids"] if isinstance(batch[0], dict) else batch[0]
        shape, started = inputs.shape, time.perf_counter()
        with self.distribution.active(), _naming_layers():
            traced = jitted.trace(state, batch)
            if found := mistakes(traced.jaxpr):
                raise DoesNotCompile("; ".join(found))
            try:
                compiled = traced.lower().compile()
            except jax.errors.JaxRuntimeError as error:
                total, limit = _needed(error)
                seconds = time.perf_counter() - started
                memory = Memory(**given, temporary=total - sum(given.values()))
                return Step(name, shape, seconds, memory, traced.jaxpr, limit)
        seconds = time.perf_counter() - started
        text, sizes = compiled.as_text(), compiled.memory_analysis()
        cost = compiled.cost_analysis() or {}
        total = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
        total += sizes.temp_size_in_bytes - sizes.alias_size_in_bytes
        total += sizes.generated_code_size_in_bytes
        return Step(
            *(name, shape, seconds, Memory(**given, temporary=total - sum(given.values()))),
            jaxpr=traced.jaxpr,
            flops=cost.get("flops", 0.0),
            bytes_accessed=cost.get("bytes accessed", 0.0),
            collectives=_collectives(text),
            donated=len(re.findall(r"(?:may|must)-alias", text.partition("\n")[0])),
            executable=compiled,
        )

    def _batch_struct(self, spec: tf.TensorSpec) -> jax.ShapeDtypeStruct:
        layout, shape = self.distribution.layout, tuple(spec.shape)
        placed = None if layout is None else layout.get_data_layout(shape)
        dtype = jax.dtypes.canonicalize_dtype(spec.dtype.as_numpy_dtype)
        return self._struct(shape, dtype, placed)

    def _struct(self, shape, dtype, layout) -> jax.ShapeDtypeStruct:
        if layout is None:
            place = jax.sharding.SingleDeviceSharding(self.device)
        else:
            place = layout.backend_layout
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def with_rows(batch: Any, rows: int) -> Any:
    """Tensor specs of a batch of so many rows."""
    return tf.nest.map_structure(lambda x: tf.TensorSpec((rows, *x.shape[1:]), x.dtype), batch)


def _training_shapes(task: Task) -> Iterator[Any]:
    """Specs of the training batches: what the input pipeline says, and where that depends on the
    examples, one batch of each length that its plan has.
    """
    spec = task.training_data(0).element_spec
    if all(part.shape.is_fully_defined() for part in tf.nest.flatten(spec)):
        yield spec
        return
    _, lengths = task.plan.epoch(0)
    lengths = lengths[: task.config.steps].tolist()
    for length in sorted({*lengths}, reverse=True):
        batch = next(iter(task.training_data(lengths.index(length))))
        yield tf.nest.map_structure(tf.TensorSpec.from_tensor, batch)


def _bytes_on_chip(value: jax.ShapeDtypeStruct) -> int:
    return math.prod(value.sharding.shard_shape(value.shape)) * value.dtype.itemsize


def _bytes(text: str) -> int:
    """What XLA writes as 15.75G."""
    return int(float(text[:-1]) * _UNITS[text[-1].upper()])


def _collectives(text: str) -> dict[str, tuple[int, int]]:
    """Exchanges between chips in a program, by kind: how many, and the bytes of their results."""
    found: dict[str, tuple[int, int]] = {}
    for shapes, kind, starts in _COLLECTIVE.findall(text):
        arrays = _ARRAY.findall(shapes)
        if starts and kind in ("all-gather", "collective-permute"):
            arrays = arrays[len(arrays) // 2 :]  # operands and results
        size = sum(
            math.prod(int(side) for side in sides.split(",") if side) * _SIZES.get(kind_of, 4)
            for kind_of, sides in arrays
        )
        count, total = found.get(kind, (0, 0))
        found[kind] = count + 1, total + size
    return found


@contextlib.contextmanager
def _naming_layers() -> Iterator[None]:
    """Errors while JAX traces become DoesNotCompile with the layer in which they were raised."""
    filtered = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()  # it takes the layers' frames away
    try:
        with warnings.catch_warnings():
            # JAX would compute in float32 then.
            warnings.filterwarnings("error", message=".*Explicitly requested dtype float64")
            yield
    except (ConfigError, DoesNotCompile, OSError):
        raise
    except Exception as error:
        if (found := _blamed(error)) is None:
            raise
        layer, cause = found
        line = str(cause).strip().partition("\n")[0]
        raise DoesNotCompile(f"{layer}: {type(cause).__name__}: {line}") from error
    finally:
        if filtered:
            keras.config.enable_traceback_filtering()


def _blamed(error: BaseException) -> tuple[str, BaseException] | None:
    """Path of the innermost layer in which an error was raised, and that error: Keras makes others
    of it on its way.
    """
    found = []
    following: BaseException | None = error
    while following is not None:
        frames = traceback.walk_tb(following.__traceback__)
        owners = [frame.f_locals.get("self") for frame, _ in frames]
        layers = [owner for owner in owners if isinstance(owner, keras.layers.Layer)]
        if layers:
            found.append((layers[-1].path or layers[-1].name, following))
        following = following.__cause__ or following.__context__
    return max(reversed(found), key=lambda pair: pair[0].count("/"), default=None)


def _needed(error: Exception) -> tuple[int, int]:
    """Bytes that a program needs in all, and those that it may have."""
    found = _NEEDED.search(str(error))
    if found is None:
        raise DoesNotCompile(_reason(error)) from error
    return _bytes(found[1]), _bytes(found[2])


def _reason(error: Exception) -> str:
    """What XLA says, and the layer of the operation that it names."""
    found = _OPERATION.search(str(error))
    layer = f"{layer_of(found[1])}: " if found else ""
    return f"{layer}{str(error).strip().splitlines()[0]:.500}"
