"""Weights of fewer bits: what they hold, and that a model of them computes as Keras computes."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from export.precision import weights
from export.precision.reduce import SMALLEST, may_depend_on_batch, reduce_bundle
from export.precision.weights import INTEGER_PRODUCT, Bfloat16Product, Bfloat16Weight, Int8Weight
from zoo.bundle import bundle_in_memory
from zoo.models.build import build
from zoo.models.lora import enable_lora, merge_lora
from zoo.tokenizers import WordPieceTokenizer

pytestmark = pytest.mark.tensorflow_only

VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnop",
    *map(str, range(60)),
]
SHAPE = {"context_length": 12, "hidden_dim": 64, "num_layers": 1, "initializer_range": 0.3}


def lm_bundle(**options):
    keras.utils.set_random_seed(1)
    family = options.pop("family", zoo.GPTConfig)
    heads = {"num_heads": 2} if family is zoo.GPTConfig else {}
    config = family(vocabulary_size=257, **{**SHAPE, **heads, **options})
    return bundle_in_memory(Path("memory"), build(config), zoo.ByteTokenizer())


def encoder_bundle(task="classify", head=None, labels=("no", "yes"), family=zoo.BertConfig):
    keras.utils.set_random_seed(1)
    extra = {"num_heads": 2} if family is zoo.BertConfig else {"bidirectional": True}
    config = family(vocabulary_size=len(VOCABULARY), **{**SHAPE, **extra})
    head = {"num_classes": 2} if task == "classify" else head
    model = build(config, task, head)
    return bundle_in_memory(Path("memory"), model, WordPieceTokenizer(VOCABULARY), labels=labels)


BUNDLES = {
    "gpt": lm_bundle,
    "gpt_untied": lambda: lm_bundle(tie_embeddings=False, use_bias=True, activation="swiglu"),
    "lstm": lambda: lm_bundle(family=zoo.LSTMConfig),
    # Its input kernel is small (8 x 256), its recurrent one is not.
    "lstm_projected": lambda: lm_bundle(family=zoo.LSTMConfig, embedding_dim=8),
    "lstm_encoder": lambda: encoder_bundle(family=zoo.LSTMConfig),
    "bert": encoder_bundle,
    "bert_mlm": lambda: encoder_bundle("mlm", labels=()),
    "bert_embed": lambda: encoder_bundle("embed", {"embedding_dim": 64}, ()),
}


def rounded(value, name, precision):
    """A weight rounded by numpy alone."""
    if value.ndim != 2 or value.size < SMALLEST:
        return value
    if precision == "bfloat16":
        return np.asarray(tf.cast(tf.cast(value, tf.bfloat16), tf.float32))
    return rounded_to_int8(value.T).T if name == "embeddings" else rounded_to_int8(value)


def rounded_to_int8(weights):  # (inputs, outputs)
    """One scale an output; wide inputs reach four times as far, in steps 32 times finer."""
    wide = wide_inputs(weights)
    largest = np.abs(weights)
    largest[wide] /= 4
    scale = largest.max(axis=0) / np.float32(127)
    fineness = np.ones((len(weights), 1), np.float32)
    fineness[wide] = 32
    return np.rint(weights / scale * fineness) * scale / fineness


def wide_inputs(weights):
    """The eighth with the largest weights, where the others' squared steps shrink by 1.3."""
    order = np.argsort(np.abs(weights).max(axis=1), kind="stable")
    rest, wide = np.split(order, [len(order) - len(order) // 8])
    squares = [len(kept) * np.sum(np.abs(weights[kept]).max(axis=0) ** 2) for kept in (order, rest)]
    return wide if squares[0] > 1.3 * squares[1] else wide[:0]


def logits(bundle, ids):
    if bundle.config.task == "lm":
        return bundle.model(ids, training=False).numpy()
    inputs = {"token_ids": ids, "padding_mask": np.ones(ids.shape, bool)}
    if getattr(bundle.model.backbone.config, "num_segments", 0) > 1:
        inputs["segment_ids"] = np.zeros_like(ids)
    return bundle.model(inputs, training=False).numpy()


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
@pytest.mark.parametrize("name", BUNDLES)
def test_a_reduced_model_is_the_float32_one_with_rounded_weights(name, precision):
    bundle = BUNDLES[name]()
    for variable in bundle.model.weights:  # a few inputs of large weights, as in trained models
        if variable.name in ("embeddings", "recurrent_kernel"):
            value = variable.numpy()
            (value.T if variable.name == "embeddings" else value)[::8] *= 3
            variable.assign(value)
    ids = np.random.default_rng(0).integers(5, 60, (3, 7)).astype("int32")
    reduced = reduce_bundle(bundle, precision)
    if precision == "int8":
        assert any(variable.name.endswith("_columns") for variable in reduced.model.weights)
    assert_reduced(reduced.model, bundle.model, precision)
    before = bundle.model.get_weights()
    got = logits(reduced, ids)
    assert got.dtype == np.float32
    for old, variable in zip(before, bundle.model.weights):
        np.testing.assert_array_equal(old, variable.numpy())  # the model given stays
        variable.assign(rounded(old, variable.name, precision))
    expected = logits(bundle, ids)
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    if multiplies_integers(bundle.model, precision):  # inputs are rounded to 7 bits
        assert error < 0.1
    elif may_depend_on_batch(bundle, precision):  # inputs are rounded, too
        assert error < 0.03
    else:
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_int8_for_a_release_without_products_of_integers_widens_the_weights():
    bundle = lm_bundle()
    ids = np.random.default_rng(0).integers(5, 60, (3, 7)).astype("int32")
    widened = reduce_bundle(bundle, "int8", serving_version="2.16.1")
    assert INTEGER_PRODUCT not in op_types(widened)
    assert INTEGER_PRODUCT in op_types(reduce_bundle(bundle, "int8"))
    for variable in bundle.model.weights:
        variable.assign(rounded(variable.numpy(), variable.name, "int8"))
    np.testing.assert_allclose(logits(widened, ids), logits(bundle, ids), rtol=2e-5, atol=2e-5)


def nodes(bundle):
    function = bundle.lm.functions["generate"].get_concrete_function()
    return [node for f in function.graph.as_graph_def().library.function for node in f.node_def]


def op_types(bundle):
    return {node.op for node in nodes(bundle)}


def test_products_are_of_integers_where_single_tokens_are_read():
    """In the loop alone, where the weights are packed: elsewhere that would be a second copy."""
    reduced = nodes(reduce_bundle(lm_bundle(), "int8"))
    products = [node for node in reduced if node.op == INTEGER_PRODUCT]
    assert len(products) == 5  # four of the block, and the vocabulary
    assert all(node.attr["is_weight_const"].b for node in products)


def assert_reduced(reduced, model, precision):
    """Nothing large stays float32, nothing small is touched."""
    large = [v for v in model.weights if is_large(v)]
    numbers = sum(np.prod(v.shape) for v in large)
    if precision == "int8":
        integers = model.backbone.weights if multiplies_integers(model, precision) else []
        integers = {id(v) for v in integers if v.name == "kernel"}
        for v in large:
            if id(v) in integers:
                continue
            inputs_first = v.numpy().T if v.name == "embeddings" else v.numpy()
            numbers += len(wide_inputs(inputs_first)) * inputs_first.shape[1]
    small = sorted((v.name, *v.shape) for v in model.weights if not is_large(v))
    kept = [v for v in reduced.weights if v.dtype == "float32"]
    added = (
        "_scale",
        "_counts",
        "_columns",
        "_offsets",
        "_factors",
        "_exact",
        "_mask",
        "_lowest",
        "_highest",
    )
    assert sorted((v.name, *v.shape) for v in kept if not v.name.endswith(added)) == small
    assert numbers == sum(np.prod(v.shape) for v in reduced.weights if v.dtype == precision)
    assert large
    assert any(v.name.endswith("_scale") for v in kept) == (precision == "int8")


def multiplies_integers(model, precision):
    """Whether dense layers of the backbone are products of integers."""
    return precision == "int8" and model.backbone.config.family == "bert"


def is_large(variable):
    return len(variable.shape) == 2 and np.prod(variable.shape) >= SMALLEST


def test_float32_is_the_bundle_itself_and_others_are_named():
    bundle = lm_bundle()
    assert reduce_bundle(bundle, "float32") is bundle
    with pytest.raises(ValueError, match=r"float32, bfloat16, int8\. Received: int4"):
        reduce_bundle(bundle, "int4")


def test_lora_factors_must_be_merged_first():
    bundle = encoder_bundle()
    enable_lora(bundle.model, rank=2)
    with pytest.raises(ValueError, match=r"merge_lora\(model\) first"):
        reduce_bundle(bundle, "int8")
    dense = next(
        layer for layer in bundle.model._flatten_layers() if hasattr(layer, "lora_kernel_b")
    )
    dense.lora_kernel_b.assign(np.ones(dense.lora_kernel_b.shape))
    ids = np.full((1, 4), 7, "int32")
    before = logits(bundle, ids)
    merge_lora(bundle.model)
    after = logits(reduce_bundle(bundle, "int8"), ids)
    np.testing.assert_allclose(after, before, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("max_length", [8, 9, 12])
def test_pairs_that_an_encoder_observes_fit_its_context(max_length):
    model = encoder_bundle("pair", {"num_classes": 2}).model
    tokenizer, text = WordPieceTokenizer(VOCABULARY), zoo.TextConfig(max_length=max_length)
    tokenizer.pair_separators = 2  # as those of RoBERTa
    options = {"labels": ("no", "yes"), "text": text}
    bundle = bundle_in_memory(Path("memory"), model, tokenizer, **options)
    ids = np.full((1, 4), 7, "int32")
    reduced = logits(reduce_bundle(bundle, "int8"), ids)
    np.testing.assert_allclose(reduced, logits(bundle, ids), atol=0.1)


def test_a_model_that_keras_quantized_is_refused():
    bundle = encoder_bundle()
    bundle.model.backbone.blocks[0].feedforward.expand.quantize("int8")
    with pytest.raises(ValueError, match="expand is quantized already"):
        reduce_bundle(bundle, "int8")


def integers(name, matrix, outputs_first):
    return Int8Weight(name, matrix, outputs_first).for_one_token()


@pytest.mark.parametrize("kind", [Int8Weight, integers, Bfloat16Weight, Bfloat16Product])
@pytest.mark.parametrize("outputs_first", [False, True])
@settings(max_examples=10)  # a graph is made for each product of integers
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_a_product_is_near_that_of_the_matrix(kind, outputs_first, inputs, outputs, rows, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(inputs, outputs)).astype("float32") * 10 ** rng.uniform(-3, 3)
    matrix[:, 0] = 0  # an output without weights
    x = rng.normal(size=(rows, 2, inputs)).astype("float32")
    weight = kind("w", matrix.T if outputs_first else matrix, outputs_first)
    got = weight.product(tf.constant(x)).numpy()
    assert got.shape == (rows, 2, outputs)
    # Half a step for each weight; for products of bfloat16 also for each input and output.
    whole = kind in (Int8Weight, integers)
    step = np.abs(matrix).max(axis=0) / 127 / 2 if whole else np.abs(matrix) * 2**-8
    bound = np.abs(x) @ np.broadcast_to(step, matrix.shape)
    if kind is integers:  # inputs in steps of the row's largest; a wide input counts fourfold
        largest = (4 if weight.weight.wide else 1) * np.abs(x).max(axis=-1, keepdims=True)
        bound = bound + largest / 63 / 126**2 / 2 * np.abs(matrix).sum(axis=0) * 1.01
    if kind is Bfloat16Product:
        bound = bound + np.abs(x) @ np.abs(matrix) * 2**-7
    assert (np.abs(got - x @ matrix) <= bound * 1.01 + 1e-6 * np.abs(x @ matrix).max()).all()


@pytest.mark.parametrize("kind", [Int8Weight, Bfloat16Weight])
@pytest.mark.parametrize("outputs_first", [False, True])
def test_pieces_give_the_product_of_the_whole(kind, outputs_first, monkeypatch):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(11, 7)).astype("float32")
    x = tf.constant(rng.normal(size=(2, 7 if outputs_first else 11)).astype("float32"))
    weight = kind("w", matrix, outputs_first)
    whole = weight.product(x).numpy()
    for piece in (1, 10, 30, 76):
        monkeypatch.setattr(weights, "_PIECE", piece)
        np.testing.assert_allclose(weight.product(x).numpy(), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outputs_first", [False, True])
def test_inputs_of_large_weights_have_two_numbers(outputs_first):
    rng = np.random.default_rng(0)
    matrix = rng.uniform(-1, 1, (33, 20)).astype("float32")
    matrix[[3, 30]] *= 3  # they and two more
    matrix[7] = 0
    weight = Int8Weight("w", matrix.T if outputs_first else matrix, outputs_first)
    held = weight.product(tf.eye(33)).numpy()
    np.testing.assert_allclose(held, rounded_to_int8(matrix), rtol=0, atol=1e-6)
    step = np.abs(np.delete(matrix, [3, 30], axis=0)).max(axis=0) / 127
    assert (np.abs(held - matrix) <= step / 2 * 1.001).all()
    assert (np.abs(held - matrix)[[3, 30]] <= step / 60).all()
    if outputs_first:
        np.testing.assert_array_equal(weight.rows(tf.range(20)).numpy(), held.T)


@pytest.mark.parametrize("kind", [Int8Weight, Bfloat16Weight])
def test_rows_of_a_table(kind):
    table = np.float32([[1, -127, 2], [0, 0, 0], [0.5, 0.25, -1.27]])
    weight = kind("w", table, outputs_first=True)
    got = weight.rows(tf.constant([[2, 1], [0, 0]])).numpy()
    np.testing.assert_allclose(got, table[[[2, 1], [0, 0]]], rtol=2**-8, atol=0.006)


def test_int8_is_symmetric_and_exact_where_it_can_be():
    weight = Int8Weight("w", np.float32([[127, 0], [-127, 0], [64, 0]]))
    assert weight.values.numpy().tolist() == [[127, 0], [-127, 0], [64, 0]]
    assert weight.scale.numpy().tolist() == [1, 1]


def test_static_shapes_survive():
    weight = Int8Weight("w", np.ones((3, 5), "float32"))

    @tf.function(input_signature=[tf.TensorSpec([None, 1, 3])])
    def product(x):
        outputs = weight.product(x)
        assert outputs.shape.as_list() == [None, 1, 5]
        return outputs

    assert product(np.ones((2, 1, 3), "float32")).shape == (2, 1, 5)


def test_large_inputs_of_an_encoder_stay_exact():
    """A few inputs ten times as large as the others would leave these a tenth of the steps."""
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(96, 40)).astype("float32")
    x = generator.normal(size=(50, 96)).astype("float32")
    large = [3, 40, 41, 90]
    x[:, large] *= 40
    expected = x @ matrix
    errors = {}
    for largest in (np.abs(x).max(axis=0), np.ones(96, "float32")):
        weight = weights.Int8Product("kernel", matrix, False, largest)
        found = weight.product(tf.constant(x)).numpy()
        errors[weight.exact] = np.abs(found - expected).max()
        bias = keras.Variable(np.arange(40, dtype="float32"))
        biased = weight.product(tf.constant(x), bias).numpy()
        np.testing.assert_allclose(biased, found + np.arange(40), rtol=1e-5, atol=1e-3)
        # A row does not depend on the others.
        # A product of float32 inputs may add in another order; that of integers is the same.
        alone = weight.product(tf.constant(x[7:8])).numpy()[0]
        np.testing.assert_allclose(alone, found[7], rtol=1e-5 if weight.exact else 0)
    assert errors[8] < 0.8 and errors[0] > 10 * errors[8]


def test_single_tokens_are_read_with_the_bias_of_the_logits():
    keras.utils.set_random_seed(1)
    config = zoo.EncoderDecoderConfig(257, 32, 1, 2, 64, logit_bias=True)
    model = build(config, "translate")
    model.backbone.logit_bias.assign(np.arange(257, dtype="float32"))
    bundle = bundle_in_memory(Path("memory"), model, zoo.ByteTokenizer())
    ids = tf.constant([[5, 6, 7]])
    found = []
    for one in (bundle, reduce_bundle(bundle, "int8")):
        decoder = one.model.decoder(ids, tf.ones_like(ids, tf.bool))
        cache = decoder.initial_cache(1, 4)
        position = tf.zeros([1], tf.int32)
        found.append(decoder.decode_token(tf.constant([256]), cache, position)[0].numpy())
    assert np.abs(found[0] - found[1]).max() < 0.5
