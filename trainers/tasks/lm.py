"""Tasks on running text: "lm", next tokens by a GPT or an LSTM, and "mlm", masked tokens."""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trainers.config import TrainConfig
from trainers.data import pipeline
from trainers.data.augment import mask_tokens
from trainers.data.prepare.shards import TokenStream
from trainers.distribution.rows import replica_index
from trainers.tasks.base import build_model, read_initial
from trainers.tasks.encoder import make_tokenizer
from trainers.tasks.running_text import RunningTextTask, fenced, read_corpus
from trainers.tokenizers import language_model_tokenizer
from zoo import bundle
from zoo.config import ConfigError
from zoo.models.heads import CausalLM
from zoo.text.models import TEXT_MODELS
from zoo.tokenizers import Tokenizer
from zoo.tokenizers.base import require_roles


class LanguageModelTask(RunningTextTask):
    """Next-token prediction; of weights to start from, the tokenizer and context are kept."""

    loss_unit = "nats a token"

    def __init__(self, config: TrainConfig, data_dir: str | None = None):
        self.config, data = config, config.data
        initial = read_initial(config)
        if initial is None:
            tokenizer = language_model_tokenizer(data)
            context = config.model_config().context_length
        else:
            tokenizer = initial.tokenizer
            context = config.model.get("context_length", initial.model.context_length)
        self.length = min(data.window or context, context)
        self.corpus = read_corpus(config, data_dir, tokenizer, self.length)
        self.tokenizer = self.corpus.tokenizer
        # A bad start_text should not wait for the end of training.
        start_id = _start_id(data.start_text, self.tokenizer)
        chat = None if initial is None else initial.config.chat
        self.bundle_options = {"start_id": start_id, "chat": chat}
        self.model = build_model(config, self.tokenizer, initial)
        self.carries_state = data.order == "segments"
        self.trained_model = self.model
        if self.carries_state:
            self.segment = data.segment_windows
            self.trained_model = CarriedState(self.model, config.batch_size, self.segment)
        elif data.document_mask:
            if self.tokenizer.end_id is None:
                raise ConfigError(
                    "data.document_mask needs an end-of-text token between documents, and the "
                    f"{self.tokenizer.kind} tokenizer has none"
                )
            self.trained_model = PackedDocuments(self.model, self.tokenizer.end_id)

    def validation_set(self, ids: TokenStream) -> tf.data.Dataset:
        if self.carries_state:
            return pipeline.validation_streams(ids, self.config.batch_size, self.length)
        return self.validation_windows(ids)

    def evaluate(self, logs):
        """As `RunningTextTask`, and bits a character of validation, which compares tokenizers."""
        found = super().evaluate(logs)
        per_token = self.corpus.mean(
            lambda part: part.validation_characters / (len(part.validation_ids) - 1)
        )
        found["val_bits_per_character"] = found["val_loss"] / math.log(2) / per_token
        return found

    def samples(self, saved: bundle.Bundle) -> list[str]:
        """Continuations of the config's prompts, or of the opening of the validation text."""
        config = self.config
        prompts = config.sample_prompts
        if prompts is None:
            prompts = ("", self.opening_of_validation(24))
        if not prompts:
            return []
        outputs = saved.lm.generate(
            list(prompts),
            max_new_tokens=[config.sample_tokens],
            temperature=[config.sample_temperature],
            seed=list(range(len(prompts))),
        )
        sections = [f"## Samples (temperature {config.sample_temperature})"]
        for prompt, text in zip(prompts, outputs["text"].numpy()):
            title = f"Prompt {prompt!r}:" if prompt else "No prompt:"
            sections.append(f"{title}\n\n{fenced(text.decode('utf-8', 'replace'))}")
        return sections


