"""How requests are batched: the parameters, as TensorFlow Serving names and checks them."""

import dataclasses
import itertools
import os

import tensorflow as tf

from export.model_folder import BATCHING_FILE
from export.server.config_files import BatchingParametersProto, read_text_proto
from export.server.status import invalid

# Parameter -> the least value that TensorFlow's scheduler can work with.
_LEAST = {
    "num_batch_threads": 1,
    "max_batch_size": 1,
    "batch_timeout_micros": 0,
    "max_enqueued_batches": 0,
    "max_execution_batch_size": 1,
}


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """Parameters of TensorFlow's batch scheduler.

    Args:
        max_batch_size: Rows of a batch; with `enable_large_batch_splitting`, of a request.
        batch_timeout_micros: How long a batch that is not full waits for more rows.
        max_enqueued_batches: Batches that may wait for a thread; further requests are refused.
        num_batch_threads: Batches of a version that run at one time; by default one a usable CPU.
        allowed_batch_sizes: Sizes that a batch is filled up to, ascending, the last one the
            largest batch; empty for any size.
        pad_variable_length_inputs: Whether inputs of different lengths are filled up to the
            longest one in the batch, each with the first element of its own tensor.
        enable_large_batch_splitting: Whether a request may be split over batches.
        max_execution_batch_size: Rows of a batch then; by default `max_batch_size`.

    Raises:
        ServingError: INVALID_ARGUMENT, a number that TensorFlow's scheduler cannot work with.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = dataclasses.field(default_factory=_usable_cpus)
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None

    def __post_init__(self):
        # TensorFlow Serving ends with a segmentation fault for some of these.
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                wanted = "positive" if least else "non-negative"
                raise invalid(f"{name} must be {wanted}; was {value}")
            if value is not None and value >= 2**31:
                raise invalid(f"{name} must be less than 2**31; was {value}")
        if self.execution_batch_size > self.max_batch_size:
            raise invalid(
                "max_execution_batch_size must be less than or equal to max_batch_size; was "
                f"{self.max_execution_batch_size}, which is more than {self.max_batch_size}"
            )
        sizes, splits = self.allowed_batch_sizes, self.enable_large_batch_splitting
        if splits and any(a >= b for a, b in itertools.pairwise(sizes)):
            raise invalid("allowed_batch_sizes entries must be monotonically increasing")
        if sizes and sizes[-1] != self.execution_batch_size:
            must = "be equal to max_execution_batch_size" if splits else "match max_batch_size"
            raise invalid(
                f"Last entry in allowed_batch_sizes must {must}; last entry was {sizes[-1]}; "
                f"expected {self.execution_batch_size}"
            )
        if min(sizes, default=1) <= 0:
            raise invalid(f"allowed_batch_sizes must be positive; were {list(sizes)}")

    @property
    def execution_batch_size(self) -> int:
        """The most rows that one batch may have."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size is not None:
            return self.max_execution_batch_size
        return self.max_batch_size

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Sizes that stand for all: those that batches are filled up to, else powers of two."""
        most = self.execution_batch_size
        powers = (*(2**power for power in range(most.bit_length()) if 2**power < most), most)
        return tuple(sorted({*self.allowed_batch_sizes})) or powers


def read_batching_parameters(path: str, **defaults: int) -> BatchingParameters:
    """Reads a BatchingParameters proto in text form, as `--batching_parameters_file` names it."""
    for field, value in read_text_proto(path, BatchingParametersProto).ListFields():
        if field.name == "allowed_batch_sizes":
            defaults[field.name] = tuple(value)
        elif field.name != "thread_pool_name":  # a name for monitoring alone
            defaults[field.name] = value.value if field.message_type else value
    return BatchingParameters(**defaults)


def parameters_of_model(folder: str, shared: BatchingParameters) -> BatchingParameters | None:
    """The parameters in a version's own folder, None without; `shared` has the threads."""
    path = os.path.join(folder, BATCHING_FILE)
    if not tf.io.gfile.exists(path):
        return None
    return read_batching_parameters(path, num_batch_threads=shared.num_batch_threads)
