"""Sends a request to a server, the embedded one or TensorFlow Serving, and prints the response.

python -m export.client --server=localhost:8500 --model=writer --text="Once upon" \
    --set=max_new_tokens=64
python -m export.client --model=writer --chat --system="Be brief."
python -m export.client --model=reader --set=question="Who?" --set=context="Ada wrote it."
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
from absl import app, flags

from export import CLASSIFY_METHOD, DEFAULT_SIGNATURE, REGRESS_METHOD
from export.client.chat import CHAT, chat_inputs, converse
from export.client.client import Client, Tls
from export.client.messages import Version
from export.client.printing import readable, rows
from export.client.responses import RequestError, Signature
from zoo.output import outlive_readers

# What gRPC says of a connection that was opened and then failed; a server that wants TLS closes it.
_TLS_MARKS = ("handshake", "verification", "socket closed", "reset")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_PARSERS = {"i": int, "u": int, "f": float, "c": complex}
_FLAGS = (
    (flags.DEFINE_string, "server", "localhost:8500", "Address of the server's gRPC port."),
    (flags.DEFINE_string, "model", "default", "Name the model is served under."),
    (flags.DEFINE_string, "signature", "",
     "What to ask; by default serving_default, or what takes options in its place."),
    (flags.DEFINE_integer, "model_version", None, "Version; by default the newest."),
    (flags.DEFINE_string, "version_label", None, "Version, by its label."),
    (flags.DEFINE_multi_string, "text", [],
     "Value of the input `text`; repeat it for a batch; - reads stdin."),
    (flags.DEFINE_multi_string, "set", [],
     "NAME=VALUE of another input; repeat it for a batch, or `stop` for several strings."),
    (flags.DEFINE_bool, "chat", False,
     "Talk, line by line, until Ctrl-D or /quit; options of all answers by --set."),
    (flags.DEFINE_string, "system", "", "With --chat: the system message."),
    (flags.DEFINE_bool, "json", False, "Print all outputs, one JSON line per row."),
    (flags.DEFINE_float, "timeout", 60.0, "Seconds to wait for the answer."),
    (flags.DEFINE_integer, "retries", 3, "Tries after one that ended with UNAVAILABLE, 0 to 4."),
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


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares the command's flags; not at import, so that a process may have them twice."""
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
            outputs = {} if values.chat else _ask(client, values)
            if values.chat:
                _chat(client, values)
    except (ValueError, RequestError) as error:
        message = _explain(error, values) if isinstance(error, RequestError) else str(error)
        print(message, file=sys.stderr)
        return 1
    for number, row in enumerate(rows(outputs) if outputs else ()):
        if values.json:
            print(json.dumps(row, ensure_ascii=False))
            continue
        lines = readable(row)
        if number and "\n" in lines and {*row} - {"text"}:
            print()  # where one row ends is not seen otherwise
        print(lines)
    return 0


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


def _chat(client: Client, values: flags.FlagValues) -> None:
    given, version = _settings(values), _version(values)
    if unfit := [name for name in ("signature", "text") if getattr(values, name)]:
        raise ValueError(f"--chat reads stdin and asks {CHAT}: leave out --{unfit[0]}")
    known = _known(client, values, CHAT)[CHAT]

    def ask(messages: list[dict[str, bytes]]) -> Mapping[str, np.ndarray]:
        inputs = {**_to_inputs(known, given, 1), **chat_inputs(messages, {})}
        return client.predict(values.model, inputs, CHAT, version).outputs

    converse(ask, values.system, values.json)


def _version(values: flags.FlagValues) -> Version:
    if values.version_label is None:
        return values.model_version
    if values.model_version is not None:
        raise ValueError("the version is given twice, by --model_version and --version_label")
    return values.version_label


def _known(client: Client, values: flags.FlagValues, name: str) -> Mapping[str, Signature]:
    """The model's signatures, among which `name` must be."""
    known = client.signatures(values.model, _version(values))
    if name not in known:
        raise ValueError(
            f"model {values.model} has no signature {name}; its signatures: "
            f"{', '.join(sorted(known))}"
        )
    return known


