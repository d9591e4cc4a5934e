"""What is in a traced training step: matrix products by layer, and what a TPU should not be given.

A layer is named by Keras' scopes, which JAX keeps with every operation.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

# They stop the chip until the host has answered.
_CALLBACKS = ("pure_callback", "io_callback", "debug_callback", "debug_print")
# What transformations write around a scope: transpose(jvp(gpt))/backbone.
_AROUND = re.compile(
    r"\b(?:jvp|transpose|vmap|jit|pjit|checkpoint|remat)\(|rematted_computation|\)"
)
_SUBLANES = 8


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of (rows, inner) and (inner, columns) matrices, `times` in a step."""

    layer: str
    rows: int
    inner: int
    columns: int
    times: int

    @property
    def flops(self) -> float:
        return 2.0 * self.rows * self.inner * self.columns * self.times

    def padded_flops(self, lanes: int) -> float:
        """What the unit computes, which takes `lanes` x `lanes` of one matrix, and 8 rows of the
        other, at a time; of the two ways the better.
        """
        inner = _up(self.inner, lanes)
        ways = (
            _up(self.rows, _SUBLANES) * _up(self.columns, lanes),
            _up(self.rows, lanes) * _up(self.columns, _SUBLANES),
        )
        return 2.0 * inner * min(ways) * self.times


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def equations(jaxpr: Any, scope: str = "", times: int = 1) -> Iterator[tuple[Any, str, int]]:
    """Every operation of a jaxpr and of those within it, its layer, and how often it is done; of a
    `while` without a known end, once.
    """
    for equation in jaxpr.eqns:
        inside = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
        yield equation, layer_of(inside), times
        repeated = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in _jaxprs(equation.params.values()):
            yield from equations(inner, inside, times * repeated)


def _jaxprs(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _jaxprs(value)


def layer_of(scope: str) -> str:
    """Keras' path of a layer in what JAX names an operation."""
    parts = _AROUND.sub("", scope).split("/")
    return "/".join(part for part in parts if part)


def products(jaxpr: Any) -> list[Product]:
    """All matrix products of a step."""
    found = []
    for equation, layer, times in equations(jaxpr):
        if equation.primitive.name != "dot_general":
            continue
        left, right = (variable.aval.shape for variable in equation.invars)
        (inner, _), (shared, right_shared) = equation.params["dimension_numbers"]
        right_inner = equation.params["dimension_numbers"][0][1]
        rows = _others(left, (*inner, *shared))
        columns = _others(right, (*right_inner, *right_shared))
        batch = math.prod(left[axis] for axis in shared)
        depth = math.prod(left[axis] for axis in inner)
        found.append(Product(layer, rows, depth, columns, batch * times))
    return found


def _others(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return math.prod(size for axis, size in enumerate(shape) if axis not in axes)


def waste_by_layer(found: Iterable[Product], lanes: int) -> list[tuple[str, Product, float]]:
    """Layers with what padding adds to the step's products, as a share of all, and the product of
    theirs that loses most; largest first. Blocks count together.
    """
    found = list(found)
    total = sum(product.flops for product in found)
    added: dict[str, float] = collections.Counter()
    worst: dict[str, tuple[float, Product]] = {}
    for product in found:
        layer = re.sub(r"_\d+(?=/|$)", "_*", product.layer)
        waste = product.padded_flops(lanes) - product.flops
        added[layer] += waste
        if waste > worst.get(layer, (-1.0, product))[0]:
            worst[layer] = waste, product
    shares = ((layer, worst[layer][1], waste / total) for layer, waste in added.items())
    return sorted(shares, key=lambda row: -row[2])


def mistakes(jaxpr: Any) -> list[str]:
    """What is in a step that a TPU is stopped by or cannot do, by layer."""
    found: dict[str, None] = {}
    for equation, layer, _ in equations(jaxpr):
        name = equation.primitive.name
        if name in _CALLBACKS:
            found[f"{layer or 'the step'} asks the host in every step ({name})"] = None
        for variable in equation.outvars:
            dtype = str(getattr(variable.aval, "dtype", ""))
            if dtype in ("float64", "complex128"):
                found[f"{layer or 'the step'} computes in {dtype}, which TPUs do not have"] = None
    return list(found)
