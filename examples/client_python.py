"""Asks a language model's server from Python: one question, then several at one time.

    python -m examples.client_python --server=localhost:8500 --model=quick --text="def main("

Needs a running server, as `ZOO_KEEP=1 make quickstart` leaves a model for. It imports no
TensorFlow: grpcio, protobuf, numpy, ml-dtypes and the folder export/client are enough.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from export.client import AsyncClient, Client, RequestError

SEEDS = (1, 2, 3)


def look_around(client: Client, model: str) -> None:
    """Prints the versions of a model and what it can be asked."""
    for one in client.status(model):
        print(f"version {one.version}: {one.state}")
    for name, signature in client.signatures(model).items():
        inputs = (f"{key}: {info.dtype}" for key, info in signature.inputs.items())
        print(f"{name}({', '.join(inputs)})")


def go_on(client: Client, model: str, text: str) -> str:
    """The likeliest continuation of a text."""
    answer = client.predict(model, {"text": [text], "max_new_tokens": [20]}, "generate")
    # A token may be part of a character, so the answer is bytes.
    return answer.outputs["text"][0].decode("utf-8", "backslashreplace")


async def go_on_by_chance(server: str, model: str, text: str) -> list[str]:
    """A continuation for each seed; the server works on all of them at one time."""
    options = {"text": [text], "max_new_tokens": [20], "temperature": [0.8]}
    async with AsyncClient(server, timeout=30) as client:
        questions = [client.predict(model, {**options, "seed": [s]}, "generate") for s in SEEDS]
        answers = await asyncio.gather(*questions)
    return [answer.outputs["text"][0].decode("utf-8", "backslashreplace") for answer in answers]


def main(server: str, model: str, text: str) -> None:
    """Asks and prints."""
    try:
        with Client(server) as client:
            look_around(client, model)
            print(f"\nlikeliest: {go_on(client, model, text)}")
        for seed, answer in zip(SEEDS, asyncio.run(go_on_by_chance(server, model, text))):
            print(f"\nseed {seed}: {answer}")
    except RequestError as error:
        sys.exit(f"client_python: {error}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--server", default="localhost:8500", help="default %(default)s")
    parser.add_argument("--model", default="quick", help="default %(default)s")
    parser.add_argument("--text", default="def main(", help="default %(default)s")
    main(**vars(parser.parse_args()))
