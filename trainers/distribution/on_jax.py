"""JAX: the batch over the devices, or also the weights (tensor parallelism).

Megatron's cut (Shoeybi et al., 2019, arXiv:1909.08053): of a pair of products the first by columns,
the second by rows, so that one sum over the devices follows. Results differ by rounding only.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from absl import logging

from trainers.distribution.tf_config import join_seconds, read_cluster
from zoo.config import ConfigError

# The machines of a TPU slice, on each of them.
_HOSTS = "TPU_WORKER_HOSTNAMES"
DATA_AXIS, MODEL_AXIS = "batch", "model"
# End of a variable's path -> the axes of its shape. Each path matches one of them at most.
_COLUMNS, _ROWS, _VECTOR = (None, MODEL_AXIS), (MODEL_AXIS, None), (MODEL_AXIS,)
LAYOUTS = {
    # Blocks of GPT and BERT.
    r".*block_\d+/attention/qkv/kernel": _COLUMNS,
    r".*block_\d+/attention/qkv/bias": _VECTOR,
    r".*block_\d+/attention/output/kernel": _ROWS,
    r".*block_\d+/feedforward/expand/kernel": _COLUMNS,
    r".*block_\d+/feedforward/expand/bias": _VECTOR,
    r".*block_\d+/feedforward/contract/kernel": _ROWS,
    # Embeddings by their width; an untied output projection is (hidden, vocabulary).
    r".*(token|position|segment)_embedding/embeddings": _COLUMNS,
    r".*token_embedding/reverse_embeddings": _ROWS,
    # BERT's pooler and the transform of a masked language model.
    r".*pooler/kernel": _ROWS,
    r".*transform/kernel": _ROWS,
    # LSTM: the gates side by side.
    r".*lstm_\d+/lstm_cell/kernel": _COLUMNS,
    r".*lstm_\d+/lstm_cell/recurrent_kernel": _COLUMNS,
    r".*lstm_\d+/lstm_cell/bias": _VECTOR,
    # Last layers: few classes, so the cut is along the hidden axis.
    r".*(?<!attention)/output/kernel": _ROWS,
    r".*/projection/kernel": _ROWS,
}


def layout_of(path: str) -> tuple[str | None, ...] | None:
    """The axes along which the variable at `path` is cut; None: every device has all of it."""
    return next((axes for rule, axes in LAYOUTS.items() if re.fullmatch(rule, path)), None)


def join_processes(environ: Mapping[str, str]) -> None:
    """Meets the other JAX processes: those of TF_CONFIG, or of a TPU slice of several machines."""
    import jax

    cluster = read_cluster(environ)
    several = cluster is not None and len(cluster.addresses) > 1
    if jax.distributed.is_initialized() or not (several or "," in environ.get(_HOSTS, "")):
        return
    try:
        if not several:
            jax.distributed.initialize()  # it finds out
            return
        addresses = [*cluster.addresses.values()]
        jax.distributed.initialize(
            *(addresses[0], len(addresses), cluster.worker), initialization_timeout=join_seconds()
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the {len(addresses) if several else 'several'} JAX processes did not meet: "
            f"{str(error).splitlines()[0]}"
        ) from error


def jax_layout(
    name: str, model_shards: int | None, devices: Sequence[Any] | None = None
) -> "tuple[str, int, keras.distribution.Distribution | None]":
    """The name with "auto" resolved, replicas that share the batch, and Keras' distribution.

    `devices` are all of this machine, or JAX devices that need not be there.
    """
    import jax

    if jax.process_count() > 1 and name not in ("auto", "data_parallel"):
        raise ConfigError(
            f"--strategy={name}: {jax.process_count()} JAX processes share batches, not models; "
            "use --strategy=data_parallel"
        )
    devices = keras.distribution.list_devices() if devices is None else list(devices)
    if name == "auto":
        name = "data_parallel" if len(devices) > 1 else "one_device"
    if name == "one_device":
        return name, 1, None
    if name == "data_parallel":
        layout = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
        return name, len(devices), layout
    shards = len(devices) if model_shards is None else model_shards
    if shards < 1 or len(devices) % shards:
        raise ConfigError(
            f"--model_shards={shards} does not divide the {len(devices)} devices of this machine"
        )
    logging.info("weights in %d parts", shards)
    replicas = len(devices) // shards
    mesh = keras.distribution.DeviceMesh((replicas, shards), (DATA_AXIS, MODEL_AXIS), devices)
    layouts = keras.distribution.LayoutMap(mesh)
    for rule, axes in LAYOUTS.items():
        layouts[rule] = axes
    layout = keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name=DATA_AXIS, auto_shard_dataset=False
    )
    return name, replicas, layout


def sum_of_processes(value: int) -> int:
    """The sum of what the JAX processes say; each of them calls it at the same place."""
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.int32(value)).sum())


@contextlib.contextmanager
def alone(variables: Iterable[keras.Variable]) -> Iterator[None]:
    """Gives this process the values of variables for itself, outside of the distribution: what it
    computes with them, the other processes need not compute, too.
    """
    import jax

    variables = list(variables)
    before = [(variable._value, variable._layout) for variable in variables]
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    for variable in variables:
        variable._layout = None
        variable._value = jax.numpy.asarray(np.asarray(variable._value))
    try:
        yield
    finally:
        for variable, (value, layout) in zip(variables, before):
            variable._value, variable._layout = value, layout
        keras.distribution.set_distribution(distribution)


def check_shards(variables: Iterable[keras.Variable], shards: int) -> None:
    """Raises ConfigError, which names the variable, where a cut does not come out even."""
    for variable in variables:
        for size, axis in zip(variable.shape, layout_of(variable.path) or ()):
            if axis == MODEL_AXIS and size % shards:
                raise ConfigError(
                    f"{variable.path} is {tuple(variable.shape)}: {size} does not divide by "
                    f"--model_shards={shards}; take another number of them, or another width"
                )
