"""Batching in the embedded server: TensorFlow's scheduler with TensorFlow Serving's parameters."""

import contextlib
import itertools
import pathlib
import re
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from recorded import RECORDED
from tensorflow.python.client import pywrap_tf_session
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2

from export.model_folder import BATCHING_FILE
from export.server import BatchingParameters, Loader, Servable, ServingError
from export.server.api.classification import classify
from export.server.api.inference import predict
from export.server.models.loading import WARMUP_FILE
from export.server.run.batching import read_batching_parameters
from export.server.status import RequestClock

pytestmark = pytest.mark.timeout(120)

WAIT = 300_000  # microseconds; long enough for all requests of a test to meet


class Sums(tf.Module):
    """Says how many rows and columns its batch has, and more."""

    def __init__(self):
        super().__init__()
        self.amount = tf.Variable(1.0)
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2]), default_value=0
        )

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, "x")])
    def sums(self, x):
        shape = tf.shape(x)
        return {
            "rows": tf.fill([shape[0]], shape[0]),
            "columns": tf.fill([shape[0]], shape[1]),
            "sum": tf.reduce_sum(x, axis=1) + self.amount,
            "x": x,
        }

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "text"),
            tf.TensorSpec([None], tf.int64, "times"),
        ]
    )
    def look_up(self, text, times):
        return {"value": self.table.lookup(text) * tf.cast(times, tf.int32), "text": text}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def positive(self, x):
        with tf.control_dependencies([tf.debugging.assert_positive(x)]):
            return {"y": tf.identity(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def total(self, x):
        return {"total": tf.reduce_sum(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def first(self, x):
        return {"first": x[:1]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "steps")])
    def slow(self, steps):
        def body(i, y):
            return i + 1, tf.linalg.matmul(y, y) * 1e-3

        y = tf.while_loop(lambda i, _: i < tf.reduce_max(steps), body, (0, tf.ones([200, 200])))[1]
        return {"y": tf.cast(steps, tf.float32) + 0.0 * tf.reduce_sum(tf.math.tanh(y))}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, "words")])
    def join(self, words):
        return {"joined": tf.strings.reduce_join(words, axis=1, separator="|")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sums") / "1"
    sums = Sums()
    names = ("sums", "look_up", "positive", "total", "first", "slow", "join")
    signatures = {name: getattr(sums, name) for name in names}
    tf.saved_model.save(sums, str(path), signatures=signatures)
    return path


@contextlib.contextmanager
def batched(folder: pathlib.Path, **parameters):
    servable = Servable("m", 1, str(folder), batching=BatchingParameters(**parameters))
    try:
        yield servable
    finally:
        servable.close()


def run(servable, signature, seconds=None, **inputs):
    """Output name to value, or code and message."""
    chosen = servable.signatures[signature]
    feeds = {chosen.inputs[name].name: value for name, value in inputs.items()}
    names = sorted(chosen.outputs)
    try:
        fetches = [chosen.outputs[name].name for name in names]
        values = servable.run(feeds, fetches, RequestClock(seconds))
    except ServingError as error:
        return error.code.name, error.message
    return dict(zip(names, values, strict=True))


def together(servable, signature, requests):
    with futures.ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda inputs: run(servable, signature, **inputs), requests))


def rows(*values, columns=1):
    return {"x": np.float32([[value] * columns for value in values])}


def test_requests_share_a_run_and_each_gets_its_own_rows(folder):
    with batched(folder, max_batch_size=8, batch_timeout_micros=WAIT) as servable:
        answers = together(servable, "sums", [rows(1), rows(2, 3), rows(4), rows(5)])
        assert [answer["rows"].tolist() for answer in answers] == [[5], [5, 5], [5], [5]]
        assert [answer["sum"].tolist() for answer in answers] == [[2], [3, 4], [5], [6]]
        # Nine rows do not fit; what is full does not wait.
        answers = together(servable, "sums", [rows(1, 2, 3, 4), rows(5, 6, 7, 8)])
        assert [answer["rows"].tolist() for answer in answers] == [[8] * 4] * 2
        # One after the other, each alone.
        assert run(servable, "sums", **rows(7))["rows"].tolist() == [1]


