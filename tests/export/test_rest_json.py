"""JSON as TensorFlow Serving reads and writes it, without a server."""

import base64
import json
import math
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, input_pb2, predict_pb2

from export.server.api.tensors import decode_tensor
from export.server.rest.json_reading import LARGE_BYTES, read_json, text_bytes
from export.server.rest.json_tensors import fill_examples, fill_tensors, signature_name
from export.server.rest.json_writing import (
    decimals,
    echo,
    metadata_json,
    outputs_json,
    predictions_json,
    quoted,
)
from export.server.status import ServingError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
DTYPES = [
    types_pb2.DT_FLOAT,
    types_pb2.DT_DOUBLE,
    types_pb2.DT_INT8,
    types_pb2.DT_INT32,
    types_pb2.DT_INT64,
    types_pb2.DT_UINT8,
    types_pb2.DT_UINT32,
    types_pb2.DT_UINT64,
    types_pb2.DT_BOOL,
    types_pb2.DT_STRING,
]


@given(JSON, st.booleans())
@example([{"a": [1, {"b": "],{"}], "": {"": [[], {}]}}, '\\",', "\\\\"], True)
def test_reads_all_json(value, ensure_ascii):
    text = json.dumps(value, ensure_ascii=ensure_ascii).encode()
    assert read_json(text) == value
    large = read_json(b" " * LARGE_BYTES + text)
    assert json.dumps(large) == json.dumps(value)  # in the same order, too


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"[NaN, Infinity, -Infinity]", "[nan, inf, -inf]"),
        (b'{"a": 1, "b": 3, "a": 2}', "{'a': 1, 'b': 3}"),
        (b"\xef\xbb\xbf[1]", "[1]"),
        (b"[1]\x00 anything", "[1]"),
        (b'"\xff"', r"'\udcff'"),
        (rb'"\ud83d\ude00 \\ud83d"', r"'😀 \\ud83d'"),
        (b"-0", "0"),
        (b"1e308", "1e+308"),
        (b"1e-999", "0.0"),
        (b"18446744073709551616", "18446744073709551616"),
    ],
)
def test_reads_beyond_the_standard(text, wanted):
    if wanted.startswith("{"):
        assert read_json(text) == {"a": 1, "b": 3}
    else:
        assert repr(read_json(text)) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"", "The document is empty"),
        (b" ", "Expecting value at offset: 1"),
        (b"[1] 2", "Extra data at offset: 4"),
        ('["ü" 2]'.encode(), "at offset: 6"),  # bytes, not characters
        (rb'"\u12G4"', "at offset: 2"),
        (rb'"\ud800x"', "Half of a surrogate pair at offset: 1"),
        (rb'"\ude00\ud83d"', "Half of a surrogate pair at offset: 1"),
        (b'"abc', "Unterminated string starting at offset: 0"),
        (b"[1e309]", "Number too big to be stored in double: 1e309"),
        (b"-1E+400", "Number too big to be stored in double: -1E+400"),
        (b"[1, " + b"9" * 310 + b".5]", "Number too big to be stored in double: 9999999"),
        (b"9" * 240 + b"e99", "Number too big to be stored in double: 9999999"),
        (b"9" * 5000, "Number too big to be stored in double"),
        (b"[" * 100_000, "Nested more than 256 levels deep"),
        (b"[1," * 257 + b"1" + b"]" * 257, "Nested more than 256 levels deep"),
    ],
)
@pytest.mark.parametrize("blanks", [0, LARGE_BYTES], ids=["small", "large"])
def test_refuses_what_is_no_json(text, wanted, blanks):
    if blanks and "at offset" in wanted:
        pytest.skip("the place is further on")
    with pytest.raises(ServingError) as caught:
        read_json(text + b" " * blanks if text else text)
    assert caught.value.message.startswith("JSON Parse error: ")
    assert wanted in caught.value.message


