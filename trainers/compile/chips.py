"""TPU chips and slices of them, by the names that Google Cloud gives them."""

import dataclasses
import math
import re

from zoo.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, by its maker's figures: docs.cloud.google.com/tpu/docs/v5e, v5p and v6e."""

    kind: str  # how the chip calls itself in JAX
    gib: float  # of HBM that a program may have, as XLA says where one needs more
    teraflops: float  # of bfloat16 products, in a second
    bandwidth: float  # of HBM, gigabytes a second
    links: float  # to and from the other chips, gigabytes a second
    lanes: int  # side of the unit that multiplies matrices
    cores: int  # by which its slices are counted: a v5p-8 has 4 chips
    shapes: tuple[str, ...]  # of its slices

    @property
    def memory(self) -> int:
        """Bytes of HBM for a program."""
        return int(self.gib * 2**30)

    @property
    def flops(self) -> float:
        """Of bfloat16 products, in a second."""
        return self.teraflops * 1e12


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
CHIPS = {
    "v5e": Chip("TPU v5 lite", 15.75, 197, 819, 400, 128, 1, _FLAT),
    "v5p": Chip("TPU v5", 95.73, 459, 2765, 1200, 128, 2, _CUBE),
    "v6e": Chip("TPU v6 lite", 31.24, 918, 1638, 800, 256, 1, _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that are rented together, such as "v5e-8"."""

    name: str
    chip: Chip
    shape: tuple[int, ...]  # chips along each axis

    @property
    def topology(self) -> str:
        """What XLA calls it."""
        generation = self.name.partition("-")[0].replace("v5p", "v5")
        return f"{generation}:{'x'.join(map(str, self.shape))}"


def find_slice(name: str) -> Slice:
    """The slice that `--compile_for` names; ConfigError lists what there is."""
    found = re.fullmatch(r"(v\d[ep]?)-(\d+)", name)
    slices = {
        generation: {math.prod(_sides(shape)) * chip.cores: shape for shape in chip.shapes}
        for generation, chip in CHIPS.items()
    }
    if found is None or found[1] not in slices:
        examples = ", ".join(f"{chip}-{min(sizes)}" for chip, sizes in slices.items())
        raise ConfigError(f"--compile_for={name}: name TPUs like v5e-8; there are {examples}, ...")
    generation, sizes = found[1], slices[found[1]]
    if int(found[2]) not in sizes:
        known = ", ".join(f"{generation}-{size}" for size in sizes)
        raise ConfigError(f"--compile_for={name}: no slice of so many; there are {known}")
    return Slice(name, CHIPS[generation], _sides(sizes[int(found[2])]))


def _sides(shape: str) -> tuple[int, ...]:
    return tuple(map(int, shape.split("x")))
