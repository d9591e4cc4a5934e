"""TPU chips and slices of them, by the names that Google Cloud gives them."""

import dataclasses
import re

from zoo.config import ConfigError

_GIB, _TERA, _GIGA = 1 << 30, 1e12, 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, by its maker's figures: docs.cloud.google.com/tpu/docs/v5e, v5p and v6e."""

    kind: str  # how the chip calls itself in JAX
    memory: int  # bytes of HBM
    usable: int  # of them by a program, as XLA says where one needs more
    flops: float  # of bfloat16 products, in a second
    bandwidth: float  # of HBM, bytes a second
    links: float  # to the other chips, both directions together, bytes a second
    lanes: int  # side of the unit that multiplies matrices
    cores: int  # by which its slices are counted: a v5p-8 has 4 chips
    shapes: tuple[str, ...]  # of its slices


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
CHIPS = {
    "v5e": Chip(
        "TPU v5 lite",
        16 * _GIB,
        int(15.75 * _GIB),
        197 * _TERA,
        819 * _GIGA,
        400 * _GIGA,
        128,
        cores=1,
        shapes=_FLAT,
    ),
    "v5p": Chip(
        "TPU v5",
        95 * _GIB,
        int(95.73 * _GIB),
        459 * _TERA,
        2765 * _GIGA,
        1200 * _GIGA,
        128,
        cores=2,
        shapes=_CUBE,
    ),
    "v6e": Chip(
        "TPU v6 lite",
        32 * _GIB,
        int(31.24 * _GIB),
        918 * _TERA,
        1638 * _GIGA,
        800 * _GIGA,
        256,
        cores=1,
        shapes=_FLAT,
    ),
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
        generation: {_size(shape) * chip.cores: shape for shape in chip.shapes}
        for generation, chip in CHIPS.items()
    }
    if found is None or found[1] not in slices:
        examples = ", ".join(f"{chip}-{min(sizes)}" for chip, sizes in slices.items())
        raise ConfigError(f"--compile_for={name}: name TPUs like v5e-8; there are {examples}, ...")
    generation, sizes = found[1], slices[found[1]]
    if int(found[2]) not in sizes:
        known = ", ".join(f"{generation}-{size}" for size in sizes)
        raise ConfigError(f"--compile_for={name}: no slice of so many; there are {known}")
    shape = tuple(map(int, sizes[int(found[2])].split("x")))
    return Slice(name, CHIPS[generation], shape)


def _size(shape: str) -> int:
    chips = 1
    for side in shape.split("x"):
        chips *= int(side)
    return chips
