"""A bundle with its large weights in fewer bits: what `python -m export --precision` serves."""

import dataclasses
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from export.closure.history import DEFAULT_SERVING_VERSION, registry_of
from export.precision.weights import (
    INTEGER_PRODUCT,
    Bfloat16Product,
    Bfloat16Weight,
    Float32Weight,
    Int8Weight,
    ObservedWeight,
    ReducedWeight,
)
from zoo.bundle import Bundle
from zoo.models.heads import CausalLM, Translator
from zoo.models.lstm_layer import LSTM, read_steps, real_steps

PRECISIONS = ("float32", "bfloat16", "int8")
# Smaller matrices stay float32: they weigh nothing, and what they are rounded by shows most.
SMALLEST = 4096  # values
# Rows of tokens by which an encoder's inputs are observed.
_SAMPLES, _SAMPLE_LENGTH = 16, 32
Kind = type[ReducedWeight]
Layer = keras.layers.Layer


def reduce_bundle(
    bundle: Bundle, precision: str, serving_version: str = DEFAULT_SERVING_VERSION
) -> Bundle:
    """The same bundle around a copy of its model that holds its large weights in `precision`."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"--precision must be one of {', '.join(PRECISIONS)}. Received: {precision}"
        )
    if precision == "float32":
        return bundle
    for layer in bundle.model._flatten_layers(include_self=False):
        if getattr(layer, "lora_enabled", False):
            raise ValueError("LoRA factors lie beside the weights: merge_lora(model) first")
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(f"{layer.path} is quantized already: export the model it came from")
    kind = Int8Weight if precision == "int8" else Bfloat16Weight
    # In a language model, a text is a chain of choices: with products of bfloat16 a quarter of
    # sampled texts came out otherwise in a batch than alone.
    dense = Bfloat16Product if may_depend_on_batch(bundle, precision) else kind
    has_integers = INTEGER_PRODUCT in registry_of(serving_version).ops
    writes = bundle.config.task == "lm" or bundle.config.seq2seq is not None
    if precision == "int8" and has_integers and not writes:
        dense = ObservedWeight
    # Made without weights, which it gets layer by layer: never all of them twice in float32.
    full = bundle.model
    backbone = type(full.backbone).from_config(full.backbone.get_config())
    _replace(backbone, full.backbone, lambda layer: _reduced(layer, dense, kind))
    model = type(full)(backbone, **full.head_config())
    if dense is ObservedWeight:
        model(_sample_inputs(bundle), training=False)
        _replace(backbone, backbone, _observed)
    _replace(
        model, full, lambda one: backbone if one is full.backbone else _reduced(one, kind, kind)
    )
    # Writing tokens is as exact with products of integers, and faster.
    if precision == "int8" and has_integers and bundle.config.task == "lm":
        model = StepLM(model.backbone)
    if precision == "int8" and has_integers and bundle.config.seq2seq is not None:
        model = StepTranslator(model)
    return dataclasses.replace(bundle, model=model)


def may_depend_on_batch(bundle: Bundle, precision: str) -> bool:
    """Whether answers differ from batch to batch by as much as bfloat16 is rounded."""
    return precision == "bfloat16" and not bundle.model.backbone.is_causal


class StepLM(CausalLM):
    """A language model that reads single tokens with another form of its backbone's weights."""

    def __init__(self, backbone: keras.Model):
        super().__init__(backbone)
        self._tracker.unlock()
        self.step_backbone = _step_backbone(backbone)
        self._tracker.lock()

    def decode_token(self, token_ids, cache, position, write=ops.scatter_update):
        step = self.step_backbone
        hidden, cache = step.decode(token_ids[:, None], cache, position, write=write)
        return step.logits(hidden[:, -1]), cache


