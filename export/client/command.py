"""The command `python -m export.client`: flags in, responses on stdout, mistakes on stderr."""

import json
import os
import sys
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
from absl import app, flags

from export import CLASSIFY_METHOD, DEFAULT_SIGNATURE, REGRESS_METHOD
from export.client.client import Client, Tls
from export.client.printing import readable, rows
from export.client.responses import RequestError, Signature

# What gRPC says of a connection that was opened and then failed; a server that wants TLS closes it.
_TLS_MARKS = ("handshake", "verification", "socket closed", "reset")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_PARSERS = {"i": int, "u": int, "f": float, "c": complex}
_FLAGS = (
    (flags.DEFINE_string, "server", "localhost:8500", "Address of the server's gRPC port."),
    (flags.DEFINE_string, "model", "default", "Name the model is served under."),
    (flags.DEFINE_string, "signature", "", "What to ask; by default serving_default."),
    (flags.DEFINE_integer, "model_version", None, "Version; by default the newest."),
    (flags.DEFINE_string, "version_label", None, "Version, by its label."),
    (flags.DEFINE_multi_string, "text", [],
     "Value of the input `text`; repeat it for a batch; - reads stdin."),
    (flags.DEFINE_multi_string, "set", [],
     "NAME=VALUE of another input; repeat it for a batch."),
    (flags.DEFINE_bool, "json", False, "Print all outputs, one JSON line per row."),
    (flags.DEFINE_float, "timeout", 60.0, "Seconds to wait for the answer."),
    (flags.DEFINE_integer, "retries", 3,
     "Tries after one that ended with UNAVAILABLE, 0 to 4."),
    (flags.DEFINE_bool, "wait_for_ready", False, "Wait for a server that is not there yet."),
    (flags.DEFINE_integer, "max_message_mb", None,
     "Longest request or answer in MiB; by default any."),
    (flags.DEFINE_bool, "tls", False, "Use TLS; the flags of its files do so, too."),
    (flags.DEFINE_string, "ca_file", None,
     "PEM file of the authority that signed the server's certificate."),
    (flags.DEFINE_string, "cert_file", None, "PEM file of the client's certificate."),
    (flags.DEFINE_string, "key_file", None, "PEM file of the client's key."),
    (flags.DEFINE_string, "server_name", "",
     "Name in the server's certificate, if not that in --server."),
)  # fmt: skip

# Input name -> one value for all rows, or a value for each.
Settings = Mapping[str, Sequence[str | bytes]]


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares the command's flags; not at import, so that other commands may import this one."""
    for define, *arguments in _FLAGS:
        define(*arguments, flag_values=values)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}; a prompt goes into --text=")
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know every character
    sys.exit(run(flags.FLAGS))


def run(values: flags.FlagValues) -> int:
    """Does what the flags ask for and returns the exit code: 0, or 1 after a message on stderr."""
    try:
        files = (values.ca_file, values.cert_file, values.key_file)
        use_tls = values.tls or values.server_name or any(files)
        limit = values.max_message_mb
        with Client(
            values.server,
            timeout=values.timeout,
            retries=values.retries,
            tls=Tls(*files, values.server_name) if use_tls else None,
            max_message_bytes=None if limit is None else limit * 2**20,
            wait_for_ready=values.wait_for_ready,
        ) as client:
            _print(_send(client, values), values.json)
        return 0
    except ValueError as error:
        message = str(error)
    except RequestError as error:
        message = _explain(error, values)
    print(message, file=sys.stderr)
    return 1


def _explain(error: RequestError, values: flags.FlagValues) -> str:
    details, text = error.details(), error.details().lower()
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        if "connect" in text and any(mark in text for mark in _TLS_MARKS):
            return (
                f"{values.server} is there, but it and this client do not agree on TLS: --tls or "
                "--ca_file if it has TLS, --cert_file and --key_file if it verifies clients, "
                f"--server_name if its certificate has another name ({details})"
            )
        if "resol" in text:
            return f"cannot find {values.server}: {details}"
        if "connect" in text:
            return (
                f"cannot reach {values.server}: start it with python -m export.server "
                f"--model_name={values.model} --model_base_path=/absolute/folder ({details})"
            )
    return f"{error.code().name}: {details}"


