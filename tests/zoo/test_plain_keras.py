"""What a user of plain Keras does with a model: quantize, save, several devices, wrong inputs."""

import gc
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_cases import make_encoder, make_model

import zoo
from zoo.text.lm import TextLM
from zoo.tokenizers.base import cut_character_bytes

pytestmark = pytest.mark.tensorflow_only

HEADS = {"classify": {"num_classes": 3}, "pair": {"num_classes": 3}, "tag": {"num_tags": 3}}
WORDS = zoo.WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"])


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize(
    ("name", "task"),
    # Each kind of layer: recurrent, dense, norms, tables tied and not; heads with and without.
    [
        ("lstm_untied", "lm"),
        pytest.param("lstm_projected", "lm", marks=pytest.mark.slow),
        ("bert_no_segments", "mlm"),
        pytest.param("bilstm_projected", "tag", marks=pytest.mark.slow),
    ],
)
def test_a_quantized_model_saves_and_loads(tmp_path, name, task):
    ids = np.random.default_rng(0).integers(1, 8, (2, 6)).astype("int32")
    if task == "lm":
        model, inputs, keywords = make_model(name), ids, {}
        tokenizer = zoo.CharacterTokenizer("abc")
    else:
        model = make_encoder(name, task, HEADS.get(task))
        inputs = {"token_ids": ids, "padding_mask": ids > 2}
        tokenizer = WORDS
        keywords = {"labels": ("O", "B-a", "I-a") if task in HEADS else ()}
    # Keras collects garbage for each weight that it replaces: all that other tests left.
    gc.freeze()
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    expected = np.array(model(inputs))
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.array(loaded(inputs)), expected)
    zoo.save(tmp_path / "bundle", model, tokenizer, **keywords)
    loaded = zoo.load(tmp_path / "bundle").model
    gc.unfreeze()
    np.testing.assert_array_equal(np.array(loaded(inputs)), expected)


def test_names_that_need_tensorflow_are_listed():
    assert {"load", "save", "build"} <= set(dir(zoo))


@pytest.mark.parametrize(
    ("name", "task", "shapes"),
    [
        ("gpt_faithful", "lm", {"backbone": (None, None, 16)}),
        ("lstm_projected", "lm", {"backbone": (None, None, 6)}),
        ("bert_modern", "classify", {"backbone": (None, None, 8), "output": (None, 3)}),
        ("bilstm", "tag", {"backbone": (None, None, 16), "output": (None, None, 3)}),
    ],
)
def test_the_summary_tells_all_shapes(name, task, shapes):
    model = make_model(name) if task == "lm" else make_encoder(name, task, HEADS[task])
    lines = []
    model.summary(expand_nested=True, print_fn=lines.append)
    table = "\n".join(lines)
    assert "?" not in table
    for layer, shape in shapes.items():
        assert re.search(rf"{layer} \(\w+\) +│ {re.escape(str(shape))} ", table)


def test_wrong_inputs_say_what_is_expected():
    model = make_model("gpt_defaults")
    encoder = make_encoder("bilstm", "embed")
    ids = np.zeros((2, 4), "int32")
    for wrong in (["a", "b"], np.array(["a"]), tf.constant(["a"]), [[1, 2], [3]]):
        for ask in (model, model.predict, model.fit, model.evaluate):
            with pytest.raises(TypeError, match=r"takes token_ids \(B, T\) int32.*For strings use"):
                ask(wrong)
        for inputs in (wrong, {"token_ids": wrong}):
            with pytest.raises(TypeError, match=r"takes a dict of inputs.*For strings use"):
                encoder.predict(inputs, verbose=0)
    with pytest.raises(TypeError, match="SentenceEncoder takes a dict of inputs"):
        encoder.predict(ids, verbose=0)
    with pytest.raises(TypeError, match=r"CausalLM takes token_ids \(B, T\) int32"):
        model({"token_ids": ids})
    for predict, inputs in ((model, ids[0]), (encoder, {"token_ids": ids[0]})):
        with pytest.raises(ValueError, match=r"token_ids of shape \(B, T\)"):
            predict(inputs)
    mask = np.ones((2, 5), "int32")
    with pytest.raises(
        ValueError, match=r"padding_mask must have the shape of token_ids, \(2, 4\)"
    ):
        encoder({"token_ids": ids, "padding_mask": mask})
    lm = TextLM(zoo.CharacterTokenizer("abc"), model)
    for ask in (lm.generate, lm.score, lm.next_token):
        with pytest.raises(ValueError, match="text takes a list of strings"):
            ask("abc")
        with pytest.raises(TypeError, match="text takes strings with one axis"):
            ask([1, 2])


def test_the_bytes_of_a_cut_character():
    whole = ["", "a", "\u00e9", "\u4f60", "\U0001f600"]
    strings = [text.encode() for text in whole] + [b"\xbd", b"\xff", b"\xc0"]
    cut = ["\u00e9".encode()[:1], b"a" + "\u4f60".encode()[:2], "\U0001f600".encode()[:3]]
    assert cut_character_bytes(tf.constant(strings + cut)).numpy().tolist() == [0] * 8 + [1, 2, 3]
    # What stands before the last one may be another: "D", then the first bytes of three characters.
    several = [b"D\xcb\xcb\xe4\xbd", b"\xcb" * 5, b"\xcba\xcb"]
    assert cut_character_bytes(tf.constant(several)).numpy().tolist() == [4, 5, 1]


@pytest.mark.usefixtures("eager_functions")  # through a graph: tests/export/test_text_ends.py
def test_a_completion_ends_with_a_whole_character():
    """The model says one character, byte by byte, for ever."""
    keras.utils.set_random_seed(0)
    config = zoo.LSTMConfig(
        vocabulary_size=257, context_length=8, num_layers=1, hidden_dim=257, tie_embeddings=False
    )
    model = zoo.build(config)
    follows = {b"a"[0]: 0xE4, 0xE4: 0xBD, 0xBD: 0xA0, 0xA0: 0xE4}
    wanted = np.zeros((257, 257), "float32")
    for byte, after in follows.items():
        wanted[byte, after] = 1
    embedding, cell = model.backbone.token_embedding, model.backbone.recurrent_layers[0].cell
    kernel, recurrent, bias = cell.kernel, cell.recurrent_kernel, cell.bias
    embedding.embeddings.assign(np.eye(257))
    recurrent.assign(np.zeros(recurrent.shape))
    # Gates of one: input and output open, forget shut, so that h is tanh(tanh(wanted)).
    kernel.assign(np.concatenate([np.zeros((257, 514)), 9 * wanted, np.zeros((257, 257))], axis=1))
    bias.assign(np.repeat([9.0, -9.0, 0.0, 9.0], 257))
    embedding.reverse_embeddings.assign(np.eye(257))
    lm = TextLM(zoo.ByteTokenizer(), model)
    prompts = [b"a", b"a", b"a", b"a", b"\xff\xe4", b"a\xe4"]
    counts = [3, 4, 5, 6, 1, 2]
    answer = lm.generate(prompts, max_new_tokens=counts, seed=1)
    you = "\u4f60".encode()
    completions = [you, you, you, you * 2, b"", you[1:]]
    assert answer["completion"].numpy().tolist() == completions
    texts = [prompt + completion for prompt, completion in zip(prompts, completions)]
    assert answer["text"].numpy().tolist() == texts
    assert answer["token_count"].numpy().tolist() == counts