def test_state_is_captured_and_strings_are_kept(folder):
    with batched(folder, max_batch_size=3, batch_timeout_micros=WAIT) as servable:
        requests = [
            {"text": np.array([b"a", b"\0\xff"], object), "times": np.int64([1, 5])},
            {"text": np.array([b"b"], object), "times": np.int64([10])},
        ]
        first, second = together(servable, "look_up", requests)
        assert first["value"].tolist() == [1, 0]
        assert first["text"].tolist() == [b"a", b"\0\xff"]
        assert second["value"].tolist() == [20]


def test_requests_that_cannot_be_batched_are_refused_in_its_words(folder):
    with batched(folder, max_batch_size=8, batch_timeout_micros=0) as servable:
        large = run(servable, "sums", **rows(*range(9)))
        assert large == (
            "INVALID_ARGUMENT",
            "Task size 9 is larger than maximum input batch size 8",
        )
        scalar = run(servable, "sums", x=np.float32(1))
        message = "Batching Run() input tensors must have at least one dimension"
        assert scalar == ("INVALID_ARGUMENT", message)
        uneven = run(servable, "look_up", text=np.array([b"a"], object), times=np.int64([1, 2]))
        message = "Batching Run() input tensors must have equal 0th-dimension size"
        assert uneven == ("INVALID_ARGUMENT", message)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.int64(1), 'input "times" has shape [], but the model needs [-1] (-1 is any size): B'),
        (np.int64([1, 2]), 'all inputs need as many rows: "text" has 1, "times" has 2: Batching'),
    ],
)
def test_an_input_that_cannot_be_batched_is_named(folder, times, message):
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "look_up"
    request.inputs["text"].CopyFrom(tf.make_tensor_proto([b"a"]))
    request.inputs["times"].CopyFrom(tf.make_tensor_proto(times))
    with batched(folder, max_batch_size=8) as servable:
        with pytest.raises(ServingError) as caught:
            predict(servable, request)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert message in caught.value.message


def test_a_failed_batch_prepares_the_graph_of_a_single_run_once(folder, monkeypatch):
    session_run, at_once, most = pywrap_tf_session.TF_SessionRun_wrapper, [], []

    def counted(*arguments):
        at_once.append(1)
        most.append(len(at_once))
        try:
            time.sleep(0.2)  # long enough for the others to come
            return session_run(*arguments)
        finally:
            at_once.pop()

    with batched(folder, max_batch_size=4, batch_timeout_micros=WAIT) as servable:
        monkeypatch.setattr(pywrap_tf_session, "TF_SessionRun_wrapper", counted)
        x = [{"x": np.float32([value])} for value in (1, 2, 3, -1)]
        *good, bad = together(servable, "positive", x)
        assert [answer["y"].tolist() for answer in good] == [[1], [2], [3]]
        assert bad[0] == "INVALID_ARGUMENT"
        assert most[:2] == [1, 1]  # the second begins when the first has ended


def test_outputs_need_a_row_for_each_row_of_the_batch(folder):
    with batched(folder, max_batch_size=8, batch_timeout_micros=0) as servable:
        x = np.float32([1, 2])
        message = "Batched output tensor has 0 dimensions"
        assert run(servable, "total", x=x) == ("FAILED_PRECONDITION", message)
        message = (
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension "
            "sizes of the input tensors"
        )
        assert run(servable, "first", x=x) == ("FAILED_PRECONDITION", message)


def test_request_without_rows_is_answered_alone(folder):
    # TensorFlow Serving lets it wait until another one joins.
    with batched(folder, max_batch_size=8, batch_timeout_micros=10_000_000) as servable:
        begin = time.monotonic()
        answer = run(servable, "sums", x=np.zeros([0, 2], np.float32))
        assert time.monotonic() - begin < 5
        assert {name: value.shape for name, value in answer.items()} == {
            "rows": (0,),
            "columns": (0,),
            "sum": (0,),
            "x": (0, 2),
        }


