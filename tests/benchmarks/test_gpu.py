"""The check for a GPU runs to its end where there is none."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch: `make peers`")
def test_dry_run_on_a_cpu(tmp_path):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    settings = {"BENCH_TINY": "1", "OUT": str(tmp_path), "PY": sys.executable, "PYTHONPATH": path}
    result = subprocess.run(
        [str(ROOT / "benchmarks" / "gpu.sh")],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert re.search(r"validation loss \d\.\d+ at step \d of 4, .* goal 1.43: not", result.stdout)
    rows = re.findall(r"\| (char|gpt2) \| .* M \| (.*) \| [\d,]+ \| [\d.]+% \|", result.stdout)
    assert [shape for shape, _ in rows] == ["char", "char", "gpt2", "gpt2"]
    assert [program for _, program in rows] == ["ours, tensorflow", "torch.compile"] * 2
    assert "Published: nanochat" in result.stdout
