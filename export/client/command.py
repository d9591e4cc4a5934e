"""The command `python -m export.client`: flags in, answers on stdout, mistakes on stderr."""

import json
import os
import sys
from collections.abc import Mapping, Sequence

import grpc
from absl import app, flags

from export.client.connection import Tls
from export.client.conversion import convert, convert_to_examples, rows
from export.client.errors import RequestError
from export.client.printing import readable
from export.client.synchronous import Client
from export.methods import CLASSIFY_METHOD, REGRESS_METHOD

_DEFAULT_SIGNATURE = "serving_default"
# What gRPC says of a connection that was opened and then failed; a server that wants TLS closes it.
_TLS_MARKS = ("handshake", "verification", "socket closed", "reset")


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares the command's flags; not at import, so that other commands may import this one."""
    define = {"flag_values": values}
    flags.DEFINE_string("server", "localhost:8500", "Address of the server's gRPC port.", **define)
    flags.DEFINE_string("model", "default", "Name the model is served under.", **define)
    flags.DEFINE_string("signature", "", "What to ask; by default serving_default.", **define)
    flags.DEFINE_integer("model_version", None, "Version; by default the newest.", **define)
    flags.DEFINE_string("version_label", None, "Version, by its label.", **define)
    flags.DEFINE_multi_string(
        "text", [], "Value of the input `text`; repeat it for a batch; - reads stdin.", **define
    )
    flags.DEFINE_multi_string(
        "set", [], "NAME=VALUE of another input; repeat it for a batch.", **define
    )
    flags.DEFINE_bool("json", False, "Print all outputs, one JSON line per row.", **define)
    flags.DEFINE_float("timeout", 60.0, "Seconds to wait for the answer.", **define)
    flags.DEFINE_integer(
        "retries", 3, "Tries after one that ended with UNAVAILABLE, 0 to 4.", **define
    )
    flags.DEFINE_bool("wait_for_ready", False, "Wait for a server that is not there yet.", **define)
    flags.DEFINE_integer(
        "max_message_mb", None, "Longest request or answer in MiB; by default any.", **define
    )
    flags.DEFINE_bool("tls", False, "Use TLS; the flags of its files do so, too.", **define)
    flags.DEFINE_string(
        "ca_file", None, "PEM file of the authority that signed the server's certificate.", **define
    )
    flags.DEFINE_string("cert_file", None, "PEM file of the client's certificate.", **define)
    flags.DEFINE_string("key_file", None, "PEM file of the client's key.", **define)
    flags.DEFINE_string(
        "server_name", "", "Name in the server's certificate, if not that in --server.", **define
    )


def run(values: flags.FlagValues) -> int:
    """Does what the flags ask for and returns the exit code: 0, or 1 after a message on stderr."""
    try:
        with _open(values) as client:
            _print(_ask(client, values), values.json)
        return 0
    except ValueError as error:
        message = str(error)
    except RequestError as error:
        message = _explain(error, values)
    print(message, file=sys.stderr)
    return 1


def _open(values: flags.FlagValues) -> Client:
    files = (values.ca_file, values.cert_file, values.key_file)
    tls = None
    if values.tls or values.server_name or any(files):
        tls = Tls(*files, values.server_name)
    limit = values.max_message_mb
    return Client(
        values.server,
        timeout=values.timeout,
        retries=values.retries,
        tls=tls,
        max_message_bytes=None if limit is None else limit * 2**20,
        wait_for_ready=values.wait_for_ready,
    )


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


def _ask(client: Client, values: flags.FlagValues) -> list[dict[str, object]]:
    settings: dict[str, list[str | bytes]] = {}
    if values.text:
        settings["text"] = [_text(text) for text in values.text]
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
    name = values.signature or _DEFAULT_SIGNATURE
    if name not in known:
        raise ValueError(
            f"model {values.model} has no signature {name}; its signatures: "
            f"{', '.join(sorted(known))}"
        )
    calls = {CLASSIFY_METHOD: client.classify, REGRESS_METHOD: client.regress}
    call = calls.get(known[name].method_name)
    if call is not None:
        answer = call(values.model, convert_to_examples(settings), name, version)
    else:
        answer = client.predict(values.model, convert(known[name], settings), name, version)
    return rows(answer.outputs)


def _text(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read().removesuffix(b"\n")  # the newline that echo adds
    return os.fsencode(text)


def _print(answers: Sequence[Mapping[str, object]], as_json: bool) -> None:
    for number, row in enumerate(answers):
        if as_json:
            print(json.dumps(row, ensure_ascii=False))
            continue
        lines = readable(row)
        if number and "\n" in lines and {*row} - {"text"}:
            print()  # where one answer ends is not seen otherwise
        print(lines)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}; a prompt goes into --text=")
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know every character
    sys.exit(run(flags.FLAGS))
