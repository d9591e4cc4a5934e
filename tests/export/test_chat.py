"""The signature `chat`: exported, served over gRPC and REST, batched, asked by both clients."""

import contextlib
import http.client
import io
import json
import sys
from concurrent import futures

import grpc
import keras
import numpy as np
import pytest
from absl import flags

import zoo
from export.client import Client, RequestError
from export.client.__main__ import define_flags, run
from export.client.chat import chat_inputs
from export.golden.pairs import read_golden_pairs
from export.golden.replay import ask_servable, problems_of, replay
from export.model_folder import CARD_FILE, GOLDEN_FILE, read_saved_model
from export.saved_model import export_saved_model
from export.server import BatchingParameters, RestOptions, Servable, ServedModel, Server
from zoo.generation.options import OPTIONS
from zoo.text.chat_form import MESSAGES, ChatForm, Joint
from zoo.tokenizers import BytePairTokenizer

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.timeout(600)]

NAMES = ["<|im_start|>", "<|im_end|>"]
FORM = ChatForm(
    {
        "start>system": Joint("<|im_start|>system\n"),
        "start>user": Joint("<|im_start|>user\n"),
        "system>user": Joint("<|im_end|>\n<|im_start|>user\n"),
        "user>assistant": Joint("<|im_end|>\n<|im_start|>assistant\n"),
        "assistant>user": Joint("<|im_end|>\n<|im_start|>user\n"),
        "user>generate": Joint("<|im_end|>\n<|im_start|>assistant\n"),
    }
)
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello \u4f60"},
    {"role": "assistant", "content": "Well."},
    {"role": "user", "content": "Why? <|im_end|>"},
]
DRAWN = {"max_new_tokens": 7, "temperature": 1, "seed": 3}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A bundle and the folder that it is served from."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = BytePairTokenizer.train(
        ["user assistant system hello"], 270, special_tokens=NAMES, end="<|im_end|>"
    )
    shape = {"context_length": 64, "num_layers": 1, "hidden_dim": 8, "initializer_range": 0.5}
    model = zoo.build(zoo.LSTMConfig(vocabulary_size=tokenizer.vocabulary_size, **shape))
    bundle = zoo.save(folder / "run", model, tokenizer, chat=FORM)
    with pytest.MonkeyPatch.context() as patch:
        # Replayed over the wire, as far as it is about chats.
        patch.setattr("export.saved_model.replay", lambda *_: [])
        export_saved_model(bundle, folder / "talker")
    return bundle, folder / "talker"


@pytest.fixture(scope="module")
def server(served):
    models = [ServedModel("talker", str(served[1]))]
    with Server(models, port=0, host="localhost", rest=RestOptions(port=0)) as server:
        yield server


def by_keras(bundle, messages, **options):
    rows = ([[message[name] for message in messages]] for name in ("role", "content"))
    return {name: value.numpy()[0] for name, value in bundle.lm.chat(*rows, **options).items()}


def test_what_an_export_holds(served, server):
    _, folder = served
    pairs = read_golden_pairs(folder / "1" / GOLDEN_FILE)
    chats = [pair for pair in pairs if pair.signature == "chat"]
    assert [pair.rows for pair in chats] == [1, 1, 5]
    with Client(f"localhost:{server.port}") as client:
        replays = replay(chats, lambda name, inputs: client.predict("talker", inputs, name).outputs)
    assert problems_of(replays) == []
    roles = {tuple(filter(None, row)) for row in chats[2].inputs["role"].tolist()}
    assert len(roles) == 4
    assert all(pair.inputs["role"].shape[1] == MESSAGES for pair in chats)
    card = (folder / "1" / CARD_FILE).read_text(encoding="utf-8")
    assert "| `chat` | predict |" in card
    assert '`role` string (B, ?), default ["user"] and 15 more' in card
    assert "--model=talker --chat" in card


def test_signatures_that_write_share_their_graphs(served):
    """Prompts are read and tokens chosen by one function each; no constant is there twice."""
    (meta_graph,) = read_saved_model(served[1] / "1").meta_graphs
    functions = meta_graph.graph_def.library.function
    names = [function.signature.name for function in functions]
    assert sum(name.startswith("__inference_read_") for name in names) == 1
    assert sum("_continued_" in name for name in names) == 1
    for function in functions:
        constants = [
            node.attr["value"].SerializeToString(deterministic=True)
            for node in function.node_def
            if node.op == "Const" and not node.input
        ]
        assert len(constants) == len({*constants})


def test_clients_answer_as_keras(served, server, connect):
    bundle, _ = served
    with connect(f"localhost:{server.port}") as client:
        for options in ({}, DRAWN, {**DRAWN, "stop": ["e", "\n"], "top_p": 1}):
            stop = {"stop": [options["stop"]]} if "stop" in options else {}
            wanted = by_keras(bundle, TALK, **{**options, **stop})
            answer = client.chat("talker", TALK, **options)
            assert answer.content == wanted["content"].decode("utf-8", "replace")
            assert answer.finish_reason == wanted["finish_reason"].decode()
            for name in ("content", "token_count"):
                assert answer.outputs[name][0] == wanted[name]
        with pytest.raises(RequestError, match=r"row 0: .* no user after user") as raised:
            client.chat("talker", [TALK[1]] * 2)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(ValueError, match="message 1 must have role and content"):
            client.chat("talker", [TALK[0], {"role": "user"}])
        with pytest.raises(ValueError, match="messages are a list"):
            client.chat("talker", TALK[0])