def test_256_levels_may_be_nested_and_brackets_in_strings_are_none():
    read_json(b"[" * 256 + b"]" * 256)
    assert read_json(json.dumps(['"\\' + "[" * 300]).encode()) == ['"\\' + "[" * 300]


@pytest.mark.parametrize("shift", range(3))
def test_elements_of_large_bodies_are_counted_before_they_are_built(shift):
    counted = []
    # Escapes and quotes come at every place of the pieces that are counted one by one.
    texts = json.dumps(["a,[" + '\\"' * 100_000] * 12).encode()
    body = b" " * shift + b'{"instances": [1, 2, [3]], "x": ' + texts + b"}"
    assert len(body) > LARGE_BYTES
    read_json(body, counted.append)
    assert counted == [1 + 1 + 2 + 1 + 1 + 1 + 11]

    def refuse(elements):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read_json(body, refuse)


@pytest.mark.parametrize("element", [b"0.12345678", b"[1]", b'{"x":1}'])
def test_other_threads_run_while_a_large_body_is_read(element):
    """The C parser holds the GIL until it is done: this counts how often it is let go."""
    turns, done = [0], threading.Event()

    def take_turns():
        while not done.is_set():
            turns[0] += 1
            time.sleep(0)

    body = b'{"instances": [' + b",".join([element] * (LARGE_BYTES // len(element))) + b"]}"
    thread = threading.Thread(target=take_turns)
    thread.start()
    try:
        before = turns[0]
        read_json(body)
        taken = turns[0] - before
    finally:
        done.set()
        thread.join()
    assert taken > 5  # with the C parser alone: 1


@given(st.lists(st.floats(width=32)), st.lists(st.floats()))
def test_decimals_name_the_number(singles, doubles):
    for values in (np.array(singles, np.float32), np.array(doubles)):
        texts = decimals(values)
        for value, text in zip(values, texts, strict=True):
            if math.isnan(value):
                assert text == "NaN"
            else:
                assert values.dtype.type(float(text)) == value
                assert "." in text or "e" in text or text.endswith("Infinity")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (7.5, "7.5"),
        (0.1, "0.1"),
        (1 / 3, "0.333333343"),  # a single decimal is shown as a float that holds it
        (1e300, "1e+300"),
        ([1 / 3, 1e21, 123456.5, -0.0], "[0.3333333333333333, 1e+21, 123456.5, -0.0]"),
        ([1, float("nan"), 2], "[1, NaN, 2]"),
        ({"a": [], "b": {}}, '{\n    "a": [],\n    "b": {}\n}'),
        ([2**64], "[18446744073709551616]"),
        ('a\x01"\\\n\x7fü', '"a\\u0001\\"\\\\\\n\x7fü"'),
        ([None, True, False], "[null, true, false]"),
    ],
)
def test_echo(value, wanted):
    assert echo(value) == wanted


def test_an_echo_is_bounded():
    # 200 objects deep, then many short members: 800 blanks before each.
    value = {str(number): 1 for number in range(50_000)}
    for _ in range(200):
        value = {"": value}
    assert len(echo(value)) < 70_000
    assert echo(value).endswith("...TRUNCATED")


def infos(**dtypes):
    return {name: meta_graph_pb2.TensorInfo(dtype=dtype) for name, dtype in dtypes.items()}


def filled(text, **dtypes):
    request = predict_pb2.PredictRequest()
    rows = fill_tensors(read_json(text.encode()), infos(**dtypes), "", request.inputs)
    return rows, {name: decode_tensor(tensor) for name, tensor in request.inputs.items()}


VALUES = st.sampled_from(
    [0, 1, -1, 200, 2**24, 2**31, 2**32, 2**53, 2**63, 2**64, 10**40, 1.5, 1e39, float("nan")]
    + ["a", "\udcff", True, False, None, {"b64": "YQ=="}, {}]
)
NESTED = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


def column(item, dtype):
    """The tensor of a column, or None when it is refused."""
    tensors = predict_pb2.PredictRequest().inputs
    try:
        fill_tensors({"inputs": {"x": item}}, infos(x=dtype), "", tensors)
    except ServingError:
        return None
    return decode_tensor(tensors["x"])