def test_one_bad_member_fails_alone_in_the_words_of_an_unbatched_run(folder):
    unbatched = Servable("m", 1, str(folder))
    wanted = run(unbatched, "positive", x=np.float32([-1]))
    unbatched.close()
    with batched(folder, max_batch_size=3, batch_timeout_micros=WAIT) as servable:
        x = [{"x": np.float32([value])} for value in (1, 2, -1)]
        *good, bad = together(servable, "positive", x)
        assert [answer["y"].tolist() for answer in good] == [[1], [2]]
        assert bad == wanted
        assert bad[0] == "INVALID_ARGUMENT"


def test_different_shapes_fail_each_other_when_not_padded(folder):
    with batched(folder, max_batch_size=2, batch_timeout_micros=WAIT) as servable:
        wanted = (
            "FAILED_PRECONDITION",
            "Tensors with name 'sums_x:0' from different tasks have different shapes and padding "
            "is turned off.Set pad_variable_length_inputs to true, or ensure that all tensors with "
            "the same namehave equal dimensions starting with the first dim.",
        )
        answers = together(servable, "sums", [rows(1), rows(2, columns=3)])
        assert answers == [wanted, wanted]
        good, bad = together(servable, "sums", [rows(1), {"x": np.float32([1])}])
        assert good["sum"].tolist() == [2]  # one of another rank than declared joins no batch
        assert bad[0] == "INVALID_ARGUMENT"


def test_full_queue_refuses(folder):
    parameters = {"max_batch_size": 1, "num_batch_threads": 1, "max_enqueued_batches": 2}
    with batched(folder, **parameters) as servable:
        steps = [{"steps": np.int32([500])}] * 8
        answers = together(servable, "slow", steps)
        refused = [answer for answer in answers if isinstance(answer, tuple)]
        assert 0 < len(refused) < len(answers)
        assert set(refused) == {
            (
                "UNAVAILABLE",
                "The batch scheduling queue to which this task was submitted is full; currently 2 "
                "batches enqueued and max_enqueued_batches is 2",
            )
        }


def test_deadline_in_the_queue_and_in_the_run(folder):
    with batched(folder, max_batch_size=8, batch_timeout_micros=200_000) as servable:
        # Over before the batch is closed.
        message = "Run() timeout exceeded while waiting in batching queue"
        assert run(servable, "sums", 0.05, **rows(1)) == ("RESOURCE_EXHAUSTED", message)
        assert run(servable, "sums", 20, **rows(1))["sum"].tolist() == [2]

        def asks(seconds):
            return run(servable, "sums", seconds, **rows(1))

        # One that is not late keeps the batch alive; the late one is told so.
        with futures.ThreadPoolExecutor(2) as pool:
            late, good = pool.map(asks, (0.05, 20))
        assert good["rows"].tolist() == [2]
        assert late == ("DEADLINE_EXCEEDED", "Timed out waiting for notification")
    with batched(folder, max_batch_size=8, batch_timeout_micros=0) as servable:
        run(servable, "slow", steps=np.int32([1]))
        assert run(servable, "slow", 0.1, steps=np.int32([2000]))[0] == "DEADLINE_EXCEEDED"


def test_large_requests_are_split(folder):
    parameters = {
        "max_batch_size": 8,
        "max_execution_batch_size": 4,
        "enable_large_batch_splitting": True,
        "batch_timeout_micros": WAIT,
    }
    with batched(folder, **parameters) as servable:
        answer = run(servable, "sums", **rows(*range(7)))
        assert answer["rows"].tolist() == [4, 4, 4, 4, 3, 3, 3]
        assert answer["sum"].tolist() == [value + 1 for value in range(7)]
        assert run(servable, "sums", **rows(*range(9)))[0] == "INVALID_ARGUMENT"


def test_batches_are_filled_up_to_an_allowed_size(folder):
    parameters = {"max_batch_size": 8, "batch_timeout_micros": 0}
    # As in TensorFlow Serving, the first that is large enough counts: here the 2 never does.
    with batched(folder, allowed_batch_sizes=(4, 2, 8), **parameters) as servable:
        for count, size in ((1, 4), (3, 4), (5, 8), (8, 8)):
            answer = run(servable, "sums", **rows(*range(count)))
            assert answer["rows"].tolist() == [size] * count
            assert answer["sum"].tolist() == [value + 1 for value in range(count)]


