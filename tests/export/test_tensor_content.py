"""Tensors as bytes: read back by TensorFlow, they are what was written."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2

from export.server.api.tensor_content import encode_content


def read_back(array):
    proto = tensor_pb2.TensorProto()
    encode_content(array, proto)
    return tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(array.dtype)).numpy()


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_strings(strings):
    array = np.array([*strings, b"x" * 20_000], object).reshape(-1, 1)
    assert read_back(array).tolist() == array.tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int64", "uint16", "bool"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_numbers(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    found = read_back(np.asarray(array, order="F"))
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)