def leaves(item):
    return (
        [leaf for element in item for leaf in leaves(element)] if isinstance(item, list) else [item]
    )


def list_shape(item):
    """None for a ragged list."""
    if not isinstance(item, list):
        return ()
    shapes = {list_shape(element) for element in item}
    if len(shapes) > 1 or None in shapes:
        return None
    return (len(item), *(shapes.pop() if shapes else ()))


@given(NESTED | st.lists(VALUES, min_size=1, max_size=3), st.sampled_from(DTYPES))
def test_a_list_is_what_its_values_are_each_alone(item, dtype):
    single = [column(leaf, dtype) for leaf in leaves(item)]
    whole = column(item, dtype)
    shape = list_shape(item)
    if shape is None or any(value is None for value in single):
        assert whole is None
    else:
        assert whole.shape == shape
        np.testing.assert_array_equal(
            whole.ravel(), np.array([v.item() for v in single], whole.dtype)
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_in_and_out(dtype):
    values = {
        types_pb2.DT_BOOL: [True, False],
        types_pb2.DT_STRING: ["a", "\udcff\x00é"],
        types_pb2.DT_FLOAT: [1.5, 0.1],
        types_pb2.DT_DOUBLE: [1.5, 0.1],
    }.get(dtype)
    if values is None:
        bounds = np.iinfo(tf.as_dtype(dtype).as_numpy_dtype)
        values = [int(bounds.min), int(bounds.max)]
    text = "[" + ", ".join(map(echo, values)) + "]"
    for body in (f'{{"instances": {text}}}', f'{{"inputs": {text}}}'):
        request = predict_pb2.PredictRequest()
        body = read_json(body.encode("utf-8", "surrogateescape"))
        fill_tensors(body, infos(x=dtype), "", request.inputs)
        assert request.inputs["x"].dtype == dtype
        answer = predictions_json(request.inputs)
        assert read_json(answer.encode("utf-8", "surrogateescape")) == {"predictions": values}


def test_values_out_of_a_small_range_are_cut_as_in_cpp():
    rows, tensors = filled('{"instances": [300, -1]}', x=types_pb2.DT_UINT8)
    assert rows
    assert tensors["x"].tolist() == [44, 255]


def test_rows_of_named_inputs():
    text = '{"instances": [{"x": [1, 2], "s": "a"}, {"s": {"b64": "/w=="}, "x": [3, 4]}]}'
    rows, tensors = filled(text, x=types_pb2.DT_FLOAT, s=types_pb2.DT_STRING)
    assert rows
    assert tensors["x"].tolist() == [[1, 2], [3, 4]]
    assert tensors["s"].tolist() == [b"a", b"\xff"]


def test_columns():
    rows, tensors = filled('{"inputs": {"x": [[1], [2]], "extra": 1}}', x=types_pb2.DT_INT64)
    assert not rows
    assert tensors["x"].tolist() == [[1], [2]]
    assert filled('{"inputs": {"b64": "YQ"}}', x=types_pb2.DT_STRING)[1]["x"] == b"a"


def test_a_name_that_comes_twice_gives_its_first_value():
    _, tensors = filled('{"instances": [{"x": 1, "x": 2}]}', x=types_pb2.DT_FLOAT)
    assert tensors["x"].tolist() == [1]


F, S = {"x": types_pb2.DT_FLOAT}, {"s": types_pb2.DT_STRING}
AT = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.mark.parametrize(
    ("text", "dtypes", "wanted"),
    [
        (
            '{"instances": 1}',
            F,
            "} Excepting 'instances' to be an list/array",
        ),
        ('{"instances": []}', F, "No values in 'instances' array"),
        ('{"instances": [1]}', F | S, "instances is a plain list, but expecting list of objects"),
        ('{"inputs": [1]}', F | S, "inputs is a plain value/list, but expecting an object"),
        ('{"inputs": {"x": 1}}', F | S, "Missing named input: s in 'inputs' object."),
        ('{"instances": [1, {"x": 1}]}', F, "Expecting value/list but got object at item 1 of"),
        ('{"instances": [[1, 2], [1]]}', F, AT.format(1) + "Expecting tensor size: 2 but got: 1"),
        (
            '{"instances": [[[1], [2]], [[1, 2]]]}',
            F,
            AT.format(1) + "Expecting shape [2,1] but got: [1,2]",
        ),
        (
            '{"inputs": [[1, 2], 3]}',
            F,
            "JSON Value: 3 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        ('{"inputs": [1, [2]]}', F, "Encountered list at unexpected level: 1 expected < 1"),
        (
            '{"inputs": [[1, 2], [3]]}',
            F,
            "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
        ),
        (
            '{"inputs": 16777216}',
            F,
            "Cannot convert JSON value: 16777216 to float without loss of precision.",
        ),
        (
            '{"inputs": 1e39}',
            F,
            "Cannot convert JSON value: 1e+39 to float without loss of precision.",
        ),
        (
            '{"inputs": -9007199254740992}',
            {"x": types_pb2.DT_DOUBLE},
            "Cannot convert JSON value: -9007199254740992 to double without loss of precision.",
        ),
        ('{"inputs": {"b64": 5}}', S, "Missing named input: s in 'inputs' object."),
        ('{"inputs": [{"b64": 5}]}', S, "} not formatted correctly for base64 data"),
        (
            '{"inputs": 1}',
            {"x": types_pb2.DT_UINT16},
            "UNIMPLEMENTED: Conversion of JSON Value: 1 to type: uint16",
        ),
        (
            '{"inputs": -1}',
            {"x": types_pb2.DT_UINT64},
            "JSON Value: -1 Type: Number is not of expected type: uint64",
        ),
        (
            '{"inputs": true}',
            {"x": types_pb2.DT_INT64},
            "JSON Value: true Type: True is not of expected type: int64",
        ),
        (
            '{"instances": [{"x": 1, "y": 1}]}',
            F,
            "element: 0 key: y of 'instances' list. Error: INVALID_ARGUMENT: JSON object: "
            "does not have named input: y",
        ),
        ('{"instances": [{}]}', F, "list. JSON object: {} keys must be equal to: x"),
        ('{"instances": [1]}', {}, "Failed to get input map for signature: DEFAULT"),
    ],
)
def test_what_is_wrong_with_a_body(text, dtypes, wanted):
    with pytest.raises(ServingError) as caught:
        filled(text, **dtypes)
    assert wanted in str(caught.value)


@given(st.binary(), st.integers(0, 3))
def test_base64(data, blanks):
    text = base64.b64encode(data).decode()
    for form in (text, text.rstrip("="), text.replace("=", "."), text + " \n" * blanks):
        assert column({"b64": form}, types_pb2.DT_STRING).item() == data


@pytest.mark.parametrize("text", ["a", "YQ=", "YQ===", "Y-==", "YWE=x", "\udcff"])
def test_not_base64(text):
    with pytest.raises(ServingError, match="Unable to base64 decode"):
        filled(json.dumps({"inputs": {"s": {"b64": text}}}).replace("\\udcff", "?"), **S)


def examples(text):
    request_input = input_pb2.Input()
    fill_examples(read_json(text.encode()), request_input)
    return request_input


def test_features_are_what_their_values_are():
    text = '{"i": [1, true], "f": 1.0, "s": ["a", {"b64": "/w=="}], "none": []}'
    request_input = examples(f'{{"context": {{"c": 1}}, "examples": [{text}]}}')
    features = request_input.example_list_with_context.examples[0].features.feature
    assert features["i"].int64_list.value == [1, 1]
    assert features["f"].float_list.value == [1.0]
    assert features["s"].bytes_list.value == [b"a", b"\xff"]
    assert features["none"].WhichOneof("kind") is None
    context = request_input.example_list_with_context.context.features.feature
    assert context["c"].int64_list.value == [1]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"examples": 1}', "Expecting 'examples' value to be an list/array"),
        ('{"context": 1, "examples": []}', "Example must be JSON object but got JSON Number"),
        ('{"examples": [{"x": [1, 1.5]}]}', "element type in feature: x expecting type: int64"),
        ('{"examples": [{"x": ["a", 1]}]}', "element type in feature: x expecting type: bytes"),
        ('{"examples": [{"x": null}]}', "Feature: x has element with unexpected JSON type: Null"),
        ('{"examples": [{"x": [[1]]}]}', "has element with unexpected JSON type: Array"),
        (
            '{"examples": [{"x": 9223372036854775808}]}',
            "Feature: x has uint64 element. Only int64 is supported.",
        ),
        ('{"examples": [{"x": 1e39}]}', "to float without loss of precision."),
    ],
)
def test_what_is_wrong_with_examples(text, wanted):
    with pytest.raises(ServingError) as caught:
        examples(text)
    assert wanted in str(caught.value)


