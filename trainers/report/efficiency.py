"""How well a run used its machine: model FLOPs utilisation, the input pipeline, memory."""

import math
import re
import resource
import statistics
import sys
import time

import keras

from trainers.compile.chips import CHIPS
from trainers.distribution.hardware import device_names, peak_device_memory
from trainers.tasks.base import Task

# Dense matrix products of bfloat16 in FLOP/s, as the makers state them for one device; part of the
# name that the device gives itself.
_PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
    **{chip.kind: chip.flops for chip in CHIPS.values()},
    "TPU v4": 275e12,
    "TPU v3": 123e12,
    "TPU v2": 45e12,
}
_LOOKED_UP = re.compile(r"(?:token|position|segment)_embedding/(?!reverse)")
_SIDE = 1536  # of the measured product
_PIPELINE_SECONDS = 1.0
_LEAST_SECONDS = 10.0  # of training: what lasted less is not worth the seconds of measuring


def efficiency(task: Task, records: list[dict[str, float]]) -> dict[str, str]:
    """Rows of the report: speed and memory; after 10 s of training, MFU and the input pipeline."""
    speeds = [record["tokens_per_second"] for record in records if record["tokens_per_second"]]
    rows = {"memory": f"{peak_memory() / 1e6:,.0f} MB at most"}
    if not speeds:
        return rows
    speed, last = statistics.median(speeds), records[-1]
    rows = {"speed": f"{speed:,.0f} tokens a second in training", **rows}
    if last["tokens"] / speed < _LEAST_SECONDS:
        return rows
    length = last["tokens"] / (last["step"] * task.config.batch_size)
    used = speed * training_flops_per_token(task.model, length)
    peak, source = peak_flops()
    alone = pipeline_tokens_per_second(task)
    return {
        **rows,
        "model FLOPs utilisation": f"{used / peak:.1%}: {used / 1e9:,.3g} of {peak / 1e9:,.4g} "
        f"GFLOP/s ({source})",
        "input pipeline alone": f"{alone:,.0f} tokens a second, {alone / speed:,.0f} times that: "
        f"training waits for it {speed / max(alone, 1):.1%} of the time at most",
    }


def training_flops_per_token(model: keras.Model, length: float) -> float:
    """6 for each weight of a matrix product (2 forward, 4 backward), 12 x layers x width x `length`
    for attention, causal or not (Chowdhery et al., 2022, arXiv:2204.02311, appendix B). Half of
    that for an encoder-decoder, roughly: as if sources and targets had as many tokens.
    """
    weights = sum(
        math.prod(weight.shape)
        for weight in model.weights
        if len(weight.shape) > 1 and not _LOOKED_UP.search(weight.path)
    )
    config = model.backbone.config
    if config.family.endswith("encoder_decoder"):
        # A token passes the encoder or the decoder, and half of all are targets, which have logits.
        weights += config.vocabulary_size * config.hidden_dim if config.tie_embeddings else 0
        return 3.0 * weights + 6 * config.num_layers * config.hidden_dim * length
    if getattr(config, "tie_embeddings", False) and hasattr(model, "initial_cache"):
        weights += config.vocabulary_size * config.hidden_dim
    has_attention = hasattr(config, "num_heads")
    attention = 12 * config.num_layers * config.hidden_dim * length if has_attention else 0
    return 6.0 * weights + attention


def peak_flops() -> tuple[float, str]:
    """The devices' best FLOP/s, of their maker for bfloat16 or as measured, and its source."""
    names = device_names()
    reduced = keras.config.dtype_policy().compute_dtype != "float32"
    for part, flops in _PEAKS.items():
        if reduced and names and all(part in name for name in names):
            return flops * len(names), f"{len(names)} x {names[0]}, as its maker says"
    matrix = keras.ops.ones((_SIDE, _SIDE), "float32")
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        float(keras.ops.matmul(matrix, matrix)[0, 0])  # reading it waits for it
        best = min(best, time.perf_counter() - started)
    return 2 * _SIDE**3 / best, f"a product of {_SIDE} x {_SIDE} float32 matrices here"


def pipeline_tokens_per_second(task: Task) -> float:
    """How many tokens the input pipeline gives when nothing is trained meanwhile."""
    batches = iter(task.training_data(0))
    next(batches)  # what starts it is not its speed
    started, count, seconds = time.perf_counter(), 0, 0.0
    while seconds < _PIPELINE_SECONDS and next(batches, None) is not None:
        count, seconds = count + 1, time.perf_counter() - started
    return task.trained_tokens(1, 1 + count) / seconds if count else 0.0


def peak_memory() -> int:
    """Bytes: of the first accelerator where the backend counts them, else of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_device_memory() or (peak if sys.platform == "darwin" else peak * 1024)
