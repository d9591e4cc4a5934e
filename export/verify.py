"""Replays a model's golden pairs: does it still say what the trained Keras model said?

    python -m export.verify --model_dir=served/shakespeare                     # in this process
    python -m export.verify --model_dir=served/shakespeare --server=localhost:8500 --model=m

Exit code 0 if every answer agrees (strings and integers exactly, floats to 1e-4 relative), 1 if
one does not (each difference is printed), 2 if the replay could not run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import app, flags

from export.golden import GOLDEN_FILE, GoldenPair, differences, read_golden_pairs
from export.methods import CLASSIFY_METHOD, REGRESS_METHOD
from export.server.servable import Servable

Ask = Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]


def replay(pairs: list[GoldenPair], ask: Ask) -> list[str]:
    """Asks every golden request and returns the differences, none if all agree.

    Each batch is also asked row by row: an answer must not depend on its neighbours, but for the
    padding that makes it as wide as theirs.

    Args:
        pairs: from `read_golden_pairs`.
        ask: (signature, inputs) -> outputs.
    """
    problems = []
    for pair in pairs:
        problems += differences(pair, ask(pair.signature, pair.inputs))
        for row in range(pair.rows if pair.rows > 1 else 0):
            single = pair.row(row)
            answer = ask(single.signature, single.inputs)
            alone = differences(single, answer, cut_padding=True)
            problems += [f"row {row} asked alone: {line}" for line in alone]
    return problems


def replay_locally(version_folder: Path) -> list[str]:
    """`replay` of one SavedModel through a session, as TensorFlow Serving runs it."""
    pairs = read_golden_pairs(version_folder / GOLDEN_FILE)
    servable = Servable("verify", 0, str(version_folder))
    try:
        return replay(pairs, lambda signature, inputs: ask_servable(servable, signature, inputs))
    finally:
        servable.close()


def ask_servable(
    servable: Servable, signature: str, inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Runs one signature in this process, with the SignatureDef's defaults for absent inputs."""
    definition = servable.signatures[signature]
    feeds = {info.name: inputs.get(name) for name, info in definition.inputs.items()}
    for name, default in definition.defaults.items():
        if name not in inputs:
            feeds[definition.inputs[name].name] = tf.make_ndarray(default)
    names = sorted(definition.outputs)
    values = servable.run(feeds, [definition.outputs[name].name for name in names])
    return dict(zip(names, values))


def replay_remotely(version_folder: Path, server: str, model: str) -> list[str]:
    """`replay` against a server that speaks TensorFlow Serving's gRPC, ours or the official one.

    Signatures of tf.Examples are asked through Classify and Regress, as their clients do.
    """
    from export import client

    pairs = read_golden_pairs(version_folder / GOLDEN_FILE)
    with client.connect(server) as channel:
        known = client.signatures(channel, model)

        def ask(signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            method = known[signature].method_name if signature in known else ""
            if method == CLASSIFY_METHOD:
                return client.classify(channel, model, inputs["inputs"], signature)
            if method == REGRESS_METHOD:
                return client.regress(channel, model, inputs["inputs"], signature)
            return client.predict(channel, model, inputs, signature)

        return replay(pairs, ask)


def newest_version(model_folder: Path) -> Path:
    """The version folder with the highest number, or the folder itself if it is a SavedModel.

    Raises:
        ValueError: no version in it.
    """
    if (model_folder / "saved_model.pb").is_file():
        return model_folder
    names = [c.name for c in model_folder.iterdir()] if model_folder.is_dir() else []
    numbers = [int(name) for name in names if re.fullmatch(r"\d+", name)]
    if not numbers:
        raise ValueError(
            f"{model_folder}: no model version in it. Write one with "
            f"`python -m export --workdir=... --out={model_folder}`"
        )
    return model_folder / str(max(numbers))


_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the model, or of one version.")
_SERVER = flags.DEFINE_string("server", None, "host:port of a server. Default: no server at all.")
_MODEL = flags.DEFINE_string("model", "default", "Name of the model on the server.")


def main(argv: list[str]) -> int:
    """Prints one line a difference and a summary; returns the exit code."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    tf.get_logger().setLevel("ERROR")  # else each load says that its loader is of the old kind
    try:
        folder = newest_version(Path(_MODEL_DIR.value))
        if _SERVER.value:
            problems = replay_remotely(folder, _SERVER.value, _MODEL.value)
        else:
            problems = replay_locally(folder)
        count = len(read_golden_pairs(folder / GOLDEN_FILE))
    except Exception as error:  # noqa: BLE001  told to the user, with exit code 2
        print(f"export.verify: cannot replay: {error}")
        return 2
    for line in problems:
        print(line)
    where = _SERVER.value or "a session in this process"
    print(f"{folder}: {count} golden pairs through {where}: {len(problems) or 'no'} differences")
    return 1 if problems else 0


if __name__ == "__main__":
    flags.mark_flag_as_required("model_dir")
    app.run(main)