class StepTranslator(Translator):
    """As `StepLM`, of a Translator or Summarizer."""

    def __init__(self, model: Translator):
        super().__init__(model.backbone)
        self.task = model.task
        self._tracker.unlock()
        self.step_backbone = _step_backbone(model.backbone)
        self._tracker.lock()

    def decoder(self, token_ids, padding_mask=None):
        decoder = super().decoder(token_ids, padding_mask)
        decoder.step_backbone = self.step_backbone
        return decoder


def _step_backbone(backbone: keras.Model) -> keras.Model:
    step = type(backbone).from_config(backbone.get_config())
    _replace(step, backbone, _for_one_token)
    return step


class ReducedLayer(Layer):
    """A layer with reduced weights, in the place of `layer`, which has them in float32."""

    def __init__(self, layer: Layer):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        self.built = True


class ReducedDense(ReducedLayer):
    """`keras.layers.Dense`."""

    def __init__(self, layer: "keras.layers.Dense | ReducedDense", kernel: ReducedWeight):
        super().__init__(layer)
        self.kernel, self.bias, self.activation = kernel, layer.bias, layer.activation

    def for_one_token(self):
        return ReducedDense(self, self.kernel.for_one_token())

    def call(self, inputs, training=None):
        outputs = ops.cast(self.kernel.product(inputs, self.bias), self.compute_dtype)
        return outputs if self.activation is None else self.activation(outputs)


class ReducedEmbedding(ReducedLayer):
    """`keras.layers.ReversibleEmbedding`, and `Embedding`, which has no projection."""

    def __init__(self, layer: Layer, table: ReducedWeight, projection: ReducedWeight):
        super().__init__(layer)
        self.table, self.projection = table, projection

    def for_one_token(self):
        return ReducedEmbedding(self, self.table, self.projection.for_one_token())

    def call(self, inputs, reverse=False):
        if reverse:
            return self.projection.product(inputs)
        return ops.cast(self.table.rows(inputs), self.compute_dtype)


