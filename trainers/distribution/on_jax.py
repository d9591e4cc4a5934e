"""JAX: the batch over the devices, or also the weights (tensor parallelism).

Megatron's cut (Shoeybi et al., 2019, arXiv:1909.08053): of a pair of products the first by columns,
the second by rows, so that one sum over the devices follows. Results differ by rounding only.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras
from absl import logging

from zoo.config import ConfigError

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


def jax_layout(
    name: str, model_shards: int | None, devices: Sequence[Any] | None = None
) -> "tuple[str, int, keras.distribution.Distribution | None]":
    """The name with "auto" resolved, replicas that share the batch, and Keras' distribution.

    `devices` are all of this machine, or JAX devices that need not be there.
    """
    import jax

    if jax.process_count() > 1:
        raise ConfigError(
            f"{jax.process_count()} JAX processes: training on several machines is for the "
            "TensorFlow backend, --strategy=multi_worker"
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


def check_shards(variables: Iterable[keras.Variable], shards: int) -> None:
    """Raises ConfigError, which names the variable, where a cut does not come out even."""
    for variable in variables:
        for size, axis in zip(variable.shape, layout_of(variable.path) or ()):
            if axis == MODEL_AXIS and size % shards:
                raise ConfigError(
                    f"{variable.path} is {tuple(variable.shape)}: {size} does not divide by "
                    f"--model_shards={shards}; take another number of them, or another width"
                )
