"""TensorProto to numpy and back."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import tensor_pb2

from export.server.tensors import decode_tensor, encode_tensor


@pytest.mark.parametrize(
    "dtype",
    ["float16", "bfloat16", "float32", "float64", "int8", "uint16", "int64", "uint64", "bool"]
    + ["complex64", "complex128"],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (1, 2)])
def test_tensors_survive_the_typed_fields(dtype, shape):
    values = tf.cast(tf.reshape(tf.range(np.prod(shape, dtype=int)), shape) % 2, dtype).numpy()
    proto = tensor_pb2.TensorProto()
    encode_tensor(np.asarray(values), proto)
    assert not proto.tensor_content
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
