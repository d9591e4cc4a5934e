"""Tiny models for tests: every option of every family at least once."""

import functools

import keras
import pytest
from keras import ops

from zoo.generation.loop import SamplingOptions
from zoo.models.attention_options import RelativeAttention, RotaryScaling
from zoo.models.build import build
from zoo.models.configs import BertConfig, GPTConfig, LSTMConfig

VOCABULARY_SIZE = 13

_GPT = {
    "vocabulary_size": VOCABULARY_SIZE,
    "context_length": 12,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 16,
    "initializer_range": 0.4,
}
_LSTM = {
    "vocabulary_size": VOCABULARY_SIZE,
    "context_length": 12,
    "hidden_dim": 8,
    "initializer_range": 0.4,
}
CONFIGS = {
    "gpt_defaults": GPTConfig(**_GPT),
    "gpt_faithful": GPTConfig(
        **_GPT,
        positions="learned",
        norm="layer_norm",
        qk_norm=False,
        activation="gelu_tanh",
        use_bias=True,
    ),
    "gpt_multi_query": GPTConfig(**_GPT, num_kv_heads=1),
    "gpt_grouped_query": GPTConfig(**_GPT, num_kv_heads=2, activation="gelu"),
    "gpt_swiglu_untied": GPTConfig(
        **_GPT, activation="swiglu", intermediate_dim=10, tie_embeddings=False
    ),
    "gpt_dropout": GPTConfig(**_GPT, dropout=0.5),
    "gpt_sliding": GPTConfig(
        **_GPT,
        key_dim=6,
        num_kv_heads=2,
        activation="geglu_tanh",
        norm_placement="both",
        use_bias="attention",
        rotary_fraction=0.7,
        rotary_scaling=RotaryScaling("llama3", 8.0, original_length=12),
        layer_types=("sliding_attention", "full_attention"),
        sliding_window=3,
        local_rotary_base=100.0,
        query_scalar=4,
        attention_soft_cap=4.0,
        logit_soft_cap=9.0,
        scale_embeddings=True,
    ),
    "gpt_parallel": GPTConfig(
        **_GPT,
        norm="layer_norm",
        qk_norm="projection",
        parallel_residual=True,
        use_bias=True,
        rotary_layers=(True, False),
    ),
    "gpt_token_shift": GPTConfig(**_GPT, token_shift=3, num_kv_heads=2),
    "lstm_defaults": LSTMConfig(**_LSTM),
    "lstm_one_layer_dropout": LSTMConfig(**_LSTM, num_layers=1, dropout=0.5),
    "lstm_projected": LSTMConfig(**_LSTM, embedding_dim=6),
    "lstm_untied": LSTMConfig(**_LSTM, tie_embeddings=False),
}

# Of these the ones that compute something of their own.
MAIN_CONFIGS = ("gpt_faithful", "gpt_sliding", "gpt_parallel", "gpt_token_shift", "lstm_projected")