def test_a_signature_name_that_is_not_utf8_can_be_printed():
    assert signature_name(read_json(b'{"signature_name": "\xff"}')) == "\\xff"


def protos(**arrays):
    return {
        name: array if isinstance(array, tensor_pb2.TensorProto) else tf.make_tensor_proto(array)
        for name, array in arrays.items()
    }


def test_the_layout_of_rows():
    assert predictions_json(protos(y=np.float32([[1, 2], [3, 4]]))) == (
        '{\n    "predictions": [[1.0, 2.0], [3.0, 4.0]\n    ]\n}'
    )
    assert predictions_json(protos(y=np.zeros([0, 2], np.float32))) == '{\n    "predictions": []\n}'
    answer = predictions_json(protos(a_bytes=[[b"a"]], b=np.zeros([1, 2, 0], np.int64)))
    assert answer == (
        '{\n    "predictions": [\n        {\n            "a_bytes": [{\n                    '
        '"b64": "YQ=="\n                }],\n            "b": [[], []]\n        }\n    ]\n}'
    )


def test_the_layout_of_columns():
    assert outputs_json(protos(y=np.int32([[1], [2]]))) == (
        '{\n    "outputs": [\n        [\n            1\n        ],\n        [\n            2\n'
        "        ]\n    ]\n}"
    )
    assert outputs_json(protos(y=np.zeros([0, 2]))) == '{\n    "outputs": []\n}'


