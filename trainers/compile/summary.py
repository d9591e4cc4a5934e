"""What `--compile_for` prints: memory, time and padding of a run's steps on TPUs."""

import math
from collections.abc import Iterator, Sequence

import keras

from trainers.compile.chips import Slice, find_slice
from trainers.compile.steps import AbstractRun, Step, tpu_devices, with_rows
from trainers.compile.traced import products, waste_by_layer
from trainers.config import TrainConfig
from trainers.report.efficiency import training_flops_per_token
from zoo.output import table

# Share of a chip's best that good training programs reach: Chowdhery et al. (2022,
# arXiv:2204.02311) report 46 %, most others less.
_TYPICAL = 0.4
_GIB = 1 << 30
# Of the search for the largest batch: compilations, rows over those of the config, and how near
# is good enough.
_TRIES, _MOST_TIMES, _NEAR = 3, 64, 1.05
_SHOWN_WASTE = 0.005


def compile_for(
    config: TrainConfig,
    names: Sequence[str],
    data_dir: str | None = None,
    strategy: str = "auto",
    model_shards: int | None = None,
) -> Iterator[str]:
    """Lines on the steps of a run on each of the slices, such as "v5e-8", as they are known.

    Raises:
        ConfigError: no such slice, libtpu is not installed, the batch does not divide.
        DoesNotCompile: a step that a TPU cannot run; the message names the layer.
        ValueError, OSError: as `trainers.loop.train`.

    Example: `print(*compile_for(find_recipe("shakespeare_gpt"), ["v5e-1"]), sep="\\n")`
    """
    slices = [find_slice(name) for name in names]
    for where in slices:
        yield from _on_slice(config, where, data_dir, strategy, model_shards)


def _on_slice(
    config: TrainConfig,
    where: Slice,
    data_dir: str | None,
    strategy: str,
    model_shards: int | None,
) -> Iterator[str]:
    run = AbstractRun(config, tpu_devices(where), "tpu", strategy, model_shards, data_dir)
    chip, chips = where.chip, math.prod(where.shape)
    yield (
        f"\n## {where.name}: {chips} x {chip.kind}, {_gib(chip.memory)} of HBM and "
        f"{chip.teraflops:g} TFLOP/s of bfloat16 each\n\n{run.distribution.describe(config)}, "
        f"{keras.config.dtype_policy().name}\n"
    )
    training, validation = list(run.training_shapes()), run.validation_shapes()
    yield _batches(run, training)
    steps = [run.train_step(batch) for batch in training]
    steps += [run.evaluation_step(batch) for batch in validation]
    header = ["step", "weights", "optimizer", "batch", "others", "GiB of HBM", "", "compiled in"]
    yield table(header, [_memory_row(step, chip.memory) for step in steps], range(1, 8))
    if not validation:
        yield "\nEvaluation asks what is served, which is not compiled as one step.\n"
    if steps[0].fits:
        yield _time(run, where, steps[0])
    yield _padding(steps[0], chip.lanes)
    yield largest_batch(run, where, training[0], steps[0])  # last: it compiles further steps


def _batches(run: AbstractRun, batches: Sequence) -> str:
    """The shapes of batches, and where they are from."""
    shown = ("  ".join(f"{tuple(x.shape)} {x.dtype.name}" for x in _flat(b)) for b in batches)
    source = "as the input pipeline's specs say"
    if len(batches) > 1:
        source += f", with the {len(batches)} lengths of its buckets"
    return f"Batches, {source}: {'; '.join(shown)}\n"


def _flat(batch) -> list:
    return keras.tree.flatten(batch)


def _memory_row(step: Step, available: int) -> list[str]:
    memory = step.memory
    parts = (memory.weights, memory.optimizer, memory.batch, memory.temporary, memory.total)
    fits = f"{memory.total / available:.0%}" if step.fits else "does not fit"
    sizes = " x ".join(map(str, step.shape))
    cells = (f"{part / _GIB:.2f}" for part in parts)
    return [f"{step.name} {sizes}", *cells, fits, f"{step.seconds:.0f} s"]


