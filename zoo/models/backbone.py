"""What all backbones share: they are made from a config, and say so to Keras."""

import keras
from keras import ops

from zoo.config import from_dict, to_dict
from zoo.models.configs import ModelConfig, TransformerConfig


class Backbone(keras.Model):
    """Token ids (B, T) to hidden states (B, T, output_dim)."""

    config_class: type[ModelConfig]

    def __init__(self, config: ModelConfig, token_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.token_embedding = keras.layers.ReversibleEmbedding(
            config.vocabulary_size,
            token_dim,
            tie_weights=getattr(config, "tie_embeddings", True),
            embeddings_initializer=keras.initializers.RandomNormal(stddev=config.initializer_range),
            reverse_dtype="float32",
            name="token_embedding",
        )

    @property
    def output_dim(self) -> int:
        """Width of a hidden state."""
        return self.config.hidden_dim

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.output_dim)

    def logits(self, hidden):
        """Hidden states (..., D) to token logits (..., V), float32."""
        return self.token_embedding(hidden, reverse=True)

    def get_config(self):
        return {
            "config": to_dict(self.config),
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config):
        values = dict(config)
        values["config"] = from_dict(cls.config_class, values["config"], where=cls.__name__)
        if isinstance(values.get("dtype"), dict):
            values["dtype"] = keras.saving.deserialize_keras_object(values["dtype"])
        return cls(**values)


class TransformerBackbone(Backbone):
    """Embeddings and blocks; a subclass adds layers and `add_blocks`, in its weights' order."""

    def __init__(self, config: TransformerConfig, **kwargs):
        super().__init__(config, config.token_dim, **kwargs)
        self.remat = False
        if config.positions == "learned":
            self.position_embedding = self.table(config.context_length, "position_embedding")

    def table(self, rows: int, name: str) -> keras.layers.Embedding:
        """A table of embeddings that are added to those of tokens."""
        # One initializer for all: it gives each the same numbers, as trained models were begun.
        initializer = self.token_embedding.embeddings_initializer
        return keras.layers.Embedding(rows, self.config.token_dim, initializer, name=name)

    def add_blocks(self, block_class: type[keras.layers.Layer]) -> None:
        """Makes the dropout of the embeddings and the blocks."""
        config = self.config
        self.dropout = keras.layers.Dropout(config.dropout)
        count = 1 if getattr(config, "shared_layers", False) else config.num_layers
        self.blocks = [block_class(config, layer=i, name=f"block_{i}") for i in range(count)]

    def build(self, input_shape):
        # With shapes, layer by layer, so that `summary()` knows them.
        for layer in self.layers:
            if isinstance(layer, keras.layers.Embedding):
                layer.build(input_shape)
            elif not (layer.built and layer.weights):  # Keras makes dropout as built
                layer.build(self.compute_output_shape(input_shape))

    def embed(self, token_ids, positions=None):
        """Embeddings (B, T, token_dim) of ids (B, T) at positions (B, T); `None` counts from 0."""
        x = self.token_embedding(token_ids)
        if getattr(self.config, "scale_embeddings", False):
            # Rounded to what the layers compute in, as in Gemma's own code.
            x = x * ops.cast(self.output_dim**0.5, x.dtype)
        if self.config.positions == "learned":
            if positions is None:
                positions = ops.arange(ops.shape(token_ids)[1], dtype="int32")[None]  # (1, T)
            x = x + self.position_embedding(positions)
        return x

    def run_blocks(self, x, training, **arguments):
        """Hidden states (B, T, D) after all blocks; `remat` counts in training alone."""
        for index in range(self.config.num_layers):
            block = self.blocks[index % len(self.blocks)]  # all layers may share one
            if self.remat and training:
                x = rematerialized(block, x, training=training, **arguments)
            else:
                x = block(x, training=training, **arguments)
        return x


def rematerialized(block: keras.layers.Layer, x, **arguments):
    """`block(x, **arguments)`, computed again for the gradient (Chen et al., arXiv:1604.06174)."""
    # `keras.remat` alone loses gradients on TensorFlow, may not change a variable on JAX, and draws
    # other dropout the second time: weights and seeds go in as arguments, and new seeds come out.
    variables = block.variables
    state = [variable for variable in variables if not variable.trainable]
    # Arguments, too: what other layers have made of weights of theirs, as relative positions.
    floats = {name: value for name, value in arguments.items() if _is_float(value)}
    others = {name: value for name, value in arguments.items() if name not in floats}

    def inside(x, *values):
        given, values = values[: len(floats)], values[len(floats) :]
        with keras.StatelessScope(list(zip(variables, values))) as scope:
            y = block(x, **others, **dict(zip(floats, given)))
        return y, *(scope.get_current_value(variable) for variable in state)

    values = (*floats.values(), *(ops.convert_to_tensor(v) for v in variables))
    y, *after = keras.remat(inside)(x, *values)
    for variable, value in zip(state, after):
        if variable.name == "seed_generator_state":
            variable.assign(value)
    return y


def _is_float(value) -> bool:
    return ops.is_tensor(value) and "float" in keras.backend.standardize_dtype(value.dtype)