class ReducedLSTM(ReducedLayer):
    """`zoo.models.lstm_layer.LSTM`, for inference: one product of inputs and of state a step."""

    def __init__(self, layer: Layer, kernel: ReducedWeight, recurrent: ReducedWeight, bias):
        super().__init__(layer)
        self.kernel, self.recurrent, self.bias = kernel, recurrent, bias

    def for_one_token(self):
        weights = self.kernel.for_one_token(), self.recurrent.for_one_token()
        return ReducedLSTM(self, *weights, self.bias)

    def call(self, inputs, state=None, padding_mask=None, rows=None, training=None):
        if state is None:
            zeros = ops.zeros((ops.shape(inputs)[1], self.bias.shape[0] // 4), self.compute_dtype)
            state = (zeros, zeros)
        state = tuple(ops.cast(part, self.compute_dtype) for part in state)
        real = real_steps(padding_mask, self.compute_dtype)
        (h, c), (hidden, _) = read_steps(self.step, inputs, state, real)
        return hidden, h, c

    def step(self, x, h, c):
        # x (B, E); h, c (B, U)
        gates = ops.add(self.kernel.product(x) + self.recurrent.product(h), self.bias)
        i, f, new, o = ops.split(gates, 4, axis=1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(new)
        return ops.sigmoid(o) * ops.tanh(c), c


def _reduced(layer: Layer, dense: Kind, kind: Kind) -> Layer | None:
    """What takes the place of a layer, itself if it is small; None where its own layers are to be
    looked at.
    """
    if isinstance(layer, ReducedLayer | ReducedWeight):
        return layer
    if not any(map(_is_worth_it, layer._flatten_layers())):
        return layer
    if isinstance(layer, keras.layers.Dense):
        return ReducedDense(layer, dense("kernel", _value(layer._kernel)))
    if isinstance(layer, keras.layers.Embedding):
        table = kind("embeddings", _value(layer._embeddings), outputs_first=True)
        projection = table
        if not getattr(layer, "tie_weights", True):  # of a ReversibleEmbedding
            matrix = np.ascontiguousarray(_value(layer.reverse_embeddings).T)
            projection = kind("reverse_embeddings", matrix, outputs_first=True)
        return ReducedEmbedding(layer, table, projection)
    if isinstance(layer, LSTM):
        reduced = (
            kind(one.name, _value(one)) if _is_large(one) else Float32Weight(one)
            for one in (layer.cell.kernel, layer.cell.recurrent_kernel)
        )
        return ReducedLSTM(layer, *reduced, layer.cell.bias)
    return None


def _is_worth_it(layer: Layer) -> bool:
    """Whether a layer is of a kind that can be reduced, and large enough."""
    weights = []
    if isinstance(layer, keras.layers.Dense):
        weights = [layer._kernel]
    elif isinstance(layer, keras.layers.Embedding):
        weights = [layer._embeddings]
    elif isinstance(layer, LSTM):
        weights = [layer.cell.kernel, layer.cell.recurrent_kernel]
    return any(map(_is_large, weights))


def _is_large(variable: keras.Variable) -> bool:
    return np.prod(variable.shape) >= SMALLEST


def _for_one_token(layer: Layer) -> Layer | None:
    """As `_reduced`, for a model that reads single tokens; other layers are shared."""
    if isinstance(layer, ReducedLayer):
        return layer.for_one_token()
    is_reduced = any(isinstance(part, ReducedLayer) for part in layer._flatten_layers())
    return None if is_reduced else layer


def _observed(layer: Layer) -> Layer | None:
    """As `_reduced`, for a model whose inputs have been observed."""
    if isinstance(layer, ReducedDense) and isinstance(layer.kernel, ObservedWeight):
        return ReducedDense(layer, layer.kernel.reduced())
    return layer if isinstance(layer, ReducedLayer) else None


def _sample_inputs(bundle: Bundle) -> dict[str, tf.Tensor]:
    """Packed tokens drawn by chance: which inputs are large hardly depends on the text."""
    text, tokenizer = bundle.text_model, bundle.tokenizer
    length = text.config.window_size(text.pairs, tokenizer.pair_separators) // (1 + text.pairs)
    shape = _SAMPLES, min(length, _SAMPLE_LENGTH)
    drawn = np.random.default_rng(0).integers(0, tokenizer.vocabulary_size, shape)
    ids = tf.RaggedTensor.from_tensor(drawn.astype(np.int32))
    return text.pack(ids, ids if text.pairs else None)


_value = ops.convert_to_numpy


def _replace(holder: Layer, source: Layer, form: Callable[[Layer], Layer | None]) -> None:
    """Puts `form` of each layer of `source` into `holder`, of the same config, which may be it."""
    was_locked = holder._tracker.locked  # as Keras leaves what is built
    holder._tracker.unlock()
    for name, value in list(vars(source).items()):
        # Variables of its own, such as a bias of the logits.
        own = getattr(holder, name, None)
        if isinstance(value, keras.Variable) and value is not own:
            setattr(holder, name, value)
            if own is not None:
                holder._tracker.untrack(own)
    for name, index, layer in list(_layers_of(source)):
        held = getattr(holder, name)
        own = held if index is None else held[index]
        new = form(layer)
        if new is None:
            _replace(own, layer, form)
        elif new is not own:
            if index is None:
                setattr(holder, name, new)
            else:
                held[index] = holder._tracker.track(new)
            holder._tracker.untrack(own)
    holder._tracker.locked, holder.built = was_locked, source.built


def _layers_of(holder: Layer) -> Iterator[tuple[str, int | None, Layer]]:
    """The layers in public attributes: name, place in a list there if it is one, layer."""
    for name, value in vars(holder).items():
        if not name.startswith("_"):
            several = enumerate(value) if isinstance(value, list) else [(None, value)]
            for index, one in several:
                if isinstance(one, Layer):
                    yield name, index, one