def _ask(client: Client, values: flags.FlagValues) -> Mapping[str, np.ndarray]:
    if values.system:
        raise ValueError("--system is for a conversation: give --chat, too")
    given, version = _settings(values), _version(values)
    name = values.signature or DEFAULT_SIGNATURE
    known = _known(client, values, name)
    if not values.signature and not given.keys() <= known[name].inputs.keys():
        # The default one takes texts alone; another gives the same outputs and takes options, too.
        outputs = known[name].outputs
        name = next((one for one in known if one != name and known[one].outputs == outputs), name)
    # The values of an input with two axes, such as stop strings, are together those of each row.
    inputs = known[name].inputs
    vectors = {key for key in given if key in inputs and len(inputs[key].shape or ()) == 2}
    batch = max((len(column) for key, column in given.items() if key not in vectors), default=1)
    for key, column in given.items():
        if key not in vectors and len(column) not in (1, batch):
            raise ValueError(
                f"input {key} is given {len(column)} times, where another one is given {batch} "
                "times: give one value for each row, or one for all"
            )
    calls = {CLASSIFY_METHOD: client.classify, REGRESS_METHOD: client.regress}
    call = calls.get(known[name].method_name)
    if call is None:
        inputs = _to_inputs(known[name], given, batch)
        return client.predict(values.model, inputs, name, version).outputs
    if not given:
        raise ValueError("the signature reads tf.Examples: give their features, as --text=...")
    columns = [column * batch if len(column) == 1 else column for column in given.values()]
    examples = [dict(zip(given, row)) for row in zip(*columns)]
    return call(values.model, examples, name, version).outputs


def _settings(values: flags.FlagValues) -> dict[str, list[bytes]]:
    """Input name -> one value for all rows, or a value for each."""
    given: dict[str, list[bytes]] = {}
    if values.text:
        given["text"] = [
            # Without the newline that echo adds.
            sys.stdin.buffer.read().removesuffix(b"\n") if text == "-" else os.fsencode(text)
            for text in values.text
        ]
    for setting in values.set:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"--set={setting} is not of the form NAME=VALUE")
        if name == "text" and values.text:
            raise ValueError("input text is given twice, by --text and by --set")
        given.setdefault(name, []).append(os.fsencode(value))
    return given


def _to_inputs(
    signature: Signature, given: Mapping[str, list[bytes]], batch: int
) -> dict[str, np.ndarray]:
    """Inputs of the dtypes that a signature declares: (B,), (B, N), or a scalar where it declares
    one.
    """
    known = ", ".join(sorted(signature.inputs)) or "none"
    inputs = {}
    for name, column in given.items():
        if name not in signature.inputs:
            hint = " Give each as --set=NAME=VALUE." if name == "text" else ""
            raise ValueError(f"the signature has no input {name}; its inputs: {known}.{hint}")
        info = signature.inputs[name]
        parsed = [_parse(name, value, info.dtype) for value in column]
        if len(info.shape or ()) == 2:
            row = np.stack(parsed)
            if info.dtype == "string" and name in signature.defaults:
                # As wide as requests without it, with which a server can put it in one batch.
                unused = signature.defaults[name].shape[1] - len(row)
                row = np.append(row, [b""] * max(unused, 0))
            inputs[name] = np.tile(row, [batch, 1])
        elif info.shape != ():
            inputs[name] = np.stack(parsed * (batch if len(parsed) == 1 else 1))
        elif len(parsed) == 1:
            inputs[name] = parsed[0]
        else:
            raise ValueError(f"input {name} is one value for all rows; {len(parsed)} were given")
    missing = sorted({*signature.inputs} - {*signature.defaults} - {*given})
    if missing:
        needed = ["--text=..." if name == "text" else f"--set={name}=..." for name in missing]
        raise ValueError(f"the signature's inputs are {known}; missing: {' '.join(needed)}")
    return inputs


def _parse(name: str, value: bytes, dtype: str) -> np.ndarray:
    if dtype == "string":
        return np.array(value, dtype=object)
    text = os.fsdecode(value)
    try:
        if dtype == "bool":
            return np.array(_TRUTH[text.lower()])
        # int() and not numpy's own parsing: that one would round 1.5, or wrap what is too large.
        # numpy knows bfloat16 by that name because export.tensors imports ml_dtypes.
        kind = "f" if dtype == "bfloat16" else np.dtype(dtype).kind
        return np.array(_PARSERS[kind](text), dtype=dtype)
    except (KeyError, ValueError, OverflowError, TypeError) as error:
        raise ValueError(f"--set={name}={text}: {text!r} is not a {dtype}") from error


if __name__ == "__main__":
    outlive_readers()
    define_flags()
    app.run(main)
