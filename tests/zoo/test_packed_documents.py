"""Documents packed into one row: each reads as if it stood alone. On every Keras backend."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from model_cases import compiled

import zoo
from zoo.models.attention import document_positions


def model(**options):
    shape = {"num_layers": 2, "hidden_dim": 8, "num_heads": 2, "context_length": 12}
    lm = zoo.build(zoo.GPTConfig(vocabulary_size=11, initializer_range=0.5, **shape, **options))
    return compiled(lambda tokens, document_ids=None: lm(tokens, document_ids=document_ids))


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "learned", "norm": "layer_norm"},
        {"num_kv_heads": 1, "qk_norm": False},
        {"token_shift": 3},
        {"sliding_window": 3},
    ],
)
def test_packed_is_each_document_alone(options):
    lm = model(**options)
    documents = [[3, 1, 4], [5], [9, 2, 6, 5, 3], [10, 7]]
    packed = np.int32([[token for one in documents for token in one]])
    ids = np.int32([[n for n, one in enumerate(documents) for _ in one]])
    together = numpy(lm(packed, document_ids=ids))[0]
    alone = np.concatenate([numpy(lm(np.int32([one])))[0] for one in documents])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    # Without ids the later ones do see the earlier ones.
    assert np.abs(numpy(lm(packed))[0] - alone).max() > 0.01


@pytest.mark.tensorflow_only  # JAX compiles each shape
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_positions_count_from_the_start_of_each_document(lengths):
    ids = np.int32([[n for n, length in enumerate(lengths) for _ in range(length)]])
    expected = [place for length in lengths for place in range(length)]
    assert numpy(document_positions(ops.convert_to_tensor(ids)))[0].tolist() == expected


def test_one_document_is_what_it_was():
    lm = model()
    tokens = np.int32([[1, 2, 3, 4], [5, 6, 7, 8]])
    same = numpy(lm(tokens, document_ids=np.zeros_like(tokens)))
    np.testing.assert_allclose(same, numpy(lm(tokens)), rtol=1e-5, atol=1e-6)
