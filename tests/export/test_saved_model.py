"""From a bundle to a served answer: Keras model, reloaded SavedModel and server say the same."""

import dataclasses
import fcntl
import json
import os
import re
import resource
import shutil
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from tensorflow_serving.apis import prediction_log_pb2
from tiny_models import make_bundle

import export.client.__main__ as client_command
from export.client import Client
from export.golden.compare import differences
from export.golden.pairs import read_golden_pairs
from export.golden.replay import (
    Replay,
    ask_servable,
    problems_of,
    replay_locally,
    replay_remotely,
)
from export.golden.requests import warmup_requests
from export.model_folder import (
    BATCHING_FILE,
    CARD_FILE,
    GOLDEN_FILE,
    WARMUP_FILE,
    newest_version,
    read_saved_model,
)
from export.saved_model import ExportError, _remove_abandoned, export_saved_model
from export.server import (
    BatchingParameters,
    Loader,
    Servable,
    ServedModel,
    Server,
    ServingError,
)
from export.server.run.batching import read_batching_parameters

WRONG = Replay("cold", ["generate.text[0]: wrong"], [1.0], 0.0)
STOP = [[b"", b""], [b"e", b"o"], [b"", b" "], [b"", b""], [b"not here", b"t"]]
PROMPTS = [b"To be", b"", b"question " * 9, "\u4f60".encode(), b"\xff\x00"]