_BERT = {
    "vocabulary_size": VOCABULARY_SIZE,
    "context_length": 12,
    "num_heads": 2,
    "hidden_dim": 8,
    "initializer_range": 0.4,
    "dropout": 0.0,
}
_MODERN = {
    "norm_placement": "pre",
    "norm": "rms_norm",
    "norm_epsilon": 1e-5,
    "positions": "rotary",
    "qk_norm": True,
    "activation": "swiglu",
    "use_bias": False,
}
# Models that see the whole text, and the LSTM that reads it forwards only.
ENCODER_CONFIGS = {
    "bert_published": BertConfig(**_BERT, num_layers=1),
    "bert_modern": BertConfig(**_BERT, **_MODERN, num_layers=2),
    "bert_no_segments": BertConfig(
        **_BERT,
        num_layers=1,
        num_segments=0,
        use_pooler=False,
        norm_placement="pre",
        activation="gelu_tanh",
    ),
    # ModernBERT: a norm of the embeddings in place of the first one, and windows.
    "bert_windows": BertConfig(
        **_BERT,
        **{**_MODERN, "norm": "layer_norm", "qk_norm": False},
        num_layers=3,
        num_segments=0,
        embedding_norm=True,
        layer_types=("full_attention", "sliding_attention"),
        sliding_window=3,
        local_rotary_base=100.0,
        head_transform=True,
        use_pooler=False,
    ),
    # ALBERT, and ELECTRA's dense layer.
    "bert_shared": BertConfig(**_BERT, num_layers=2, embedding_dim=6, shared_layers=True),
    # DeBERTa.
    "bert_relative": BertConfig(
        **_BERT,
        num_layers=2,
        num_segments=0,
        positions="none",
        relative_attention=RelativeAttention(9, 4, norm=True),
        pooler_activation="gelu",
    ),
    "bert_relative_apart": BertConfig(
        **_BERT,
        num_layers=1,
        relative_attention=RelativeAttention(5, terms=("p2c", "c2p"), shared=False),
    ),
    "bilstm": LSTMConfig(**_LSTM, num_layers=2, bidirectional=True),
    "bilstm_projected": LSTMConfig(**_LSTM, embedding_dim=6, num_layers=1, bidirectional=True),
    "lstm_forwards": LSTMConfig(**_LSTM, num_layers=1, embedding_dim=6),
}


def cases(every, on_jax):
    """Parameters of a test; what JAX would only compile once more runs on TensorFlow alone."""
    marks = pytest.mark.tensorflow_only
    return [one if one in on_jax else pytest.param(*_fields(one), marks=marks) for one in every]


def _fields(case) -> tuple:
    return case if isinstance(case, tuple) else (case,)


def make_encoder(name: str, task: str, head: dict | None = None, seed: int = 0, **overrides):
    """A freshly built encoder with the head of a task."""
    keras.utils.set_random_seed(seed)
    return build(ENCODER_CONFIGS[name], task, head, **overrides)


def make_model(name: str, seed: int = 0):
    """A freshly built model; LSTM gates get weights large enough to matter."""
    keras.utils.set_random_seed(seed)
    return build(CONFIGS[name])


@functools.cache
def shared_model(name: str):
    """`make_model`, once for all tests that do not change it."""
    return make_model(name)


@functools.cache
def shared_encoder(name: str, task: str, **head):
    """`make_encoder`, once for all tests that do not change it."""
    return make_encoder(name, task, head)


def compile_model(model, optimizer, loss):
    """Compiles for a few steps: XLA on the CPU takes longer for a graph than for the steps."""
    on_jax = keras.backend.backend() == "jax"
    model.compile(optimizer, loss, jit_compile=on_jax, run_eagerly=not on_jax)


def greedy_options(rows: int, max_new_tokens: int) -> SamplingOptions:
    """Options that choose the likeliest token in every row."""
    return SamplingOptions(
        max_new_tokens=ops.full((rows,), max_new_tokens, "int32"),
        temperature=ops.zeros((rows,), "float32"),
        top_k=ops.zeros((rows,), "int32"),
        top_p=ops.ones((rows,), "float32"),
        seed=ops.zeros((rows,), "int32"),
    )


def compiled(function):
    """`function` under jax.jit on JAX, where running op by op compiles every op; else as it is."""
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


@functools.lru_cache(maxsize=4)
def forward(model):
    """The model's forward pass of token ids or a dict, compiled once a model and shape."""
    return compiled(lambda inputs: model(inputs))


@functools.lru_cache(maxsize=4)
def forward_in_training(model):
    """As `forward`, with dropout."""
    return compiled(lambda inputs: model(inputs, training=True))


@functools.lru_cache(maxsize=4)
def encode(backbone):
    """An encoder's hidden states, compiled once a backbone and shape."""
    return compiled(lambda *arguments: backbone(*arguments))


@functools.lru_cache(maxsize=4)
def decode(model):
    """The model's decode, compiled once a model and shape."""
    return compiled(lambda *arguments: model.decode(*arguments))