def test_inputs_of_different_lengths_are_filled_up(folder):
    parameters = {
        "max_batch_size": 8,
        "batch_timeout_micros": WAIT,
        "pad_variable_length_inputs": True,
        "allowed_batch_sizes": (4, 8),
    }
    with batched(folder, **parameters) as servable:
        requests = [{"x": np.float32([[5, 6], [7, 8]])}, {"x": np.float32([[9]])}]
        first, second = together(servable, "sums", requests)
        assert first["rows"].tolist() == [4, 4]
        assert second["x"].tolist() == [[9, 9]]  # its own first element, never a pad id
        requests = [{"x": np.float32([[5, 6, 7]])}, {"x": np.float32([[1], [2]])}]
        _, second = together(servable, "sums", requests)
        assert second["x"].tolist() == [[1, 1, 1], [2, 1, 1]]
        empty = np.zeros([1, 0], np.float32)
        _, second = together(servable, "sums", [rows(3, columns=2), {"x": empty}])
        assert second["x"].tolist() == [[0, 0]]
        words = [{"words": np.array([[b"a", b"b"]], object)}, {"words": np.array([[b"c"]], object)}]
        first, second = together(servable, "join", words)
        assert (first["joined"].tolist(), second["joined"].tolist()) == ([b"a|b"], [b"c|c"])
        # TensorFlow Serving aborts here; ours never lets them meet.
        good, bad = together(servable, "sums", [rows(1), {"x": np.float32([1])}])
        assert good["sum"].tolist() == [2]
        assert bad[0] == "INVALID_ARGUMENT"


@pytest.fixture(scope="module")
def small_batches(folder):
    with batched(folder, max_batch_size=4, batch_timeout_micros=1000) as servable:
        yield servable


@given(st.lists(st.lists(st.integers(-99, 99), min_size=1, max_size=4), min_size=1, max_size=12))
def test_every_request_gets_its_own_answer(small_batches, requests):
    answers = together(small_batches, "sums", [rows(*values) for values in requests])
    for values, answer in zip(requests, answers, strict=True):
        assert answer["sum"].tolist() == [value + 1 for value in values]


def test_ever_new_filters_do_not_grow_the_graph_for_ever(folder, monkeypatch):
    monkeypatch.setattr("export.server.run.servable._MAX_WAYS", 2)
    sizes = []
    with batched(folder, max_batch_size=4, batch_timeout_micros=0) as servable:
        signature = servable.signatures["sums"]
        feeds = {signature.inputs["x"].name: np.float32([[1]])}
        wanted = {"sum": [2], "rows": [1], "columns": [1], "x": [[1]]}
        for count in range(1, 5):
            for names in itertools.combinations(wanted, count):
                fetches = [signature.outputs[name].name for name in names]
                found = [value.tolist() for value in servable.run(feeds, fetches)]
                assert found == [wanted[name] for name in names]
                sizes.append(len(servable._graph.as_graph_def().node))
    assert sizes[2] == sizes[-1]  # two as they were asked for, and one of all outputs


def test_closing_frees_the_threads(folder):
    def threads():
        return len(list(pathlib.Path("/proc/self/task").iterdir()))

    with batched(folder, num_batch_threads=7) as servable:
        before = threads()
        run(servable, "sums", **rows(1))
        assert threads() >= before + 7
    end = time.monotonic() + 20
    del servable
    while threads() > before and time.monotonic() < end:
        time.sleep(0.02)
    assert threads() <= before