@pytest.fixture(scope="module")
def export_of(tmp_path_factory):
    """family -> bundle and version folder, each exported once."""
    made = {}

    def export(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            kind = {"gpt": "bytes", "lstm": "characters"}[family]
            bundle = make_bundle(folder / "run", "lm", family, kind)
            made[family] = bundle, export_saved_model(bundle, folder / "served")
        return made[family]

    with pytest.MonkeyPatch.context() as patch:
        # The golden pairs are replayed over the wire and in batches.
        patch.setattr("export.saved_model.replay_locally", lambda _: [])
        yield export


@pytest.fixture(scope="module")
def lstm(export_of):
    """For what is not about the model: its bundle and version folder."""
    return export_of("lstm")


@pytest.fixture(scope="module", params=["gpt", "lstm"])
def exported(request, export_of):
    """A bundle, its version folder, and a client of a server that serves it."""
    bundle, path = export_of(request.param)
    with (
        Server([ServedModel("m", str(path.parent))], port=0, host="localhost") as server,
        Client(f"localhost:{server.port}") as client,
    ):
        yield bundle, path, client


def options(rows):
    return {
        "max_new_tokens": np.array([12, 5, 20, 0, 7][:rows], "int32"),
        "temperature": np.array([0.0, 1.0, 0.8, 0.0, 1.3][:rows], "float32"),
        "top_k": np.array([0, 0, 3, 0, 0][:rows], "int32"),
        "top_p": np.array([1.0, 1.0, 1.0, 1.0, 0.7][:rows], "float32"),
        "min_p": np.array([0.0, 0.05, 0.0, 0.0, 0.0][:rows], "float32"),
        "repetition_penalty": np.array([1.0, 1.0, 1.3, 1.0, 0.8][:rows], "float32"),
        "stop": np.array(STOP[:rows], object),
        "seed": np.array([0, 1, 2, 3, 4][:rows], "int32"),
    }


def assert_same(answer, expected):
    assert set(answer) == set(expected)
    for name, value in expected.items():
        value = value.numpy()
        if value.dtype.kind == "f":
            np.testing.assert_allclose(answer[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
        else:
            assert answer[name].tolist() == value.tolist(), name


def test_keras_saved_model_and_server_agree(exported):
    bundle, path, client = exported
    reloaded = tf.saved_model.load(str(path)).signatures
    for signature in ("generate", "score", "next_token"):
        inputs = {"text": np.array(PROMPTS, dtype=object)}
        inputs |= options(5) if signature == "generate" else {}
        expected = getattr(bundle.lm, signature)(**inputs)
        local = reloaded[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        assert_same({name: value.numpy() for name, value in local.items()}, expected)
        assert_same(client.predict("m", inputs, signature).outputs, expected)
    # The default signature generates greedily from text alone.
    answer = client.predict("m", {"text": ["To be", "q"]}).outputs
    assert_same(answer, bundle.lm.generate(["To be", "q"]))


def test_a_row_does_not_depend_on_its_batch(exported):
    _, _, client = exported
    inputs = {"text": np.array(PROMPTS, dtype=object), **options(5)}
    together = client.predict("m", inputs, "generate").outputs
    for row in range(5):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        alone = client.predict("m", one, "generate").outputs
        assert alone["text"].tolist() == together["text"][row : row + 1].tolist()
        np.testing.assert_allclose(
            alone["log_probability"], together["log_probability"][row : row + 1], rtol=1e-4
        )


def test_seeds_over_the_wire(exported):
    _, _, client = exported

    def sample(**inputs):
        inputs = {"text": ["To be"] * 3, "temperature": np.float32([2.0]), **inputs}
        return client.predict("m", inputs, "generate").outputs["text"].tolist()

    assert sample(seed=np.int32([5, 6, 5])) == sample(seed=np.int32([5, 6, 5]))
    assert sample() != sample()


def test_bad_options_are_invalid_argument_and_the_server_stays_up(exported):
    _, _, client = exported
    for inputs, message in [
        ({"max_new_tokens": np.int32([-1])}, "max_new_tokens must be at least 0"),
        ({"temperature": np.float32([-1])}, "temperature must be finite and at least 0"),
        ({"temperature": np.float32([np.nan])}, "temperature must be finite"),
        ({"top_k": np.int32([-1])}, "top_k must be at least 0"),
        ({"top_p": np.float32([0])}, "top_p must be above 0 and at most 1"),
        ({"top_p": np.float32([1.01])}, "top_p must be above 0"),
        ({"min_p": np.float32([1])}, "min_p must be at least 0 and below 1"),
        ({"repetition_penalty": np.float32([0])}, "repetition_penalty must be finite and above 0"),
        ({"stop": [["a" * 129]]}, "stop must be at most 16 strings of at most 128 bytes"),
        ({"stop": [["a"] * 17]}, "stop must be at most 16 strings of at most 128 bytes"),
        ({"stop": [["a"]] * 3}, "stop must have one value, or one for each text"),
        ({"stop": ["a", "b"]}, 'input "stop" has shape [2], but the model needs [-1, -1]'),
        ({"seed": np.int32([1, 2, 3])}, "seed must have one value, or one for each text"),
        ({"max_new_tokens": np.int32(8)}, 'input "max_new_tokens" has shape [], but the model'),
        ({"text": np.array(b"a", object)}, 'input "text" has shape [], but the model needs [-1]'),
        ({"text": ["a"] * 65, "max_new_tokens": np.int32([5000])}, "65 rows of up to 4096 tokens"),
    ]:
        with pytest.raises(grpc.RpcError) as error:
            client.predict("m", {"text": ["a", "b"], **inputs}, "generate")
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert message in error.value.details()
    assert client.predict("m", {"text": ["a"]}).outputs["text"].shape == (1,)


def test_odd_requests_are_answered(exported):
    bundle, _, client = exported
    for prompt in (b"", b"\0\0", b"\xff\xfe", b"x" * 20_000, "\U0001f600".encode()):
        few = {"text": [prompt], "max_new_tokens": np.int32([3])}
        answer = client.predict("m", few, "generate").outputs
        assert answer["text"][0] == prompt + answer["completion"][0]
        assert client.predict("m", {"text": [prompt]}, signature="score").outputs
    nothing = client.predict("m", {"text": np.array([], dtype=object)}).outputs
    assert nothing["text"].shape == (0,)
    zero = {"text": ["a"], "max_new_tokens": np.int32([0])}
    zero = client.predict("m", zero, "generate").outputs
    assert zero["text"].tolist() == [b"a"]
    off = client.predict("m", {"text": ["a"], "top_k": np.int32([0])}, "generate").outputs
    assert_same(off, bundle.lm.generate(["a"]))
    assert_same(client.predict("m", {"text": ["a"]}).outputs, bundle.lm.generate(["a"]))


def test_the_command_finds_the_signature_with_the_options(exported, capsys):
    bundle, _, client = exported
    for settings, code, shown in (
        ([], 0, bundle.lm.generate(["a"])["text"].numpy()[0].decode(errors="backslashreplace")),
        (["--set=max_new_tokens=0"], 0, "a"),
        (["--set=tokens=0"], 1, "no input tokens; its inputs: max_new_tokens, min_p,"),
    ):
        values = flags.FlagValues()
        client_command.define_flags(values)
        values(["client", f"--server={client.server}", "--model=m", "--text=a", *settings])
        assert client_command.run(values) == code
        assert shown in "".join(capsys.readouterr())


def test_golden_pairs_hold_over_the_wire(exported):
    _, path, client = exported
    replays = replay_remotely(path, client, "m", clients=4)
    assert problems_of(replays) == []
    assert [one.name for one in replays] == ["cold", "rows alone", "warm", "4 clients"]
    pairs = read_golden_pairs(path / GOLDEN_FILE)
    rows = sum(pair.rows for pair in pairs)
    assert [len(one.milliseconds) for one in replays] == 2 * [len(pairs), rows]
    assert {pair.signature for pair in pairs} == {"generate", "score", "next_token"}


def test_golden_pairs_hold_in_batches(lstm):
    batching = read_batching_parameters(str(lstm[1] / BATCHING_FILE))
    assert problems_of(replay_locally(lstm[1], clients=4, batching=batching)) == []


def test_warmup_and_golden_pairs_fit_the_smallest_batches(lstm):
    """A warm-up request that fails would keep the server from loading the model."""
    _, path = lstm
    loader = Loader(batching=BatchingParameters(max_batch_size=1))
    with (
        Server([ServedModel("m", str(path.parent))], port=0, loader=loader) as server,
        Client(f"localhost:{server.port}") as client,
    ):
        replays = replay_remotely(path, client, "m")
    assert problems_of(replays) == []
    assert [one.most_rows for one in replays] == [1, 0]
    records = [*tf.data.TFRecordDataset(str(path / WARMUP_FILE)).as_numpy_iterator()]
    asked = {}
    for record in records:
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        rows = request.inputs["text"].tensor_shape.dim[0].size
        asked.setdefault(request.model_spec.signature_name, set()).add(rows)
    names = "generate", "score", "next_token", "serving_default"
    assert asked == {name: {1} for name in names}
    assert len(records) > 9


def test_a_bad_option_fails_alone_in_its_batch(lstm):
    parameters = BatchingParameters(max_batch_size=4, batch_timeout_micros=300_000)
    servable = Servable("m", 1, str(lstm[1]), batching=parameters)
    good = {"text": np.array([b"a"], object), "max_new_tokens": np.int32([3])}
    bad = {
        "temperature": (np.float32([-1]), "INVALID_ARGUMENT: assertion failed: [temperature must"),
        "max_new_tokens": (np.int32([-1]), "INVALID_ARGUMENT: assertion failed: [max_new_tokens"),
        "seed": (np.int32([[1]]), "INVALID_ARGUMENT"),
        "top_k": (np.int32([1, 2]), "INVALID_ARGUMENT"),
    }

    def ask(inputs):
        try:
            return ask_servable(servable, "generate", inputs)["text"].shape
        except ServingError as error:
            return str(error)

    try:
        for name, (value, message) in bad.items():
            with futures.ThreadPoolExecutor(3) as pool:
                first, failed, last = pool.map(ask, [good, {**good, name: value}, good])
            assert first == last == (1,)
            assert failed.startswith(message)
    finally:
        servable.close()


def test_stop_strings_meet_in_batches_by_their_number(lstm):
    """As many as the default has share a batch with requests of none; others run by themselves."""
    bundle, path = lstm
    parameters = BatchingParameters(max_batch_size=4, batch_timeout_micros=300_000)
    servable = Servable("m", 1, str(path), batching=parameters)
    batches, together = [], servable._batched.run

    def counted(feeds, *rest):
        batches.append(len(feeds))
        return together(feeds, *rest)

    servable._batched.run = counted
    common = {"text": np.array([b"To be"], object), "max_new_tokens": np.int32([9])}
    given = [None, [[b"e", b"", b"", b""]], [[b"e"]], [[b"o", b"e"] * 4], [[b" ", b"q", b"", b""]]]
    requests = [
        common | ({} if stop is None else {"stop": np.array(stop, object)}) for stop in given
    ]
    try:
        with futures.ThreadPoolExecutor(5) as pool:
            answers = [
                *pool.map(lambda inputs: ask_servable(servable, "generate", inputs), requests)
            ]
    finally:
        servable.close()
    for inputs, answer in zip(requests, answers):
        assert_same(answer, bundle.lm.generate(**inputs))
    assert answers[1]["finish_reason"] == [b"stop"] != answers[0]["finish_reason"]
    assert len(batches) == 3


def test_a_large_model_is_warmed_up_at_fewer_sizes(lstm):
    bundle, _ = lstm
    config = dataclasses.replace(bundle.config, parameters=10**10)
    few, many = (
        warmup_requests(one, []) for one in (dataclasses.replace(bundle, config=config), bundle)
    )
    assert len(many) == 3 * 3 + 1  # and the default signature, of a text alone
    assert 4 <= len(few) < len(many)


def signatures_of(path):
    return read_saved_model(path).meta_graphs[0].signature_def


def test_the_default_signature_takes_texts_alone(lstm):
    signatures = signatures_of(lstm[1])
    default, generate = signatures["serving_default"], signatures["generate"]
    assert {*default.inputs} == {"text"} and not default.defaults
    assert default.inputs["text"] == generate.inputs["text"]
    assert default.outputs == generate.outputs
    assert generate.defaults["max_new_tokens"].int_val[:] == [64]


def test_model_card(lstm):
    bundle, path = lstm
    card = (path / CARD_FILE).read_text(encoding="utf-8")
    assert "# served, version 1" in card
    assert f"{bundle.config.parameters:,} parameters that continues text" in card
    assert "`max_new_tokens` int32 (B), default 64" in card
    assert "`text` string (B)" in card
    assert '`stop` string (B, ?), default ["", "", "", ""]' in card
    assert "in TensorFlow Serving 2.19.1" in card and "weights are rounded" not in card
    body = re.search(r"curl -d '(.*)'", card)[1]
    (row,) = json.loads(body)["instances"]
    assert row == {"text": "Some text"}  # over REST all inputs must be sent


def test_a_wrong_answer_is_told(lstm):
    pair = read_golden_pairs(lstm[1] / GOLDEN_FILE)[2]
    assert differences(pair, pair.outputs) == ([], 0)
    wrong = {name: value.copy() for name, value in pair.outputs.items()}
    wrong["text"][1] = b"no"
    wrong["log_probability"] = wrong["log_probability"] * 1.001
    lines, _ = differences(pair, wrong)
    assert any(re.search(r"generate\.text\[1\]: got b'no', golden b", line) for line in lines)
    assert any("generate.log_probability" in line for line in lines)
    del wrong["text"]
    assert "generate.text: output missing" in differences(pair, wrong)[0]


def test_no_op_that_tensorflow_serving_refuses(exported):
    """XLA is off there, Python is not there, and TF-Text is an older one."""
    _, path, _ = exported
    graph = read_saved_model(path).meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    assert len(nodes) > 100
    refused = re.compile(r"Xla|Cudnn|PyFunc|Table|Lookup|RoundRobin|^TFText>")
    assert not {node.op for node in nodes if refused.search(node.op)}
    assert not [node.name for node in nodes if node.attr["_XlaMustCompile"].b]
    for signature in ("generate", "score", "next_token"):
        for _, value in signatures_of(path)[signature].outputs.items():
            assert value.tensor_shape.dim[0].size == -1  # B, never a scalar


def test_versions_and_folders_that_cannot_be_written(lstm, tmp_path, monkeypatch):
    bundle, path = lstm
    with pytest.raises(ExportError, match=r"served/1 exists.*leave it out for 2"):
        export_saved_model(bundle, path.parent, version=1)
    with pytest.raises(ExportError, match="at least 0"):
        export_saved_model(bundle, tmp_path / "m", version=-1)
    with pytest.raises(ExportError, match=r"--out=.*model, and --version=1"):
        export_saved_model(bundle, tmp_path / "model" / "1")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ExportError, match="cannot write"):
        export_saved_model(bundle, blocked / "m")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk
    try:
        with pytest.raises(ExportError, match="cannot write"):
            export_saved_model(bundle, tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "m").iterdir()) == []

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full_disk)
    with pytest.raises(ExportError, match="No space left on device"):
        export_saved_model(bundle, tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


def test_an_export_that_answers_otherwise_is_not_written(lstm, tmp_path, monkeypatch):
    monkeypatch.setattr("export.saved_model.replay_locally", lambda _: [WRONG])
    with pytest.raises(
        ExportError, match=r"does not answer as the Keras model does:\n  cold: generate\.text\[0\]"
    ):
        export_saved_model(lstm[0], tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


def test_newest_version(tmp_path):
    for name in ("1", "10", "9", ".partial-11-x", "notes"):
        (tmp_path / name).mkdir()
    assert newest_version(tmp_path) == tmp_path / "10"
    (tmp_path / "00000123").mkdir()  # a server takes leading zeros
    assert newest_version(tmp_path) == tmp_path / "00000123"
    with pytest.raises(ValueError, match="no model version in it"):
        newest_version(tmp_path / "nothing")


def test_two_exports_at_once_take_two_numbers(lstm, tmp_path, monkeypatch):
    rename = os.rename

    def second(source, target):
        if not Path(target).exists():
            shutil.copytree(lstm[1], target)  # the other export was here first
            monkeypatch.setattr(os, "rename", rename)
        rename(source, target)

    monkeypatch.setattr(os, "rename", second)
    assert export_saved_model(lstm[0], tmp_path / "model").name == "2"
    assert "version 2" in (tmp_path / "model" / "2" / CARD_FILE).read_text()
    assert not list((tmp_path / "model").glob(".partial-*"))


def test_what_a_killed_export_left_is_removed(tmp_path):
    killed, running, fresh = (tmp_path / f".partial-1-{name}" for name in "abc")
    for folder in (killed, running, fresh):
        folder.mkdir()
        (folder / "saved_model.pb").touch()
    for folder in (killed, running):
        os.utime(folder, (0, 0))
    handle = os.open(running, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        _remove_abandoned(tmp_path)
        assert {path.name[-1] for path in tmp_path.iterdir()} == {"b", "c"}
    finally:
        os.close(handle)