@pytest.mark.parametrize(
    ("arrays", "wanted"),
    [
        ({"y": 1.0}, "Tensor name: y has no shape information "),
        (
            {"a": [1.0], "b": [1.0, 2.0]},
            "Tensor name: b has inconsistent batch size: 2 expecting: 1",
        ),
        ({"y": np.float16([1])}, "Failed to write JSON value for tensor type: half"),
    ],
)
def test_outputs_that_json_cannot_hold(arrays, wanted):
    with pytest.raises(ServingError) as caught:
        predictions_json(protos(**arrays))
    assert caught.value.message == wanted


def test_metadata_shows_defaults_too():
    signature = meta_graph_pb2.SignatureDef(method_name="<m>")
    signature.defaults["x"].MergeFrom(tensor_pb2.TensorProto(dtype=1, float_val=[2.0, 0.5]))
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def={"s": signature})
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(signatures)
    text = metadata_json(response)
    assert '"method_name": "\\u003cm\\u003e"' in text  # as protobuf's C++ printer escapes it
    shown = json.loads(text)["metadata"]["signature_def"]["signature_def"]["s"]
    assert shown["defaults"]["x"]["dtype"] == "DT_FLOAT"
    assert {*shown} == {"inputs", "outputs", "method_name", "defaults"}
    assert shown["defaults"]["x"]["float_val"] == [2, 0.5] and "2.0" not in text


@given(st.text())
def test_strings_are_json(text):
    assert json.loads(quoted(text)) == text
    assert text_bytes(read_json(quoted(text).encode())) == text.encode()