# --- parameters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size{value:0}", "max_batch_size must be positive; was 0"),
        ("num_batch_threads{value:0}", "num_batch_threads must be positive; was 0"),
        ("batch_timeout_micros{value:-1}", "batch_timeout_micros must be non-negative; was -1"),
        ("max_batch_size{value:99999999999}", "must be less than"),
        ("max_batch_size: 8", "Invalid protobuf file: '.*'"),
        ("nope:1", "Invalid protobuf file: '.*'"),
        ("", "; Invalid argument"),
        (
            "max_batch_size{value:8} allowed_batch_sizes:2 allowed_batch_sizes:4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
            "expected 8",
        ),
        (
            "max_batch_size{value:8} enable_large_batch_splitting{value:true} "
            "allowed_batch_sizes:8 allowed_batch_sizes:4 allowed_batch_sizes:8",
            "monotonically increasing",
        ),
        (
            "max_batch_size{value:8} max_execution_batch_size{value:9} "
            "enable_large_batch_splitting{value:true}",
            "max_execution_batch_size must be less than or equal to max_batch_size",
        ),
        ("max_batch_size{value:4} allowed_batch_sizes:-1 allowed_batch_sizes:4", "positive"),
    ],
)
def test_wrong_parameters_are_refused(tmp_path, text, message):
    file = tmp_path / "parameters"
    file.write_text(text)
    with pytest.raises(ServingError, match=message) as caught:
        read_batching_parameters(str(file))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_parameters_are_read(tmp_path):
    file = tmp_path / "parameters"
    file.write_text(
        "max_batch_size{value:8} batch_timeout_micros{value:9} num_batch_threads{value:2} "
        "thread_pool_name{value:'pool'} pad_variable_length_inputs:true allowed_batch_sizes:8"
    )
    assert read_batching_parameters(str(file)) == BatchingParameters(
        max_batch_size=8,
        batch_timeout_micros=9,
        num_batch_threads=2,
        pad_variable_length_inputs=True,
        allowed_batch_sizes=(8,),
    )
    assert BatchingParameters().max_batch_size == 1000


def test_parameters_of_a_version(folder, tmp_path):
    shared = BatchingParameters(max_batch_size=8, batch_timeout_micros=WAIT, num_batch_threads=3)
    loader = Loader(batching=shared, per_model_batching=True)
    # Without a file of its own it is not batched, whatever is shared.
    servable, _ = loader.load("m", 1, str(folder))
    answers = together(servable, "sums", [rows(1), rows(2)])
    assert [answer["rows"].tolist() for answer in answers] == [[1], [1]]
    servable.close()
    own = tmp_path / "1"
    own.symlink_to(folder)
    copy = tmp_path / "2"
    copy.mkdir()
    for item in folder.iterdir():
        (copy / item.name).symlink_to(item)
    (copy / BATCHING_FILE).write_text("max_batch_size{value:2} batch_timeout_micros{value:300000}")
    servable, _ = loader.load("m", 2, str(copy))
    assert servable._batched.parameters.num_batch_threads == 3
    answers = together(servable, "sums", [rows(value) for value in range(4)])
    assert [answer["rows"].tolist() for answer in answers] == [[2]] * 4
    servable.close()
    (copy / BATCHING_FILE).write_text("max_batch_size{value:0}")
    with pytest.raises(ServingError, match="max_batch_size must be positive"):
        loader.load("m", 2, str(copy))


class Seen(tf.Module):
    """Counts the batches of each size that it has computed."""

    def __init__(self):
        super().__init__()
        self.counts = tf.Variable(tf.zeros([9], tf.int32))

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32)]
    )
    def seen(self, x, size):
        counts = self.counts.scatter_add(tf.IndexedSlices([1], tf.shape(x)))
        return {"counts": tf.tile(counts[None], [tf.shape(x)[0], 1])}


@pytest.mark.parametrize(
    ("parameters", "sizes"),
    [
        ({"max_batch_size": 8, "allowed_batch_sizes": (1, 4, 8)}, [1, 4, 8]),
        ({"max_batch_size": 8, "allowed_batch_sizes": (3, 8)}, [3, 8]),
        ({"max_batch_size": 6}, [1, 2, 4, 6]),
        ({"max_batch_size": 1}, [1]),
        (None, [1]),
    ],
)
def test_a_warm_up_request_of_one_row_warms_up_every_size(tmp_path, parameters, sizes):
    module, one = Seen(), {"x": np.float32([1]), "size": np.int32([1])}
    tf.saved_model.save(module, str(tmp_path), signatures=module.seen)
    log = prediction_log_pb2.PredictionLog()
    for name, value in one.items():
        log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    (tmp_path / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(tmp_path / WARMUP_FILE)) as file:
        file.write(log.SerializeToString())
    batching = None if parameters is None else BatchingParameters(**parameters)
    servable, records = Loader(batching=batching).load("m", 1, str(tmp_path))
    assert records == 1
    # Rows of their own size: the question is counted, too.
    (counts,) = run(servable, "serving_default", **one)["counts"][:1]
    counts[sizes[0]] -= 1
    assert np.flatnonzero(counts).tolist() == sizes
    servable.close()


