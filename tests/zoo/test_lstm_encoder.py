"""The bidirectional LSTM: two directions, right padding, and no language model."""

import numpy as np
import pytest
from keras import ops
from model_cases import ENCODER_CONFIGS, VOCABULARY_SIZE, encode, make_encoder

from zoo.config import ConfigError
from zoo.models.build import build
from zoo.models.heads import CausalLM
from zoo.models.lstm import LSTMBackbone

numpy = ops.convert_to_numpy


def test_directions_are_two_lstms_on_the_text_and_its_mirror_image():
    """One layer: each half of a state is an LSTM run over the bare text, one from its end."""
    both = make_encoder("bilstm_projected", "span").backbone
    ids = np.random.default_rng(0).integers(0, VOCABULARY_SIZE, (2, 6), "int32")
    lengths = np.array([6, 4])
    mask = np.arange(6) < lengths[:, None]
    hidden = numpy(encode(both)(ids, mask))
    assert hidden.shape == (2, 6, 16)
    for half, layers in enumerate((both.recurrent_layers, both.backward_layers)):
        for row, length in enumerate(lengths):
            text = ids[row : row + 1, :length]
            text = text[:, ::-1] if half else text
            states = numpy(layers[0](both.token_embedding(text.T))[0])[:, 0]
            states = states[::-1] if half else states
            piece = hidden[row, :length, 8 * half : 8 * half + 8]
            np.testing.assert_allclose(piece, states, atol=1e-6)


def test_bidirectional_is_no_language_model():
    config = ENCODER_CONFIGS["bilstm"]
    with pytest.raises(ConfigError, match="lstm with bidirectional=True cannot do task 'lm'"):
        build(config)
    with pytest.raises(ConfigError, match="must not see the future"):
        CausalLM(LSTMBackbone(config))


def test_first_token_of_a_forward_lstm_is_refused():
    with pytest.raises(ConfigError, match="use 'mean' or 'max'"):
        make_encoder("lstm_forwards", "classify", {"num_classes": 2, "pooling": "cls"})
