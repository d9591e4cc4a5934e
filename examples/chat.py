"""A model with a chat template, served: a conversation in the terminal.

    python -m examples.chat --model=hf://HuggingFaceTB/SmolLM2-135M-Instruct
    echo "Why is the sky blue?" | python -m examples.chat --model=runs/mine

Loads a model of Hugging Face's transformers or an own bundle, writes it as a SavedModel, serves
that over TensorFlow Serving's gRPC protocol and sends it what you say. Ctrl-D or /quit ends it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

MODEL = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"


def main(model: str = MODEL, system: str = "", max_new_tokens: int = 100) -> None:
    """Answers each line of stdin."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Here, so that --help and a mistyped option answer at once.
    import tensorflow as tf

    import zoo
    from export.client import Client
    from export.client.chat import converse
    from export.saved_model import export_saved_model
    from export.server import ServedModel, Server

    tf.get_logger().setLevel("ERROR")  # it tells of its own steps and deprecations otherwise
    try:
        bundle = zoo.load(model)
        _ = bundle.chat  # says why, if it cannot
    except zoo.BundleError as error:
        sys.exit(f"chat: {error}")
    with tempfile.TemporaryDirectory() as folder:
        export_saved_model(bundle, folder)
        with (
            Server([ServedModel("model", folder)], port=0, host="localhost") as server,
            Client(f"localhost:{server.port}", timeout=600) as client,
        ):

            def ask(messages):
                return client.chat("model", messages, max_new_tokens=max_new_tokens).outputs

            converse(ask, system, as_json=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=MODEL, help="hf://NAME or a folder; default %(default)s")
    parser.add_argument("--system", default="", help="a system message")
    parser.add_argument("--max_new_tokens", type=int, default=100)
    main(**vars(parser.parse_args()))