def largest_batch(run: AbstractRun, where: Slice, batch, step: Step) -> str:
    """Says which batch is the largest that fits: along a line through two sizes, and compiled."""
    rows, parts = step.shape[0], run.distribution.replicas
    if getattr(run.model, "row_states", ()):
        return "The largest batch is not looked for: the model's state has a row for each.\n"
    limit = step.limit or where.chip.memory
    # Without rows nothing but weights and optimizer: too little, so the first guess fits.
    totals, fits = {0: step.memory.weights + step.memory.optimizer}, {rows: step.fits}
    totals[rows] = step.memory.total
    for _ in range(_TRIES):
        (one, first), (two, second) = sorted(totals.items())[-2:]
        each = (second - first) / (two - one)
        size = int(one + (limit - first) / max(each, 1.0)) // parts * parts
        size = min(max(size, parts), _MOST_TIMES * rows // parts * parts)
        best = max((size for size, fit in fits.items() if fit), default=0)
        if size in totals or best <= size < _NEAR * best:
            break
        tried = run.train_step(with_rows(batch, size))
        totals[size], fits[size] = tried.memory.total, tried.fits
    best = max((size for size, fit in fits.items() if fit), default=0)
    beyond = min((size for size in fits if size > best), default=None)
    if not best:
        return f"A batch of {min(fits)} rows, {min(fits) // parts} a replica, does not fit.\n"
    found = f"Largest batch that was compiled and fits: {best} rows, {_gib(totals[best])} a chip"
    return found + (f"; {beyond} rows do not fit.\n" if beyond else ".\n")


def _time(run: AbstractRun, where: Slice, step: Step) -> str:
    """What a step computes and moves, and how long that takes at best."""
    chip, chips = where.chip, math.prod(where.shape)
    tokens, length = math.prod(step.shape), step.shape[-1]
    # Each byte is sent and received, of a sum twice.
    exchanged = sum(
        size * (4 if kind == "all-reduce" else 2) for kind, (_, size) in step.collectives.items()
    )
    bounds = {
        "products and the rest": step.flops / chip.flops,
        "HBM": step.bytes_accessed / (chip.bandwidth * 1e9),
        "links": exchanged / (chip.links * 1e9),
    }
    best = max(bounds.values())
    kinds = (f"{n} {kind} ({_mib(size)})" for kind, (n, size) in step.collectives.items())
    needed = tokens * training_flops_per_token(run.task.model, length)
    typical = needed / (_TYPICAL * chip.flops * chips)
    beyond = ", less than the roofline: not to be reached" if typical < best else ""
    parts = ", ".join(f"{name} {seconds * 1e3:.3g} ms" for name, seconds in bounds.items())
    return (
        f"A chip does {step.flops / 1e9:,.4g} GFLOP and moves {step.bytes_accessed / 1e9:,.4g} GB "
        f"in a training step of {tokens:,} tokens; the chips exchange "
        f"{', '.join(kinds) or 'nothing'}. {step.donated} inputs give their memory to outputs.\n"
        f"At best (roofline: {parts}) {best * 1e3:.3g} ms a step, {tokens / best:,.0f} tokens/s; "
        f"at a model FLOPs utilisation of {_TYPICAL:.0%}, a good program's, {typical * 1e3:.3g} ms,"
        f" {tokens / typical:,.0f} tokens/s{beyond}.\n"
    )


def _padding(step: Step, lanes: int) -> str:
    """What is computed for nothing, because sizes are no multiples of the unit's side."""
    found = waste_by_layer(products(step.jaxpr), lanes)
    total = sum(share for *_, share in found)
    shown = (
        f"{layer or 'elsewhere'} {share:.1%} (largest: {worst.rows} x {worst.inner} x "
        f"{worst.columns})"
        for layer, worst, share in found[:5]
        if share > _SHOWN_WASTE
    )
    layers = "; ".join(shown)
    return (
        f"Padding to {lanes} x {lanes} adds {total:.1%} to the products of a training step"
        f"{': ' if layers else ''}{layers}.\n"
    )


def _gib(size: float) -> str:
    return f"{size / _GIB:.4g} GiB"


def _mib(size: float) -> str:
    return f"{size / (1 << 20):,.3g} MiB"
