"""How a server should batch a model's requests: `batching_params.pbtxt` beside the SavedModel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

# The name that --enable_per_model_batching_parameters reads in a version's folder.
BATCHING_FILE = "batching_params.pbtxt"

_TEMPLATE = """\
# Read from here by --enable_batching --enable_per_model_batching_parameters, or pass this file as
# --batching_parameters_file. A server that is not told to batch does not read it.
# A batch is filled up to the next of these sizes with copies of a row.
max_batch_size {{ value: {largest} }}
{sizes}
# How long the first request of a batch waits for others to join it.
batch_timeout_micros {{ value: {timeout} }}
# A request that finds so many batches waiting is refused with UNAVAILABLE.
max_enqueued_batches {{ value: 100 }}
# Texts have no length here: the graph pads tokens itself.
pad_variable_length_inputs: false
# num_batch_threads is left to the server: one for each core.
"""


def write_batching_parameters(
    folder: Path, batch_sizes: Sequence[int], timeout_micros: int = 1000
) -> None:
    """Writes the batching parameters of a version, in the text form of TensorFlow Serving.

    Args:
        folder: the version's folder.
        batch_sizes: ascending; the last one is the largest batch.
        timeout_micros: microseconds. Defaults to 1000.

    Example: `write_batching_parameters(Path("served/topics/1"), (1, 2, 4, 8))`
    """
    text = _TEMPLATE.format(
        largest=batch_sizes[-1],
        sizes="\n".join(f"allowed_batch_sizes: {size}" for size in batch_sizes),
        timeout=timeout_micros,
    )
    (folder / BATCHING_FILE).write_text(text, encoding="utf-8")