def _send(client: Client, values: flags.FlagValues) -> list[dict[str, object]]:
    settings: dict[str, list[str | bytes]] = {}
    if values.text:
        settings["text"] = [_read_text(text) for text in values.text]
    for setting in values.set:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"--set={setting} is not of the form NAME=VALUE")
        if name == "text" and values.text:
            raise ValueError("input text is given twice, by --text and by --set")
        settings.setdefault(name, []).append(value)
    version = values.model_version
    if values.version_label is not None:
        if version is not None:
            raise ValueError("the version is given twice, by --model_version and --version_label")
        version = values.version_label
    known = client.signatures(values.model, version)
    name = values.signature or DEFAULT_SIGNATURE
    if name not in known:
        raise ValueError(
            f"model {values.model} has no signature {name}; its signatures: "
            f"{', '.join(sorted(known))}"
        )
    calls = {CLASSIFY_METHOD: client.classify, REGRESS_METHOD: client.regress}
    call = calls.get(known[name].method_name)
    if call is not None:
        response = call(values.model, _to_examples(settings), name, version)
    else:
        response = client.predict(values.model, _to_inputs(known[name], settings), name, version)
    return rows(response.outputs)


def _read_text(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read().removesuffix(b"\n")  # the newline that echo adds
    return os.fsencode(text)


def _to_inputs(signature: Signature, settings: Settings) -> dict[str, np.ndarray]:
    """Inputs of the dtypes that a signature declares: (B,), or a scalar where it declares one."""
    known = ", ".join(sorted(signature.inputs)) or "none"
    for name in settings:
        if name not in signature.inputs:
            hint = " Give each as --set=NAME=VALUE." if name == "text" else ""
            raise ValueError(f"the signature has no input {name}; its inputs: {known}.{hint}")
    batch = _batch_size(settings)
    inputs = {}
    for name, values in settings.items():
        info = signature.inputs[name]
        parsed = [_parse(name, value, info.dtype) for value in values]
        if info.shape != ():
            inputs[name] = np.stack(parsed * (batch if len(parsed) == 1 else 1))
        elif len(parsed) == 1:
            inputs[name] = parsed[0]
        else:
            raise ValueError(f"input {name} is one value for all rows; {len(parsed)} were given")
    missing = sorted({*signature.inputs} - {*signature.defaults} - {*settings})
    if missing:
        needed = ["--text=..." if name == "text" else f"--set={name}=..." for name in missing]
        raise ValueError(f"the signature's inputs are {known}; missing: {' '.join(needed)}")
    return inputs


def _to_examples(settings: Settings) -> list[dict[str, bytes]]:
    """Rows of features that hold one string each."""
    if not settings:
        raise ValueError("the signature reads tf.Examples: give their features, as --text=...")
    batch = _batch_size(settings)
    columns = {
        name: values if len(values) == batch else [*values] * batch
        for name, values in settings.items()
    }
    return [{name: _bytes(values[row]) for name, values in columns.items()} for row in range(batch)]


def _batch_size(settings: Settings) -> int:
    counts = {name: len(values) for name, values in settings.items()}
    batch = max(counts.values(), default=1)
    for name, count in counts.items():
        if count not in (1, batch):
            raise ValueError(
                f"input {name} is given {count} times, where another one is given {batch} times: "
                "give one value for each row, or one for all"
            )
    return batch


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else os.fsencode(value)


def _parse(name: str, value: str | bytes, dtype: str) -> np.ndarray:
    if dtype == "string":
        return np.array(_bytes(value), dtype=object)
    value = os.fsdecode(value)
    try:
        if dtype == "bool":
            return np.array(_TRUTH[value.lower()])
        # int() and not numpy's own parsing: that one would round 1.5, or wrap what is too large.
        # numpy knows bfloat16 by that name because export.tensors imports ml_dtypes.
        kind = "f" if dtype == "bfloat16" else np.dtype(dtype).kind
        return np.array(_PARSERS[kind](value), dtype=dtype)
    except (KeyError, ValueError, OverflowError, TypeError) as error:
        raise ValueError(f"--set={name}={value}: {value!r} is not a {dtype}") from error


def _print(responses: Sequence[Mapping[str, object]], as_json: bool) -> None:
    for number, row in enumerate(responses):
        if as_json:
            print(json.dumps(row, ensure_ascii=False))
            continue
        lines = readable(row)
        if number and "\n" in lines and {*row} - {"text"}:
            print()  # where one row ends is not seen otherwise
        print(lines)
