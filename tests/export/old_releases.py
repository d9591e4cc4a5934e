"""Whether exported models run on old releases of TensorFlow Serving, and where there is no zoo."""

import json
import os
import subprocess
from pathlib import Path

from export.closure.check import check
from export.golden.compare import differences
from export.golden.pairs import read_golden_pairs
from export.model_folder import GOLDEN_FILE

SCRIPT = Path(__file__).with_name("session_replay.py")
VERSIONS = ("2.16.1", "2.19.1", "2.21")


def findings(exported):
    """Of a mapping from names to version folders."""
    found = [(name, v, check(path, v)) for name, path in exported.items() for v in VERSIONS]
    return [f"{name}, {version}: {one}" for name, version, some in found for one in some]


def differences_on(interpreter, exported, folder):
    """Runs models by another Python: its version of TensorFlow, and what answers differ."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": ""}
    arguments = [f"{name}={path}" for name, path in exported.items()]
    ran = subprocess.run(
        [interpreter, SCRIPT, folder, *arguments], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    version, *imported = json.loads(ran.stdout.splitlines()[-1])
    assert imported == [], "the models need more than TensorFlow and the library of TF-Text"
    lines = []
    for name, path in exported.items():
        golden = read_golden_pairs(path / GOLDEN_FILE)
        answers = read_golden_pairs(folder / name)
        assert len(golden) == len(answers) > 0
        for pair, answer in zip(golden, answers):
            lines += [f"{name}: {line}" for line in differences(pair, answer.outputs)[0]]
    return version, lines
