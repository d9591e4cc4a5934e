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
        max_batch_size: int. Rows of a batch; with `enable_large_batch_splitting`, of a request.
        batch_timeout_micros: int. How long a batch that is not full waits for more rows.
        max_enqueued_batches: int. Batches that may wait for a thread; a request that finds no room
            is refused.
        num_batch_threads: int. Batches of one model version that run at one time. Defaults to the
            number of CPUs that the process may use.
        allowed_batch_sizes: Sizes that a batch is filled up to, ascending; the last one is
            `max_batch_size`, or `max_execution_batch_size` where requests are split. Empty for
            any size.
        pad_variable_length_inputs: bool. Whether inputs of different lengths are filled up to the
            longest one in the batch, each with the first element of its own tensor.
        enable_large_batch_splitting: bool. Whether a request may be split over batches.
        max_execution_batch_size: int | None. Rows of a batch when requests are split. Defaults to
            `max_batch_size`.

    Raises:
        ServingError: INVALID_ARGUMENT, a number is not positive (or negative, where 0 is allowed),
            or the allowed sizes do not end with the largest batch, or do not ascend.

    Example:
        >>> BatchingParameters(max_batch_size=32, batch_timeout_micros=1000).allowed_batch_sizes
        ()
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
        self._check_allowed_sizes()

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

    def _check_allowed_sizes(self) -> None:
        sizes = self.allowed_batch_sizes
        if not sizes:
            return
        if self.enable_large_batch_splitting:
            if any(a >= b for a, b in itertools.pairwise(sizes)):
                raise invalid("allowed_batch_sizes entries must be monotonically increasing")
            if sizes[-1] != self.execution_batch_size:
                raise invalid(
                    "Last entry in allowed_batch_sizes must be equal to max_execution_batch_size; "
                    f"last entry was {sizes[-1]}; expected {self.execution_batch_size}"
                )
        elif sizes[-1] != self.max_batch_size:
            raise invalid(
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{sizes[-1]}; expected {self.max_batch_size}"
            )
        if min(sizes) <= 0:
            raise invalid(f"allowed_batch_sizes must be positive; were {list(sizes)}")


def read_batching_parameters(path: str) -> BatchingParameters:
    """Reads a BatchingParameters proto in text form, as `--batching_parameters_file` names it."""
    return BatchingParameters(**_given(path))


def parameters_of_model(folder: str, shared: BatchingParameters) -> BatchingParameters | None:
    """The parameters that a version's own folder holds; None, not batched, when it holds none.

    The number of threads is that of `shared`, when the file does not give it.
    """
    path = os.path.join(folder, BATCHING_FILE)
    if not tf.io.gfile.exists(path):
        return None
    return BatchingParameters(**{"num_batch_threads": shared.num_batch_threads, **_given(path)})


def _given(path: str) -> dict[str, object]:
    """The fields that a file sets."""
    given = {}
    for field, value in read_text_proto(path, BatchingParametersProto).ListFields():
        if field.name == "allowed_batch_sizes":
            given[field.name] = tuple(value)
        elif field.name != "thread_pool_name":  # a name for monitoring alone
            given[field.name] = value.value if field.message_type else value
    return given