class MaskedLanguageModelTask(RunningTextTask):
    """Says what the masked tokens of [CLS], running text with [SEP] between documents, [SEP] are;
    masks are drawn anew at every step, and for validation once.
    """

    loss_unit = "nats a masked token"

    def __init__(self, config: TrainConfig, data_dir: str | None = None):
        self.config = config
        self.monitor  # noqa: B018  a wrong `monitor` should not wait for the first evaluation
        initial = read_initial(config)
        self.length = config.text.window_size()

        def tokenizer(texts):
            return make_tokenizer(config, initial, lambda: texts, data_dir)

        known = tokenizer if initial is None else tokenizer([])
        self.corpus = read_corpus(config, data_dir, known, self.length)
        self.tokenizer = self.corpus.tokenizer
        require_roles(self.tokenizer, "mask")
        self.special_ids = [*self.tokenizer.special_tokens.values()]
        self.model = build_model(config, self.tokenizer, initial, config.head)
        self.trained_model = self.model
        self.bundle_options = {"text": config.text}
        self.text_model = TEXT_MODELS["mlm"](self.tokenizer, self.model, config.text, ())
        if initial is not None and initial.config.task == "mlm":
            there = initial.model.head_weights()
            for weight, value in zip(self.model.head_weights(), there, strict=True):
                weight.assign(value)
        else:
            # A bias of zeros would leave the frequencies to be learned through the tied embeddings,
            # which bend towards one direction for it: text classifiers that started from such
            # weights were worse than from random ones.
            frequencies = self.token_frequencies()
            # A published embedding may have rows beyond the tokenizer's ids.
            spare = self.model.vocabulary_size - len(frequencies)
            frequencies = np.pad(frequencies, (0, spare), constant_values=frequencies.min())
            self.model.output_bias.assign(np.log(frequencies))

    def training_data(self, start_step: int, host: int = 0, num_hosts: int = 1) -> tf.data.Dataset:
        rows = pipeline.host_rows(self.config.batch_size, host, num_hosts)
        steps = tf.data.Dataset.range(start_step, self.config.steps)

        def masked(step, window):
            # Masks are drawn for a whole batch: so every host draws them, and keeps its rows.
            batch = self._masked(window[0], tf.ones_like(window[0], tf.bool), step)
            return tf.nest.map_structure(lambda part: part[rows], batch)

        windows = super().training_data(start_step)
        return pipeline.mapped(tf.data.Dataset.zip(steps, windows), masked)

    def _masked(self, ids, real, step, scale=None):
        """Inputs, labels (B, P) and weights (B, P) of windows (B, T - 2)."""
        # Weights add up to the slots: Keras' mean over slots is the mean over masked tokens.
        tokenizer, config = self.tokenizer, self.config.data.masking
        edges = [[0, 0], [1, 1]]
        padded = tf.pad(ids, edges)
        places = tf.range(self.length + 2)[None]
        padded = tf.where(places == 0, tokenizer.cls_id, padded)
        padded = tf.where(places == self.length + 1, tokenizer.sep_id, padded)
        is_special = np.isin(np.arange(tokenizer.vocabulary_size), self.special_ids)
        inside = tf.pad(real, edges) & ~tf.gather(tf.constant(is_special), padded)
        masked = mask_tokens(
            padded,
            inside,
            ~tf.gather(tf.constant(tokenizer.continuation), padded),
            seed=tf.stack([tf.constant(self.config.seed, tf.int64), step]),
            mask_id=tokenizer.mask_id,
            vocabulary_size=tokenizer.vocabulary_size,
            special_ids=self.special_ids,
            config=config,
            max_predictions=max(math.ceil(config.rate * self.length), 1),
        )
        inputs = {
            "token_ids": masked.token_ids,
            "padding_mask": tf.ones_like(inside),
            "segment_ids": tf.zeros_like(padded),
            "masked_positions": masked.positions,
        }
        if scale is None:
            slots = tf.cast(tf.size(masked.weights), tf.float32)
            scale = slots / tf.maximum(tf.reduce_sum(masked.weights), 1.0)
        return inputs, masked.labels, masked.weights * scale

    def validation_set(self, ids: TokenStream) -> tf.data.Dataset:
        numbered = self.validation_windows(ids).enumerate()

        def masked(scale):
            # Negative steps: the masks of no training step.
            return numbered.map(
                lambda step, window: self._masked(window[0], window[2] > 0, -1 - step, scale)
            )

        weights = [weight.numpy() for _, _, weight in masked(1.0)]
        slots, total = sum(w.size for w in weights), sum(float(w.sum()) for w in weights)
        # Batches are of one size, so their mean is exact with one scale for all.
        return pipeline.fixed_schedule(masked(slots / max(total, 1.0)).cache())

    def samples(self, saved: bundle.Bundle) -> list[str]:
        """The config's prompts, or the opening of the validation text, with their masks filled."""
        mask = self.tokenizer.tokens([self.tokenizer.mask_id]).numpy()[0].decode()
        prompts = self.config.sample_prompts
        if prompts is None:
            words = self.opening_of_validation(80).split(" ")
            words[len(words) // 2] = mask
            prompts = [" ".join(words)]
        prompts = [prompt for prompt in prompts if mask in prompt]
        if not prompts:
            return []
        outputs = self.text_model.fill_mask(prompts)
        filled = zip(prompts, outputs["tokens"].numpy(), outputs["probabilities"].numpy())
        lines = []
        for text, tokens, shares in filled:
            best = (f"{t.decode('utf-8', 'replace')} {p:.3f}" for t, p in zip(tokens[0], shares[0]))
            lines.append(f"{text}\n    " + ", ".join(best))
        return ["## Masks filled", fenced("\n".join(lines))]


class CarriedState(keras.Model):
    """A recurrent language model that goes on from the state of the batch before (truncated
    back-propagation through time); in training it starts anew at every segment. The states are
    variables of a checkpoint, but not of the model that is exported.
    """

    def __init__(self, model: CausalLM, batch_size: int, segment: int, **kwargs):
        super().__init__(name="carried_state", **kwargs)
        self.model = model
        self.segment = segment
        config = model.backbone.config
        shape = (config.num_layers, 2, batch_size, config.hidden_dim)
        zeros = {"initializer": "zeros", "trainable": False}
        self.train_state = self.add_weight(shape, name="train_state", **zeros)
        self.validation_state = self.add_weight(shape, name="validation_state", **zeros)
        self.step = self.add_weight((), dtype="int32", name="step", **zeros)
        self.built = True

    @property
    def row_states(self) -> tuple[keras.Variable, ...]:
        """Variables with a part for each row of the batch."""
        return self.train_state, self.validation_state

    def call(self, token_ids, training=None):
        state = self.train_state if training else self.validation_state
        carried = ops.convert_to_tensor(state)  # (L, 2, B, D)
        layers, _, batch_size, _ = state.shape
        rows = token_ids.shape[0] or batch_size
        if rows < batch_size:
            first = (0, 0, replica_index() * rows, 0)
            carried = ops.slice(carried, first, (*state.shape[:2], rows, state.shape[3]))
        if training:
            carried = carried * ops.cast(self.step % self.segment != 0, carried.dtype)
            self.step.assign(self.step + 1)
        pairs = tuple((carried[layer, 0], carried[layer, 1]) for layer in range(layers))
        backbone = self.model.backbone
        hidden, pairs = backbone.call_with_state(token_ids, pairs, training=training)
        after = ops.stack([ops.stack(pair) for pair in pairs])
        if rows < batch_size:
            # The rows of other replicas are zeros: the sum of all is the whole state.
            after = ops.slice_update(ops.zeros(state.shape, after.dtype), first, after)
        state.assign(after)
        return backbone.logits(hidden)


class ResetValidationState(keras.callbacks.Callback):
    """Starts every validation from the zero state."""

    def on_test_begin(self, logs=None):
        if isinstance(self.model, CarriedState):
            state = self.model.validation_state
            state.assign(np.zeros(state.shape, "float32"))


class PackedDocuments(keras.Model):
    """A language model whose tokens see their own document only; of ids without `document_ids` an
    end-of-text token, `end_id`, begins the next document, as in generation from an empty text.
    """

    def __init__(self, model: CausalLM, end_id: int | None = None, **kwargs):
        super().__init__(name="packed_documents", **kwargs)
        self.model = model
        self.end_id = end_id
        self.built = True

    def call(self, inputs, training=None):
        if isinstance(inputs, dict):
            return self.model(**inputs, training=training)
        ends = ops.cast(ops.equal(inputs, self.end_id), "int32")
        return self.model(inputs, document_ids=ops.cumsum(ends, axis=1), training=training)


def _start_id(start_text: str, tokenizer: Tokenizer) -> int | None:
    """Id of the one known token that `start_text` is, for "" None: the tokenizer's own."""
    if not start_text:
        return None
    ids = tokenizer.encode([start_text]).to_list()[0]
    if len(ids) != 1 or ids[0] == tokenizer.unknown_id:
        raise ConfigError(
            f"data.start_text must be one token of the training text. Received: {start_text!r}, "
            f"which is {len(ids)} token(s){' and unknown' if len(ids) == 1 else ''}"
        )
    return ids[0]
