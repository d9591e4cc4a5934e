"""Turns a finished training run into a model that TensorFlow Serving runs.

python -m export --workdir=runs/shakespeare --out=served/shakespeare [--version=N] \
    [--serving_version=2.19.1]
"""

import sys
import time

from absl import app, flags, logging

from export import leave_out_unused
from export.closure.history import DEFAULT_SERVING_VERSION
from zoo.output import outlive_readers, quiet_imports

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of a finished training run (a bundle), or of a Hugging Face model; or hf://owner/name, "
    "gs://bucket/folder, package://module/folder, kerashub://preset.",
)
_OUT = flags.DEFINE_string(
    "out", None, "Model folder; a server gets its absolute path as --model_base_path."
)
_VERSION = flags.DEFINE_integer(
    "version", None, "Version to write. Default: one more than the newest.", lower_bound=0
)
_SERVING_VERSION = flags.DEFINE_string(
    "serving_version",
    DEFAULT_SERVING_VERSION,
    "Release of TensorFlow Serving that is to run the model; its ops are checked.",
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16", "int8"],
    "What the large weights are stored as. The others than float32 are measured beside it.",
)
_EVAL_DATA = flags.DEFINE_string(
    "eval_data", None, "JSONL file of examples: what --precision does to the task's metric."
)
_ACCEPT_DEVIATION = flags.DEFINE_bool(
    "accept_deviation", False, "Write it though --precision moves answers past the tolerance."
)


def main(argv: list[str]) -> None:
    """Loads, exports, verifies; prints where the model lies and how to serve it."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    # Imported here so that --help and a mistyped flag answer at once.
    with quiet_imports():
        import tensorflow as tf
        from tqdm import tqdm

        from export.model_folder import PRECISION_REPORT_FILE
        from export.saved_model import ExportError, export_saved_model
        from zoo.files import BundleError
        from zoo.loading import load

    tf.get_logger().setLevel("ERROR")  # it tells of its own steps and deprecations otherwise
    logging.set_verbosity(logging.WARNING)
    started = time.monotonic()
    # Not in a log: its last lines say enough.
    progress = tqdm(total=4 if _PRECISION.value == "float32" else 6, disable=None, leave=False)
    progress.bar_format = "{desc}{bar} step {n} of {total}, {elapsed}"
    progress.set_description("loading")

    def on_step(step: str) -> None:
        progress.update()
        progress.set_description(step)

    try:
        with progress:
            path = export_saved_model(
                load(_WORKDIR.value),
                _OUT.value,
                _VERSION.value,
                _SERVING_VERSION.value,
                _PRECISION.value,
                _EVAL_DATA.value,
                _ACCEPT_DEVIATION.value,
                on_step,
            )
    except (BundleError, ExportError) as error:
        sys.exit(f"export: {error}")
    report = path / PRECISION_REPORT_FILE
    if report.is_file():
        print(report.read_text(encoding="utf-8"))
    print(f"exported {path} in {time.monotonic() - started:.1f} s, golden answers verified")
    print(f"serve it: python -m export.server --port=8500 --model_base_path={path.parent}")


if __name__ == "__main__":
    outlive_readers()
    leave_out_unused()
    flags.mark_flags_as_required(["workdir", "out"])
    app.run(main)
