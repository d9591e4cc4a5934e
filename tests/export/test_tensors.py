"""TensorProto to numpy and back."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2, types_pb2

from export.server.api.tensors import decode_tensor, encode_tensor


@pytest.mark.parametrize(
    "dtype",
    ["float16", "bfloat16", "float32", "float64", "int8", "uint16", "int64", "uint64", "bool"]
    + ["complex64", "complex128"],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (1, 2)])
@pytest.mark.parametrize("as_content", [False, True])
def test_what_is_written_is_read(dtype, shape, as_content):
    values = tf.cast(tf.reshape(tf.range(np.prod(shape, dtype=int)), shape) % 2, dtype).numpy()
    proto = tensor_pb2.TensorProto()
    encode_tensor(np.asarray(values), proto, as_content)
    assert bool(proto.tensor_content) == (as_content and values.size > 0)
    read = decode_tensor(proto)
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(tf.make_ndarray(proto), values)


def test_partly_filled_tensors_are_read_as_tensorflow_reads_them():
    def read(text):
        return decode_tensor(text_format.Parse(text, tensor_pb2.TensorProto()))

    assert read("dtype: DT_FLOAT tensor_shape { dim { size: 3 } } float_val: 4").tolist() == [4] * 3
    assert read("dtype: DT_INT64 tensor_shape { dim { size: 2 } }").tolist() == [0, 0]
    cut = "dtype: DT_INT32 tensor_shape { dim { size: 1 } } int_val: 4 int_val: 6"
    assert read(cut).tolist() == [4]
    assert read("dtype: DT_STRING string_val: 'a\\000'").tolist() == b"a\0"
    assert read("dtype: DT_VARIANT") is None


# --- Against TensorFlow's own reader in C++


DTYPES = [number for number in types_pb2.DataType.values() if number < types_pb2.DT_FLOAT_REF]
_NO_NUMBERS = {types_pb2.DT_INVALID, types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT}
# Small enough to be filled, or refused: where only the memory is not enough TensorFlow waits 10 s.
SHAPES = st.one_of(
    st.lists(st.integers(0, 4), max_size=3),
    st.permutations([0, 2, -1]),
    st.permutations([2**40, 2**40, 3]),
    st.permutations([2**40, 2**40, 0]),
)


def integers(bits, signed=True):
    least = -(2 ** (bits - 1)) if signed else 0
    most = 2 ** (bits - signed) - 1
    # Those that the smaller dtypes cannot hold come often.
    return st.lists(st.one_of(st.integers(max(least, -300), 70_000), st.integers(least, most)))


def floats(width):
    return st.lists(st.floats(width=width))


@st.composite
def protos(draw):
    dtype = draw(st.sampled_from([number for number in DTYPES if number not in _NO_NUMBERS]))
    proto = tensor_pb2.TensorProto(dtype=dtype)
    for size in draw(SHAPES):
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_shape.unknown_rank = draw(st.booleans()) and draw(st.booleans())
    values = {
        "half_val": integers(32),
        "float_val": floats(32),
        "double_val": floats(64),
        "int_val": integers(32),
        "int64_val": integers(64),
        "uint32_val": integers(32, signed=False),
        "uint64_val": integers(64, signed=False),
        "bool_val": st.lists(st.booleans()),
        "scomplex_val": floats(32),
        "dcomplex_val": floats(64),
        "string_val": st.lists(st.binary(max_size=4)),
    }
    for field in draw(st.sets(st.sampled_from(sorted(values)), max_size=3) | st.just({*values})):
        getattr(proto, field).extend(draw(values[field]))
    proto.float8_val = draw(st.binary(max_size=5))
    if draw(st.booleans()):
        size = max(1, tf.as_dtype(dtype).size or 1)
        count = int(np.prod([dim.size for dim in proto.tensor_shape.dim if 0 <= dim.size < 5]))
        whole = count * size
        proto.tensor_content = draw(st.binary(min_size=whole, max_size=whole) | st.binary())
    return proto


def in_tensorflow(proto):
    """The array that TensorFlow reads; None when it refuses, or numpy cannot show it."""
    try:
        return tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype)).numpy()
    except (tf.errors.InvalidArgumentError, ValueError):
        return None


def ours(proto):
    try:
        return decode_tensor(proto)
    except ValueError:
        return None


def bits(array):
    """Comparable, also for NaN and for dtypes that numpy does not know."""
    if array is None:
        return None
    if isinstance(array, bytes):  # a scalar string
        return "string", (), [array]
    array = np.asarray(array)
    if array.dtype == object:
        return "string", array.shape, array.reshape(-1).tolist()
    return str(array.dtype), array.shape, array.tobytes()


@settings(max_examples=300)
@given(protos())
def test_any_tensor_is_read_as_tensorflow_reads_it(proto):
    assert bits(ours(proto)) == bits(in_tensorflow(proto))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_numbers_that_do_not_fit_wrap_around(dtype):
    proto = tensor_pb2.TensorProto(dtype=tf.as_dtype(dtype).as_datatype_enum)
    proto.int_val.extend([300, -1, 70_000, -70_000])
    proto.tensor_shape.dim.add(size=4)
    assert decode_tensor(proto).tolist() == np.array(proto.int_val, np.int32).astype(dtype).tolist()
    assert bits(decode_tensor(proto)) == bits(in_tensorflow(proto))


@pytest.mark.parametrize(
    "text",
    [
        "dtype: DT_BOOL tensor_shape { dim { size: 1 } } tensor_content: '\\002'",
        "dtype: DT_QINT32 tensor_shape { dim { size: 0 } dim { size: 4611686018427387904 } }",
    ],
)
def test_what_is_no_value_or_no_shape_in_numpy_is_refused(text):
    with pytest.raises(ValueError):
        decode_tensor(text_format.Parse(text, tensor_pb2.TensorProto()))
