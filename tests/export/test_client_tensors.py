"""The client's tensors are TensorFlow's, in both directions, and its tf.Examples too."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2, types_pb2

from export.client.messages import TensorProto, build_example
from export.tensors import as_array, decode_tensor, encode_tensor

NAMES = ["float32", "float64", "int8", "int16", "int32", "uint8", "uint16", "int64", "uint32"]
NAMES += ["uint64", "bool", "float16", "bfloat16", "complex64", "complex128", "string"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


@st.composite
def arrays(draw):
    shape = draw(SHAPES)
    name = draw(st.sampled_from(NAMES))
    if name == "string":
        array = np.empty(shape, object)
        array.ravel()[:] = draw(st.lists(st.binary(), min_size=array.size, max_size=array.size))
        return array
    if name == "bfloat16":  # of which hypothesis knows nothing
        return draw(hnp.arrays(np.uint16, shape)).view(ml_dtypes.bfloat16)
    return draw(hnp.arrays(name, shape))


def assert_same(got, expected):
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    if got.dtype == object:
        assert got.tolist() == expected.tolist()
    else:  # bit by bit: NaN is equal to itself, -0 not to 0
        assert got.tobytes() == expected.tobytes()


def encoded(value):
    proto = TensorProto()
    array = as_array(value)
    encode_tensor(array, proto, as_content=array.dtype != object)
    return proto


@given(arrays())
def test_tensorflow_reads_what_is_encoded(array):
    proto = tensor_pb2.TensorProto.FromString(encoded(array).SerializeToString())
    assert_same(np.asarray(tf.make_ndarray(proto)), array)
    assert proto.dtype == tf.as_dtype(array.dtype).as_datatype_enum
    assert proto.HasField("tensor_shape")
    assert_same(decode_tensor(encoded(array)), array)


@given(arrays())
def test_what_tensorflow_encodes_is_decoded(array):
    made = [tf.make_tensor_proto(array), tf.make_tensor_proto(array, shape=array.shape)]
    content = tensor_pb2.TensorProto()
    encode_tensor(array, content, as_content=True)  # strings, too, as bytes
    for proto in (*made, content):
        assert_same(decode_tensor(TensorProto.FromString(proto.SerializeToString())), array)


@given(st.lists(st.binary(max_size=3), max_size=5), SHAPES)
def test_strings_are_repeated_and_dropped_as_numbers_are(strings, shape):
    proto = TensorProto(dtype=types_pb2.DT_STRING, string_val=strings)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    count = int(np.prod(shape))
    expected = (strings + (strings[-1:] or [b""]) * count)[:count]
    assert decode_tensor(proto).ravel().tolist() == expected


@pytest.mark.parametrize(
    "value",
    [1, 2**31, -(2**40), 1.5, True, "\u00e9", b"a\0\xff", [1, 2], [1, 2.5], [True, False]]
    + [["a", "b"], [[b"a\0"], [b"b"]], [], [[], []], (1, 2), [[[]]]]
    + [np.float64(1.5), np.int64(3), np.float64([1]), np.int64([[1]]), np.str_("a")]
    + [np.array(["a", "bc"]), np.array([b"a", b"bc"]), np.array(["a", b"b"], object)]
    + [np.arange(6.0).reshape(2, 3).T, np.arange(9)[::2]],
    ids=repr,
)
def test_python_values_become_what_tensorflow_makes_of_them(value):
    expected = np.asarray(tf.make_ndarray(tf.make_tensor_proto(value)))
    assert_same(decode_tensor(encoded(value)), expected)


def test_what_tensorflow_refuses_or_reads_wrongly():
    assert decode_tensor(encoded(["a", b"\xff"])).tolist() == [b"a", b"\xff"]
    assert decode_tensor(encoded(np.arange(3, dtype=">i4"))).tolist() == [0, 1, 2]


def test_tensors_of_other_libraries_keep_their_dtype():
    read = decode_tensor(encoded(tf.constant([1.5], tf.float64)))
    assert (read.dtype, read.tolist()) == (np.float64, [1.5])
    read = decode_tensor(encoded(tf.constant([b"a\0"])))
    assert read.tolist() == [b"a\0"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1], [1, 2]], "inhomogeneous"),
        ([["a"], ["b", "c"]], "lists of unequal lengths"),
        ([1, "a"], "cannot hold 1: int"),
        ([None], "cannot hold None: NoneType"),
        (2**64, "cannot hold 18446744073709551616: int"),
        (np.datetime64("2026-01-01"), r"cannot hold datetime64\[D\]"),
        (np.longdouble(1), "cannot hold (longdouble|float128|float96)"),
        ("\ud800", "surrogates not allowed"),
        ({"a": 1}, "cannot hold .*: dict"),
    ],
    ids=repr,
)
def test_what_no_tensor_holds_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        encoded(value)


def shaped(dtype, *sizes, **fields):
    proto = TensorProto(dtype=dtype, **fields)
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (shaped(types_pb2.DT_RESOURCE), "dtype 20 cannot be read"),
        (shaped(0), "dtype 0 cannot be read"),
        (shaped(999), "dtype 999 cannot be read"),
        (shaped(types_pb2.DT_FLOAT, -1), r"shape \[-1\] cannot be read"),
        (shaped(types_pb2.DT_FLOAT, *[1] * 65), "cannot be read"),
        (shaped(types_pb2.DT_FLOAT, 2**40), "more memory than a message may claim"),
        (shaped(types_pb2.DT_STRING, 2**40), "more memory than a message may claim"),
        (shaped(types_pb2.DT_INT64, 2**40, 0), "more memory than a message may claim"),
        (
            shaped(types_pb2.DT_FLOAT, 2, tensor_content=b"12345"),
            r"has 5 bytes, where float32 of shape \[2\] has 8",
        ),
        (shaped(types_pb2.DT_STRING, 1, tensor_content=b"\3ab"), "2 bytes for strings of 3"),
        (shaped(types_pb2.DT_STRING, 3, tensor_content=b"\0\xff"), "ends within the lengths of 3"),
    ],
)
def test_broken_tensors_are_refused(proto, message):
    with pytest.raises(ValueError, match=message):
        decode_tensor(proto)


def test_unknown_rank_is_a_scalar():
    proto = shaped(types_pb2.DT_INT32, int_val=[4, 5])
    proto.tensor_shape.unknown_rank = True
    assert decode_tensor(proto).tolist() == 4


# --- tf.Examples


def test_features_take_the_list_of_their_values():
    row = {
        "text": "\u00e9",
        "raw": [b"\xff", "a"],
        "count": np.int64([1, 2]),
        "mixed": [True, np.int8(2)],
        "yes": True,
        "score": [1, 2.5],
        "half": np.float32(0.5),
        "none": [],
    }
    expected = tf.train.Example()
    feature = expected.features.feature
    feature["text"].bytes_list.value.append("\u00e9".encode())
    feature["raw"].bytes_list.value.extend([b"\xff", b"a"])
    feature["count"].int64_list.value.extend([1, 2])
    feature["mixed"].int64_list.value.extend([1, 2])
    feature["yes"].int64_list.value.append(1)
    feature["score"].float_list.value.extend([1, 2.5])
    feature["half"].float_list.value.append(0.5)
    feature["none"].SetInParent()
    for given_row in (row, expected, expected.SerializeToString()):
        built = build_example(given_row).SerializeToString()
        assert tf.train.Example.FromString(built) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": ["a", 1]}, "feature text: strings and numbers are mixed"),
        ({"text": None}, "feature text: None is neither a string nor a number"),
        (b"\xff", "these 1 bytes are no tf.Example"),
        ("text", "not str"),
    ],
)
def test_rows_that_are_no_examples_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        build_example(row)