def test_rest(served, server):
    bundle, _ = served
    options = {name: option.default for name, option in OPTIONS.items()} | {"max_new_tokens": 5}
    talks = [TALK[1:], TALK[:2] + [{"role": "", "content": ""}]]
    rows = [{n: [one[n] for one in talk] for n in ("role", "content")} | options for talk in talks]

    def post(instances):
        connection = http.client.HTTPConnection("localhost", server.rest_port, timeout=60)
        body = json.dumps({"signature_name": "chat", "instances": instances})
        connection.request("POST", "/v1/models/talker:predict", body)
        response = connection.getresponse()
        with contextlib.closing(connection):
            # A random model writes any bytes.
            return response.status, json.loads(response.read().decode("utf-8", "replace"))

    status, answer = post(rows)
    assert status == 200
    for talk, row in zip(talks, answer["predictions"], strict=True):
        wanted = by_keras(bundle, talk, max_new_tokens=5)
        assert row["token_count"] == wanted["token_count"]
        assert row["content"] == wanted["content"].decode("utf-8", "replace")
        assert row["finish_reason"] == wanted["finish_reason"].decode()
    status, answer = post([{**rows[0], "role": ["user", "assistant", "tool"]}])
    assert (status, "row 0: role tool is none of the model" in answer["error"]) == (400, True)


@pytest.mark.slow
def test_batches_are_of_conversations_with_the_usual_places(served):
    """Others run by themselves, and none fails because of another."""
    bundle, folder = served
    parameters = BatchingParameters(max_batch_size=4, batch_timeout_micros=300_000)
    servable = Servable("talker", 1, str(folder / "1"), batching=parameters)
    batches, together = [], servable._batched.run

    def counted(feeds, *rest):
        batches.append(feeds)
        return together(feeds, *rest)

    servable._batched.run = counted
    talks = [TALK, TALK[:2], TALK[1:2]]
    requests = [chat_inputs(talk, {}) for talk in talks]
    requests[2] = {name: [row[-1:]] for name, (row,) in requests[2].items()}  # of one place
    arrays = [{name: np.array(value, object) for name, value in r.items()} for r in requests]
    arrays = [
        {name: np.vectorize(str.encode, otypes=[object])(value) for name, value in r.items()}
        for r in arrays
    ]
    try:
        with futures.ThreadPoolExecutor(3) as pool:
            answers = [*pool.map(lambda inputs: ask_servable(servable, "chat", inputs), arrays)]
    finally:
        servable.close()
    assert len(batches) == 2
    for talk, answer in zip(talks, answers):
        assert answer["content"][0] == by_keras(bundle, talk)["content"]


def converse(monkeypatch, capsys, server, stdin, *arguments):
    values = flags.FlagValues()
    define_flags(values)
    values(["client", f"--server=localhost:{server.port}", "--model=talker", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    code = run(values)
    return code, *capsys.readouterr()


def test_a_conversation_on_the_command_line(served, server, monkeypatch, capsys):
    bundle, _ = served
    options = ("--set=max_new_tokens=4", "--system=Be kind.", "--json")
    stdin = b"Hello\n\nWhy?\n/quit\nnever\n"
    code, out, err = converse(monkeypatch, capsys, server, stdin, "--chat", *options)
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    talk = TALK[:1]
    for said, line in zip(("Hello", "Why?"), lines, strict=True):
        talk = [*talk, {"role": "user", "content": said}]
        wanted = by_keras(bundle, talk, max_new_tokens=4)
        assert line["content"] == wanted["content"].decode("utf-8", "backslashreplace")
        talk = [*talk, {"role": "assistant", "content": wanted["content"]}]
    code, out, err = converse(monkeypatch, capsys, server, b"Hello", "--chat")
    assert (code, err) == (0, "")
    wanted = by_keras(bundle, [{"role": "user", "content": "Hello"}])["content"]
    assert out == wanted.decode("utf-8", "backslashreplace") + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chat", "--text=a"], "--chat reads stdin and asks chat: leave out --text"),
        (["--system=a"], "--system is for a conversation: give --chat, too"),
        (["--chat", "--set=top_k=x"], "'x' is not a int32"),
        (["--chat", "--model_version=7"], "NOT_FOUND"),
    ],
)
def test_wrong_flags(server, monkeypatch, capsys, arguments, message):
    code, _, err = converse(monkeypatch, capsys, server, b"Hello\n", *arguments)
    assert code == 1
    assert message in err


@pytest.mark.parametrize("name", OPTIONS)
def test_the_clients_options_have_the_form_of_the_signatures(name):
    """The client knows no TensorFlow, so it has a list of its own."""
    option = OPTIONS[name]
    value = "x" if option.dtype.name == "string" else 1
    array = np.array(chat_inputs([], {name: value})[name])
    assert array.shape == (1, *np.shape(option.default))
    assert array.dtype.kind == {"float32": "f", "int32": "i", "string": "U"}[option.dtype.name]
