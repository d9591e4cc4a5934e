"""Tensor parallelism on JAX: which axis of which weight is cut over the devices.

Megatron's cut (Shoeybi et al., 2019, arXiv:1909.08053): the first product of a pair by its
columns, the second by its rows, so that one sum over the devices follows each pair; embeddings by
their hidden axis. XLA adds the communication; results do not depend on the cut but for rounding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import keras

from zoo.config import ConfigError

DATA_AXIS, MODEL_AXIS = "batch", "model"
# End of a variable's path -> the axes of its shape. Each path matches one of them at most.
_COLUMNS, _ROWS, _VECTOR = (None, MODEL_AXIS), (MODEL_AXIS, None), (MODEL_AXIS,)
_RULES = {
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


def layout_rule(path: str) -> tuple[str | None, ...] | None:
    """The axes along which the variable at `path` is cut; None: every device has all of it.

    Example: `layout_rule("gpt/backbone/block_0/attention/qkv/kernel")  # (None, "model")`
    """
    found = [axes for pattern, axes in _RULES.items() if re.fullmatch(pattern, path)]
    return found[0] if found else None


def model_parallel(
    devices: Sequence[str], shards: int | None
) -> tuple[keras.distribution.ModelParallel, int]:
    """The distribution, and how many replicas share the batch.

    Args:
        devices: names of all devices. shards: devices that hold one model together; None: all.

    Raises:
        ConfigError: the devices do not divide into such groups.
    """
    shards = len(devices) if shards is None else shards
    if shards < 1 or len(devices) % shards:
        raise ConfigError(
            f"--model_shards={shards} does not divide the {len(devices)} devices of this machine"
        )
    replicas = len(devices) // shards
    mesh = keras.distribution.DeviceMesh((replicas, shards), (DATA_AXIS, MODEL_AXIS), devices)
    layout_map = keras.distribution.LayoutMap(mesh)
    for pattern, axes in _RULES.items():
        layout_map[pattern] = axes
    return (
        keras.distribution.ModelParallel(
            layout_map=layout_map, batch_dim_name=DATA_AXIS, auto_shard_dataset=False
        ),
        replicas,
    )


def check_shards(variables: Iterable[keras.Variable], shards: int) -> None:
    """Refuses a cut that does not come out even.

    Raises:
        ConfigError: an axis does not divide by `shards`; names the variable.
    """
    for variable in variables:
        axes = layout_rule(variable.path) or ()
        for size, axis in zip(variable.shape, axes):
            if axis == MODEL_AXIS and size % shards:
                raise ConfigError(
                    f"{variable.path} is {tuple(variable.shape)}: {size} does not divide by "
                    f"--model_shards={shards}; take another number of them, or another width"
                )
