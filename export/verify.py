"""Replays a model's golden pairs: does it still say what the trained Keras model said?

    python -m export.verify --model_dir=served/shakespeare                     # in this process
    python -m export.verify --model_dir=served/shakespeare --server=localhost:8500 --model=m

Asks cold, row by row, warm, and by several clients at once, whose rows a server that batches mixes.
What has more rows than a server's max_batch_size is asked in parts, and the table says so.
Without --server that is done twice: each request by itself, and batched as `batching_params.pbtxt`
says. Exit code 0 if every answer agrees (strings and integers exactly, floats to 1e-4 relative), 1
if one does not (the differences are printed), 2 if the replay could not run.
"""

from pathlib import Path

import tensorflow as tf
from absl import app, flags

from export.client import Client, Tls
from export.golden.pairs import read_golden_pairs
from export.golden.replay import Replay, problems_of, replay_locally, replay_remotely, summary
from export.model_folder import BATCHING_FILE, GOLDEN_FILE, newest_version
from export.server.run.batching import read_batching_parameters
from zoo.output import outlive_readers

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the model, or of one version.")
_SERVER = flags.DEFINE_string("server", None, "host:port of a server. Default: no server at all.")
_MODEL = flags.DEFINE_string("model", "default", "Name of the model on the server.")
_CLIENTS = flags.DEFINE_integer("clients", 8, "How many ask at once.", lower_bound=1)
_TIMEOUT = flags.DEFINE_float("timeout", 60.0, "Seconds to wait for each answer.")
_SHOWN = flags.DEFINE_integer("differences", 20, "How many differences to print.", lower_bound=1)
_CA_FILE = flags.DEFINE_string("ca_file", None, "Authorities of the server's certificate (TLS).")
_CERT_FILE = flags.DEFINE_string("cert_file", None, "Certificate of the client.")
_KEY_FILE = flags.DEFINE_string("key_file", None, "Key of the client.")


def main(argv: list[str]) -> int:
    """Prints a table, the differences and a summary; returns the exit code."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    tf.get_logger().setLevel("ERROR")  # else each load says that its loader is of the old kind
    replays: dict[str, list[Replay]] = {}
    clients = _CLIENTS.value
    try:
        folder = newest_version(Path(_MODEL_DIR.value))
        count = len(read_golden_pairs(folder / GOLDEN_FILE))
        if _SERVER.value:
            files = (_CA_FILE.value, _CERT_FILE.value, _KEY_FILE.value)
            tls = Tls(*files) if any(files) else None
            with Client(_SERVER.value, tls=tls, timeout=_TIMEOUT.value) as client:
                replays[_SERVER.value] = replay_remotely(folder, client, _MODEL.value, clients)
        else:
            replays["a session in this process"] = replay_locally(folder, clients)
            if (folder / BATCHING_FILE).is_file():
                batching = read_batching_parameters(str(folder / BATCHING_FILE))
                where = f"a session that batches as {BATCHING_FILE} says"
                replays[where] = replay_locally(folder, clients, batching)
    except Exception as error:  # noqa: BLE001  printed for the user, with exit code 2
        print(f"export.verify: cannot replay: {error}")
        return 2
    problems = [line for one in replays.values() for line in problems_of(one)]
    for where, one in replays.items():
        print(f"{folder}: {count} golden pairs, {where}\n{summary(one)}")
    for line in problems[: _SHOWN.value]:
        print(line)
    if len(problems) > _SHOWN.value:
        print(f"and {len(problems) - _SHOWN.value} more, which --differences=1000 would show")
    print(f"{len(problems) or 'no'} differences")
    return 1 if problems else 0


if __name__ == "__main__":
    outlive_readers()
    flags.mark_flag_as_required("model_dir")
    app.run(main)
