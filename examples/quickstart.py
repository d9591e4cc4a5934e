"""The whole way in one go: train, export, serve, ask. `make quickstart` runs this.

Trains a small GPT on the source code of this machine's own Python library, writes it as a
SavedModel, serves it over TensorFlow Serving's gRPC protocol, sends a prompt, and compares the
answer with what the Keras model says.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# TensorFlow prints these at import whatever its log level is set to; none is about this run.
NOISE = re.compile(
    r"I0000 00:00|WARNING: All log messages before absl::InitializeLog|E0000 .*(cuInit|oneDNN)"
)
PROMPT = "def __init__(self"
# The same question to the Keras model, without SavedModel and server.
KERAS_ANSWER = """
import sys, zoo
text = zoo.load(sys.argv[1]).lm.generate([sys.argv[2]])["text"].numpy()[0]
print(text.decode("utf-8", "backslashreplace"))
"""


def start(*arguments: str, stdout: int | None = None) -> subprocess.Popen:
    """Shows a command and starts it; what it logs comes through, but for TensorFlow's noise."""
    print(f"\n$ python {shlex.join(arguments)}", flush=True)
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
    )

    def pass_on():
        for line in process.stderr:
            if not NOISE.match(line):
                sys.stderr.write(line)

    threading.Thread(target=pass_on, daemon=True).start()
    return process


def run(*arguments: str, stdout: int | None = None) -> str | None:
    """Runs a command to its end; stops everything if it fails."""
    process = start(*arguments, stdout=stdout)
    output = process.stdout.read() if process.stdout else None
    if process.wait():
        raise SystemExit(f"python {arguments[1]} ended with exit code {process.returncode}")
    return output


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start_server(model_folder: Path) -> tuple[subprocess.Popen, str, str]:
    """Starts the server on free ports; returns its process and its gRPC and REST addresses."""
    server = start(
        "-m",
        "export.server",
        "--port=0",
        f"--rest_api_port={free_port()}",
        "--model_name=quick",
        f"--model_base_path={model_folder}",
        stdout=subprocess.PIPE,
    )
    for line in server.stdout:
        print(line, end="", flush=True)
        if match := re.search(r"serving .* at (\S+:\d+), REST at (\S+:\d+)", line):
            return server, match[1], match[2]
    raise SystemExit(f"the server ended with exit code {server.wait()}")


def main() -> None:
    """Runs the steps; exit code 1 if the two answers differ."""
    started = time.monotonic()
    # A fresh folder each time: the quickstart shows the whole way, not a resumed run.
    folder = Path(tempfile.mkdtemp(prefix="keras-lm-zoo-quickstart-"))
    workdir, served = folder / "run", folder / "served"
    server = None
    try:
        run("-m", "trainers", "--recipe=python_gpt_quick", f"--workdir={workdir}")
        run("-m", "export", f"--workdir={workdir}", f"--out={served}")
        server, address, rest = start_server(served)
        ask = ["-m", "export.client", f"--server={address}", "--model=quick", f"--text={PROMPT}"]
        answer = run(*ask, stdout=subprocess.PIPE).removesuffix("\n")
        print(answer)
        expected = run("-c", KERAS_ANSWER, str(workdir), PROMPT, stdout=subprocess.PIPE)
        expected = expected.removesuffix("\n")
        print(expected)
        same = answer == expected
        verdict = "identical" if same else "DIFFERENT"
        print(f"\nserved and Keras answers: {verdict} ({time.monotonic() - started:.0f} s)")
        print(f"a page to try the model, as long as the server runs: http://{rest}/", flush=True)
        if sys.stdin.isatty():
            input("Enter ends the server. ")
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
