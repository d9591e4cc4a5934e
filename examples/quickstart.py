"""The whole way in one go: train, export, serve, ask. `make quickstart` runs this.

Trains a small GPT on the source code of this machine's own Python library, writes it as a
SavedModel, serves it over TensorFlow Serving's gRPC protocol, sends a prompt, and compares the
answer with what the Keras model says.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "def __init__(self"


def run(*arguments: str) -> None:
    """Shows a command, runs it, stops everything if it fails."""
    print(f"\n$ python -m {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, check=True)


def start_server(model_folder: Path) -> tuple[subprocess.Popen, str]:
    """Starts the server on a free port; returns its process and address once it serves."""
    command = ["export.server", "--port=0", "--model_name=quick"]
    command += [f"--model_base_path={model_folder}"]
    print(f"\n$ python -m {' '.join(command)} &", flush=True)
    server = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    for line in server.stdout:
        print(line, end="", flush=True)
        if match := re.search(r"serving .* at (\S+:\d+)", line):
            return server, match[1]
    raise SystemExit(f"the server ended with exit code {server.wait()}")


def main() -> None:
    """Runs the steps; exit code 1 if the two answers differ."""
    started = time.monotonic()
    # A fresh folder each time: the quickstart shows the whole way, not a resumed run.
    folder = Path(tempfile.mkdtemp(prefix="keras-lm-zoo-quickstart-"))
    workdir, served = folder / "run", folder / "served"
    server = None
    try:
        run("trainers", "--recipe=python_gpt_quick", f"--workdir={workdir}")
        run("export", f"--workdir={workdir}", f"--out={served}")
        server, address = start_server(served)
        ask = ["export.client", f"--server={address}", "--model=quick", f"--text={PROMPT}"]
        print(f"\n$ python -m {' '.join(ask)}", flush=True)
        answer = subprocess.run(
            [sys.executable, "-m", *ask], cwd=ROOT, check=True, stdout=subprocess.PIPE
        ).stdout.removesuffix(b"\n")

        sys.path.insert(0, str(ROOT))
        import zoo

        [expected] = zoo.load(workdir).lm.generate([PROMPT])["text"].numpy()
        print("\n--- over gRPC ---", answer.decode("utf-8", "replace"), sep="\n")
        print("\n--- by the Keras model ---", expected.decode("utf-8", "replace"), sep="\n")
        same = answer == expected
        print(f"\n{'identical' if same else 'DIFFERENT'} ({time.monotonic() - started:.0f} s)")
    finally:
        if server is not None:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)
        if os.environ.get("ZOO_KEEP"):
            print(f"kept in {folder}")
        else:
            shutil.rmtree(folder)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
