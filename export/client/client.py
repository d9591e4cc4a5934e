"""The two clients, one for threads and one for asyncio; TLS, retries and deadlines are gRPC's."""

import dataclasses
import functools
import json
import math
import os
import ssl
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypedDict, TypeVar, Unpack

import grpc
from google.protobuf import message

from export.client import responses
from export.client.chat import CHAT, chat_inputs
from export.client.messages import METHODS, SERVICES, Row, Version, add_examples, set_spec
from export.tensors import as_array, encode_tensor

Response = TypeVar("Response")
Arguments = ParamSpec("Arguments")
Metadata = Sequence[tuple[str, str | bytes]]
Task = Literal["classify", "regress"]

_MAX_RETRIES = 4  # gRPC makes five attempts at most
_RETRY_PAUSES = {"initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2}
_CHANNEL_OPTIONS = {
    # gRPC keeps 256 KiB of a request for a retry by default, and does not repeat longer ones.
    "grpc.per_rpc_retry_buffer_size": 2**31 - 1,
    # A name server must not be able to change what is retried.
    "grpc.service_config_disable_resolution": 1,
    # Between two tries to connect gRPC would wait 1 s at first and 2 minutes later: a retry would
    # meet the same failure, and `wait_for_ready` find a server long after it came.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2000,
}


@dataclasses.dataclass(frozen=True)
class Tls:
    """TLS, by PEM files.

    Args:
        ca_file: Certificates of the authorities that may have signed the server's. By default those
            that gRPC brings along.
        cert_file, key_file: The client's own certificate and key, for servers that verify clients.
        server_name: str. The name that the server's certificate must have. By default the one in
            the server's address.

    Example:
        Client("serving.example.org:8500", tls=Tls("ca.pem", "client.pem", "client.key"))
    """

    ca_file: str | os.PathLike[str] | None = None
    cert_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files; ValueError names one that cannot be used."""
        if (self.cert_file is None) != (self.key_file is None):
            missing = "key_file" if self.key_file is None else "cert_file"
            raise ValueError(f"cert_file and key_file belong together: {missing} is missing")
        content: dict[str, bytes | None] = {}
        for name in ("ca_file", "cert_file", "key_file"):
            path = getattr(self, name)
            try:
                content[name] = None if path is None else Path(path).read_bytes()
            except OSError as error:
                raise ValueError(f"{name}: cannot read {path}: {error.strerror}") from error
        # gRPC would open the channel, and then fail each request with a message of BoringSSL's.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca_file is not None:
            try:
                context.load_verify_locations(self.ca_file)
            except ssl.SSLError as error:
                raise ValueError(f"ca_file: {self.ca_file} has no PEM certificate") from error
        if self.cert_file is not None:
            try:
                context.load_cert_chain(self.cert_file, self.key_file, password="")
            except ssl.SSLError as error:
                raise ValueError(
                    f"cert_file {self.cert_file} and key_file {self.key_file} must be a PEM "
                    f"certificate and its key, not encrypted: {error.reason or error}"
                ) from error
        return grpc.ssl_channel_credentials(
            content["ca_file"], content["key_file"], content["cert_file"]
        )


class CallOptions(TypedDict, total=False):
    """What each method takes beside its own arguments; `Client` says what they mean."""

    timeout: float | None
    metadata: Metadata


class _Connection:
    """The settings of a client, checked, and the channel that they make."""

    _asyncio = False

    def __init__(
        self,
        server: str,
        *,
        timeout: float = 60.0,
        retries: int = 3,
        tls: Tls | None = None,
        max_message_bytes: int | None = None,
        metadata: Metadata = (),
        wait_for_ready: bool = False,
    ):
        if not server or "://" in server.removeprefix("dns://").removeprefix("unix://"):
            raise ValueError(f"server must be host:port of the gRPC port, not {server!r}")
        if not 0 <= retries <= _MAX_RETRIES:
            raise ValueError(f"retries must be 0 to {_MAX_RETRIES}, not {retries}")
        if max_message_bytes is not None and not 0 < max_message_bytes < 2**31:
            raise ValueError(f"max_message_bytes must be 1 to 2**31 - 1, not {max_message_bytes}")
        self.server, self.timeout = server, _checked_timeout(timeout)
        self._metadata, self._wait_for_ready = (*metadata,), wait_for_ready
        self._credentials = tls.credentials() if tls is not None else None
        method: dict[str, Any] = {"name": [{"service": service} for service in SERVICES]}
        if retries:
            method["retryPolicy"] = {
                **_RETRY_PAUSES,
                "maxAttempts": retries + 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            }
        limit = -1 if max_message_bytes is None else max_message_bytes
        options = {
            **_CHANNEL_OPTIONS,
            "grpc.max_receive_message_length": limit,
            "grpc.max_send_message_length": limit,
            "grpc.service_config": json.dumps({"methodConfig": [method]}),
        }
        if tls is not None and tls.server_name:
            options["grpc.ssl_target_name_override"] = tls.server_name
        self._options = [*options.items()]
        # With asyncio not before the first request: gRPC ties a channel to the event loop that runs
        # when it is made.
        self._channel: Any = None if self._asyncio else self._opened(grpc)

    def _opened(self, library: Any) -> Any:
        """A channel of `grpc` or of `grpc.aio`."""
        if self._credentials is None:
            return library.insecure_channel(self.server, self._options)
        return library.secure_channel(self.server, self._credentials, self._options)

    def _call(
        self,
        name: str,
        request: message.Message,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Any:
        """What gRPC returns for a call: the response, or with asyncio what to wait for."""
        method = METHODS[name]
        call = self._channel.unary_unary(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        return call(
            request,
            timeout=self.timeout if timeout is None else _checked_timeout(timeout),
            metadata=(*self._metadata, *metadata),
            wait_for_ready=self._wait_for_ready,
        )

    def _error(self, error: grpc.RpcError) -> responses.RequestError:
        return responses.RequestError(error.code(), error.details() or "", self.server)


def _checked_timeout(timeout: float) -> float:
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a number of seconds above 0, not {timeout}")
    return timeout


def _predict_request(
    model: str, inputs: Mapping[str, Any], signature: str, version: Version
) -> Any:
    request = METHODS["Predict"].request()
    set_spec(request.model_spec, model, version, signature)
    for name, value in inputs.items():
        try:
            array = as_array(value)
            encode_tensor(array, request.inputs[name], as_content=array.dtype.kind != "O")
        except ValueError as error:
            raise ValueError(f"input {name}: {error}") from error
    return request


class Client(_Connection):
    """A client of a server. Threads may share one; the first request opens the connection.

    Args:
        server: str. Its gRPC address, `host:port` or `unix:/path`.
        timeout: float. Seconds for a request and all its retries, where the call names no other.
        retries: int. How often a request that ends with UNAVAILABLE, and no other code, is sent
            again, 0 to 4: after 0.1, 0.2, 0.4 and 0.8 seconds, each a fifth longer or shorter by
            chance. It never outlasts the timeout.
        tls: Tls | None. None for a plain connection.
        max_message_bytes: int | None. A longer request or response is RESOURCE_EXHAUSTED. By
            default there is no limit but protobuf's own, 2 GiB.
        metadata: Headers of each request, as ("authorization", "Bearer ...").
        wait_for_ready: bool. Whether a request waits, until its timeout, for a server that cannot
            be reached; by default it ends with UNAVAILABLE once the retries are used up.

    All methods take, beside their own arguments,

        version: The version's number, or one of its labels; None for the newest.
        timeout: float | None. Seconds for the call and its retries; None for the client's own.
        metadata: Headers of this request, beside the client's own.

    Raises:
        RequestError: the server cannot be reached, refuses, or does not answer in time.
        ValueError: a setting is out of its range, a file of `tls` cannot be used, or an argument
            cannot be sent; the message names the input or the example.

    Example:
        with Client("localhost:8500") as client:
            client.predict("writer", {"text": ["Once upon"]}).outputs["text"]
        # array([b'Once upon a time'], dtype=object)
    """

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        signature: str = "",
        version: Version = None,
        *,
        outputs: Sequence[str] = (),
        **call: Unpack[CallOptions],
    ) -> responses.Prediction:
        """Runs a signature.

        Args:
            model: str. The name the model is served under.
            inputs: Input name to array, list or scalar. Python numbers become int32 and float32;
                give numpy arrays where the signature asks for another dtype.
            signature: str. Defaults to `serving_default`.
            outputs: Names of the outputs to send back. Defaults to all.
        """
        request = _predict_request(model, inputs, signature, version)
        request.output_filter.extend(outputs)
        return self._send("Predict", request, responses.prediction, **call)

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, str | bytes]],
        version: Version = None,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Any,
    ) -> responses.Answer:
        """Answers a conversation.

        Args:
            model: as for `predict`.
            messages: Each with `role` and `content`; the last one is the user's.
            **options: Inputs of the signature `chat`, such as max_new_tokens=200, temperature=0.7
                or stop=["User:"].

        Example:
            client.chat("writer", [{"role": "user", "content": "Why?"}]).content
            # 'Because.'
        """
        request = _predict_request(model, chat_inputs(messages, options), CHAT, version)
        return self._send("Predict", request, responses.answer, timeout=timeout, metadata=metadata)

    def classify(
        self,
        model: str,
        examples: Iterable[Row],
        signature: str = "",
        version: Version = None,
        **call: Unpack[CallOptions],
    ) -> responses.Classification:
        """Classifies tf.Examples.

        Args:
            model, signature: as for `predict`.
            examples: Rows, each a mapping of feature names to values, a tf.Example or its bytes.

        Example:
            client.classify("judge", [{"text": "a fine film"}], "classify").classes
            # array([[b'bad', b'good']], dtype=object)
        """
        request = METHODS["Classify"].request()
        set_spec(request.model_spec, model, version, signature)
        add_examples(request.input, examples)
        read = responses.classification
        return self._send("Classify", request, lambda r: read(r.model_spec, r.result), **call)

    def regress(
        self,
        model: str,
        examples: Iterable[Row],
        signature: str = "",
        version: Version = None,
        **call: Unpack[CallOptions],
    ) -> responses.Regression:
        """Gives each tf.Example a number; arguments as for `classify`."""
        request = METHODS["Regress"].request()
        set_spec(request.model_spec, model, version, signature)
        add_examples(request.input, examples)
        read = responses.regression
        return self._send("Regress", request, lambda r: read(r.model_spec, r.result), **call)

    def multi_inference(
        self,
        model: str,
        examples: Iterable[Row],
        signatures: Mapping[str, Task],
        version: Version = None,
        **call: Unpack[CallOptions],
    ) -> dict[str, responses.Classification | responses.Regression]:
        """Runs several signatures on the same tf.Examples, in one run of the model.

        Args:
            model, examples: as for `classify`.
            signatures: Signature name to "classify" or "regress".

        Example:
            tasks = {"classify": "classify", "regress": "regress"}
            client.multi_inference("judge", [{"text": "a fine film"}], tasks)["regress"].values
            # array([0.97], dtype=float32)
        """
        request = METHODS["MultiInference"].request()
        for name, task in signatures.items():
            added = request.tasks.add(method_name=f"tensorflow/serving/{task}")
            set_spec(added.model_spec, model, version, name)
        add_examples(request.input, examples)
        read = functools.partial(responses.several, names=[*signatures])
        return self._send("MultiInference", request, read, **call)

    def signatures(
        self, model: str, version: Version = None, **call: Unpack[CallOptions]
    ) -> dict[str, responses.Signature]:
        """Looks up the signatures of a model: name to inputs and outputs."""
        request = METHODS["GetModelMetadata"].request(metadata_field=["signature_def"])
        set_spec(request.model_spec, model, version)
        return self._send("GetModelMetadata", request, responses.signatures, **call)

    def status(
        self, model: str, version: Version = None, **call: Unpack[CallOptions]
    ) -> list[responses.VersionStatus]:
        """Looks up the states of a model's versions: of all of them, or of one."""
        request = METHODS["GetModelStatus"].request()
        set_spec(request.model_spec, model, version)
        return self._send("GetModelStatus", request, responses.statuses, **call)

    def reload(self, config: str, **call: Unpack[CallOptions]) -> None:
        """Has the server serve these models in place of its own; returns when they are loaded.

        Args:
            config: str. A ModelServerConfig in text form, as in `--model_config_file`.
        """
        from google.protobuf import text_format  # here: few send this, and it is slow to import

        request = METHODS["HandleReloadConfigRequest"].request()
        try:
            text_format.Parse(config, request.config)
        except text_format.ParseError as error:
            raise ValueError(f"this is no ModelServerConfig in text form: {error}") from error
        # A config that the server refuses is a status of the call, as all else that it refuses.
        return self._send("HandleReloadConfigRequest", request, lambda response: None, **call)

    def _send(
        self,
        name: str,
        request: message.Message,
        read: Callable[[Any], Response],
        **call: Unpack[CallOptions],
    ) -> Response:
        try:
            response = self._call(name, request, **call)
        except grpc.RpcError as error:
            raise self._error(error) from error
        return read(response)

    def close(self) -> None:
        """Closes the connection; requests that run are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _awaited(
    method: Callable[Concatenate[Any, Arguments], Response],
) -> Callable[Concatenate[Any, Arguments], Coroutine[Any, Any, Response]]:
    """A method of `Client` for a class whose `_send` is a coroutine function."""

    @functools.wraps(method)
    async def call(self: Any, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Response:
        return await method(self, *args, **kwargs)  # type: ignore[misc]

    return call


class AsyncClient(_Connection):
    """A client for coroutines: `Client`, with an `await` before each request.

    It belongs to the event loop of its first request. A request whose task is cancelled is
    cancelled at the server, too.

    Example:
        async def ask(texts):
            async with AsyncClient("localhost:8500") as client:
                calls = [client.predict("writer", {"text": [text]}) for text in texts]
                return await asyncio.gather(*calls)

        asyncio.run(ask(["Once upon", "It was"]))
    """

    _asyncio = True
    predict = _awaited(Client.predict)
    chat = _awaited(Client.chat)
    classify = _awaited(Client.classify)
    regress = _awaited(Client.regress)
    multi_inference = _awaited(Client.multi_inference)
    signatures = _awaited(Client.signatures)
    status = _awaited(Client.status)
    reload = _awaited(Client.reload)

    async def _send(
        self,
        name: str,
        request: message.Message,
        read: Callable[[Any], Response],
        **call: Unpack[CallOptions],
    ) -> Response:
        if self._channel is None:
            self._channel = self._opened(grpc.aio)
        try:
            response = await self._call(name, request, **call)
        except grpc.RpcError as error:
            raise self._error(error) from error
        return read(response)

    async def close(self) -> None:
        """Closes the connection; requests that run are cancelled."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