# --- as recorded


@pytest.mark.skipif(not RECORDED.exists(), reason="no recorded answers on this machine")
def test_recorded_models_are_batched(tmp_path):
    """What lifecycle.jsonl has of `bt_*` and `b2_*` that the tests above do not ask."""
    parameters = read_batching_parameters(str(RECORDED / "configs" / "a.batch"))

    @contextlib.contextmanager
    def recorded(model):
        (path,) = (RECORDED / "models" / model).iterdir()
        servable, _ = Loader(batching=parameters).load("m", int(path.name), str(path))
        try:
            yield servable
        finally:
            servable.close()

    with recorded("batchsz") as servable:  # b2_dtype:filter_twice_concurrent
        signature = servable.signatures["serving_default"]
        feeds = {signature.inputs["x"].name: np.float32([[1, 2]])}
        with futures.ThreadPoolExecutor(2) as pool:
            found = pool.map(
                lambda _: servable.run(feeds, [signature.outputs["n"].name])[0], range(2)
            )
            assert [array.tolist() for array in found] == [[2], [2]]
    # b2_boom:one_bad_of_three, cut by the recorder. There all three fail; here the bad one alone.
    with recorded("slow2") as servable:
        *good, bad = together(servable, "boom", [{"x": np.float32([v])} for v in (2, 1, -1)])
        assert all(isinstance(answer, dict) for answer in good)
        assert bad[0] == "INVALID_ARGUMENT"
        pattern = (
            r"assertion failed: \[\] \[Condition x > 0 did not hold element-wise:\] "
            r"\[x \(x:0\) = \] \[-1\]\n\t \[\[\{\{function_node "
            r"assert_positive_assert_less_Assert_AssertGuard_false_69\}\}"
            r"\{\{node assert_positive/assert_less/"
        )
        assert re.match(pattern, bad[1])
    with recorded("texty") as servable:  # b2_text:varying_output_width
        texts = [np.array([text], object) for text in (b"one", b"one two three")]
        name = next(iter(servable.signatures["serving_default"].inputs))
        answers = together(servable, "serving_default", [{name: text} for text in texts])
        widths = [answer["tokens"].shape[1] for answer in answers]
        assert widths[0] == widths[1]  # filled up to the width of the batch mate
    with recorded("examples") as servable:  # bt_examples: Classify and Regress
        example = tf.train.Example()
        example.features.feature["x"].float_list.value.append(1.0)
        request = classification_pb2.ClassificationRequest()
        request.input.example_list.examples.append(example)
        classes = classify(servable, request).result.classifications[0].classes
        assert [one.label for one in classes] == ["low", "mid", "high"]
        assert [one.score for one in classes] == pytest.approx([0.090030566, 0.24472848, 0.6652409])
        request.input.example_list.examples.extend([example] * 8)
        with pytest.raises(ServingError, match="Task size 9 is larger than"):
            classify(servable, request)


def test_queues_are_made_while_others_run(folder):
    """Every answer is checked."""

    def ask(value):
        if value % 2:
            return run(servable, "sums", **rows(value))["sum"].tolist() == [value + 1]
        inputs = {"text": np.array([b"%d" % value], object), "times": np.int64([1])}
        return run(servable, "look_up", **inputs)["text"].tolist() == [b"%d" % value]

    with (
        batched(folder, max_batch_size=16, batch_timeout_micros=500) as servable,
        futures.ThreadPoolExecutor(16) as pool,
    ):
        assert all(pool.map(ask, range(400)))
