"""python -m benchmarks [NAME ...]: runs benchmarks in processes of their own; all by default.

python -m benchmarks table: what they found so far, in one table (`benchmarks.table`).
"""

from __future__ import annotations

import importlib
import subprocess
import sys

BENCHMARKS = {
    "bert_forward": "BERT-base, 128 tokens, against ONNX Runtime, torch and keras-hub",
    "bytepair": "GPT-2's tokenizer against tiktoken, tokenizers and keras-hub",
    "cost_growth": "time and memory against parameters, context, batch, vocabulary, clients",
    "decode_capacity": "ms a token against the model's context length, and keras-hub's",
    "decode_gpt2": "tokens a second of GPT-2 124M against transformers and keras-hub",
    "input_pipeline": "tokens a second from prepared shards, and memory over an epoch",
    "prepare": "MB a second of `trainers.data.prepare`, 1 and 2 processes",
    "serving_generate": "SmolLM2 for 1, 8 and 32 clients, unequal lengths, every text checked",
    "serving_latency": "what the server adds to a session call, gRPC and REST",
    "serving_load": "1, 32 and 256 clients, with and without batching, every answer checked",
    "train_gpt": "character GPT against nanoGPT's in torch: steps, loss, CPU-seconds",
    "train_lstm": "character LSTM against torch.nn.LSTM: steps, loss, CPU-seconds",
    "wordpiece": "BERT's tokenizer against Hugging Face's and tensorflow_text's",
}


def main(names: list[str]) -> None:
    """Runs the named benchmarks, each in a fresh process: thread settings cannot be undone."""
    if names == ["table"]:
        run("table")
        return
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        known = "\n".join(f"  {name}: {purpose}" for name, purpose in BENCHMARKS.items())
        sys.exit(
            f"unknown benchmark {', '.join(unknown)}; known:\n{known}\n  table: of all results"
        )
    failed = []
    for name in names or BENCHMARKS:
        print(f"\n## {name}: {BENCHMARKS[name]}\n", flush=True)
        code = "import sys; from benchmarks.__main__ import run; run(sys.argv[1])"
        # One that fails takes no time of the others away: together they run for more than an hour.
        if subprocess.run([sys.executable, "-c", code, name], check=False).returncode:
            failed.append(name)
    if not names:
        print("\n## all goals\n", flush=True)
        run("table")
    if failed:
        sys.exit(f"failed, see above: {', '.join(failed)}")


def run(name: str) -> None:
    """Runs one benchmark in this process."""
    importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
