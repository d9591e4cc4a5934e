"""Checks whether a TensorFlow Serving release can run a SavedModel: its ops and signatures.

    python -m export.closure --model_dir=served/writer [--serving_version=2.19.1]

Exit code 0 if the release can run the model, 1 if it cannot (each finding is printed, with its
fix), 2 if the check could not run. Warnings are printed and leave the exit code at 0.
"""

import argparse
import sys
from pathlib import Path

from export.closure.check import check
from export.closure.history import DEFAULT_SERVING_VERSION, SERVING_VERSIONS, registry_of
from export.model_folder import newest_version
from zoo.output import outlive_readers


def main(arguments: list[str] | None = None) -> int:
    """Prints the findings and a summary; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m export.closure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model_dir", required=True, help="Folder of the model, or of one version")
    parser.add_argument(
        "--serving_version",
        default=DEFAULT_SERVING_VERSION,
        help=f"Release of TensorFlow Serving, one of {', '.join(SERVING_VERSIONS)}",
    )
    values = parser.parse_args(arguments)
    try:
        registry = registry_of(values.serving_version)
        folder = newest_version(Path(values.model_dir))
        findings = check(folder, values.serving_version)
    except (OSError, ValueError) as error:
        print(f"export.closure: cannot check: {error}")
        return 2
    print(*findings, sep="\n", end="\n" if findings else "")
    blocking = sum(finding.blocks for finding in findings)
    print(
        f"{folder}: {'not all of it runs' if blocking else 'runs'} on TensorFlow Serving "
        f"{values.serving_version} (TensorFlow {registry.release}, TF-Text "
        f"{registry.tensorflow_text}). Findings: {blocking}, warnings: {len(findings) - blocking}"
    )
    return 1 if blocking else 0


if __name__ == "__main__":
    outlive_readers()
    sys.exit(main())
