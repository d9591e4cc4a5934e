"""Tasks on tables of texts: "classify" and "pair" (labels), "regress" (numbers), "embed"."""

import abc
import json

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from keras import ops

from trainers.config import TrainConfig
from trainers.data.augment import augment_texts
from trainers.data.config import DataConfig
from trainers.data.corpus import read_documents
from trainers.data.examples import (
    class_weights,
    label_classes,
    label_ids,
    label_numbers,
    stratified_split,
)
from trainers.optim.losses import InBatchContrastiveLoss, SimilarityLoss
from trainers.report.baselines import (
    MOST_CLASSES,
    fitted_vectorizer,
    ridge_baseline,
    tfidf_baseline,
)
from trainers.report.scores import (
    Predictions,
    classification_scores,
    rank_partners,
    regression_scores,
    retrieval_scores,
)
from trainers.report.sections import (
    classification_sections,
    regression_sections,
    retrieval_sections,
)
from trainers.tasks.distillation import (
    altered_copies,
    class_scores,
    load_teacher,
    pair_vectors,
    vectors,
)
from trainers.tasks.encoder import EncoderTask, clean_all, predict_all, token_counts
from trainers.tasks.ngrams import fit_ngrams, shares
from zoo.text.config import special_count
from zoo.text.packing import pack, truncate, truncate_pair

# Probabilities are clipped here for the validation loss.
_SMALLEST = 1e-7
_NGRAM_BATCH = 256  # texts that are packed at once


class TableTask(EncoderTask):
    """Texts of a table, in windows that share the weight of their text, or pairs of texts."""

    unit = "examples"
    fingerprint_columns = ("text", "text_pair", "label")

    @abc.abstractmethod
    def targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Targets (N,) or (N, 1) and weights (N,) of the training texts."""

    def vocabulary_texts(self):
        return [*self.train.text, *(self.train.text_pair or [])]

    def encode(self):
        (targets, weights), separators = self.targets(), self.tokenizer.pair_separators
        columns = [clean_all(self.text_model, column) for column in _columns(self.train)]
        columns, targets, weights = self.with_teacher(columns, targets, weights)
        counts = [token_counts(self.tokenizer, column) for column in columns]
        if len(columns) == 1:
            windows = self.cut(counts[0])
            weights = weights[self.rows] / windows.counts.numpy()
            lengths = windows.lengths.numpy() + special_count(pairs=False)
        else:
            self.rows = np.arange(len(weights))
            lengths = counts[0] + counts[1] + special_count(True, separators)
            lengths = np.minimum(lengths, self.config.text.max_length)
        self.columns = [tf.constant(column, tf.string) for column in columns]
        self.row_targets = tf.constant(targets[self.rows])
        self.row_weights = tf.constant(weights, tf.float32)
        return lengths

    def make_batch(self, step, rows, length):
        texts = tf.gather(tf.constant(self.rows), rows)
        ids = [
            self.tokenizer.encode(self._augmented(tf.gather(column, texts), step * 2 + place))
            for place, column in enumerate(self.columns)
        ]
        if len(ids) == 1:  # augmentation may have left fewer tokens than there were
            packed, _ = self.pack_windows(rows, length, ids[0])
        else:
            added = special_count(True, self.tokenizer.pair_separators)
            packed = pack(self.tokenizer, *truncate_pair(*ids, length - added), length=length)
        return packed, tf.gather(self.row_targets, rows), tf.gather(self.row_weights, rows)

    def _augmented(self, text, number):
        augment = self.config.data.augment
        if augment.is_off or self.config.distill.copies:
            return text
        seed = tf.stack([tf.constant(self.config.seed, tf.int64), number])
        return augment_texts(text, augment, seed)

    def with_teacher(
        self, columns: list[list[bytes]], targets: np.ndarray, weights: np.ndarray
    ) -> tuple[list[list[bytes]], np.ndarray, np.ndarray]:
        """Texts, targets and weights to learn; with a teacher those of `DistillationLoss`."""
        return columns, targets, weights

    def pairs(self, examples) -> tuple[list[str], list[str]] | None:
        """Second texts of training and of `examples`, for a baseline; None without."""
        return examples.text_pair and (self.train.text_pair, examples.text_pair)


class ClassifyTask(TableTask):
    """One label for each text, or pair of texts; chosen by accuracy."""

    metrics = dict.fromkeys(("val_accuracy", "val_macro_f1", "val_mcc"), "max") | {
        "val_loss": "min"
    }
    loss_unit = "nats an example"
    baseline_method = "logistic regression on TF-IDF"
    label_option = "num_classes"
    ngrams_found = ""  # what of the logits is theirs

    def split(self, examples, share):  # of each class alike
        return stratified_split(examples.label, share, self.config.seed)

    def find_labels(self):
        labels = label_classes(self.train.label, self.train.where)
        for examples in (self.validation, self.test):
            if examples is not None:
                label_ids(examples.label, labels, examples.where)
        return labels

    def ids(self, examples) -> np.ndarray:
        """The label of each example, int32 (N,)."""
        return label_ids(examples.label, self.labels, examples.where)

    def targets(self):
        ids, how = self.ids(self.train), self.config.data.class_weights
        if how == "none":
            return ids, np.ones(len(ids), np.float32)
        return ids, class_weights(ids, len(self.labels), how)[ids]

    def with_teacher(self, columns, targets, weights):
        distill, data = self.config.distill, self.config.data
        if distill.teacher is None:
            return columns, targets, weights
        teacher = load_teacher(distill, self.config.task, self.labels)
        repeats = 1 + distill.copies
        columns = altered_copies(columns, distill.copies, data.augment, self.config.seed)
        targets, weights = np.tile(targets, repeats), np.tile(weights, repeats)
        if distill.texts is not None:
            lines = DataConfig(train=distill.texts, split="lines", limits=data.limits)
            texts = [one.text for one in read_documents(distill.texts, lines, self.data_dir)]
            columns[0] += clean_all(self.text_model, texts)
            targets = np.concatenate([targets, np.full(len(texts), -1, targets.dtype)])
            weights = np.concatenate([weights, np.ones(len(texts), weights.dtype)])
        scores = class_scores(teacher, columns, self.labels)
        return columns, np.concatenate([np.float32(targets)[:, None], scores], axis=1), weights

    def answers(self, examples) -> Predictions:
        """What is served for every example, of which little is kept: classes may be many."""
        ids = self.ids(examples)

        def keep(rows, outputs):
            return Predictions.of(ids[rows], outputs["scores"].numpy())._asdict()

        kept = predict_all(self.text_model.predict, *_columns(examples), keep=keep)
        return Predictions(*(np.array(kept[name]) for name in Predictions._fields))

    def scores(self, examples, answers):
        return classification_scores(self.ids(examples), answers)

    def validation_scores(self, answers, scores):
        loss = float(-np.log(np.maximum(answers.of_labels, _SMALLEST)).mean())
        return {"loss": loss, **{name: scores[name] for name in scores if name != "nll"}}

    def finish(self):
        if self.config.ngrams and len(self.labels) <= MOST_CLASSES:
            self._add_ngrams()

    def _add_ngrams(self) -> None:
        """Adds logistic regression on n-grams to the head; validation chooses the shares."""
        # Copies and texts without labels stand behind.
        rows, size = np.flatnonzero(self.rows < len(self.train)), self.config.text.max_length
        targets, weights = self.targets()
        windows = np.bincount(self.rows)
        batches = []
        for start in range(0, len(rows), _NGRAM_BATCH):
            part = rows[start : start + _NGRAM_BATCH]
            ids = self.tokenizer.encode(tf.gather(self.columns[0], self.rows[part]))
            packed, _ = self.pack_windows(part, size, ids)
            batches.append({name: packed[name].numpy() for name in ("token_ids", "padding_mask")})
        texts = self.rows[rows]
        known = targets[texts], weights[texts] / windows[texts]
        fitted = fit_ngrams(batches, *known, self.model.backbone.config.vocabulary_size)
        if fitted is None:
            return
        keys, kernel, bias = fitted
        output, ids = self.model.output_layer, self.ids(self.validation)
        network, alone = self._validation_logits()
        learned = output.get_weights()
        self.model.add_ngrams(keys, kernel)
        output.set_weights([np.zeros(output.kernel.shape), bias])
        self.text_model, self.bundle_options = self.make_text_model(None)
        of_network, of_ngrams = shares(network, self._validation_logits()[0], ids)
        values = zip(learned, output.get_weights())
        output.set_weights([of_network * old + of_ngrams * new for old, new in values])
        self.model.ngram_logits.set_weights([keys, of_ngrams * kernel])
        self.finished_scores = self.evaluate({})
        self.ngrams_found = (
            f"The logits are {of_network:.2f} times the network's and {of_ngrams:.2f} times those "
            f"of logistic regression on {len(keys):,} tokens and token pairs, as the validation "
            f"{self.unit} chose; their accuracy is {self.finished_scores['val_accuracy']:.4f}, by "
            f"the network alone {alone:.4f}. The evaluations below are of the network alone."
        )
        logging.info(self.ngrams_found)

    def _validation_logits(self) -> tuple[np.ndarray, float]:
        """Logits (N, C) of the validation texts, up to a constant a text, and their accuracy."""
        scores = np.array(predict_all(self.text_model.predict, self.validation.text)["scores"])
        accuracy = np.mean(scores.argmax(axis=1) == self.ids(self.validation))
        return np.log(np.maximum(scores, _SMALLEST)), float(accuracy)

    def baseline(self, examples):
        train, classes, pairs = self.train, self.labels, self.pairs(examples)
        if len(classes) > MOST_CLASSES:
            message = "no baseline: logistic regression of %d classes needs too much memory"
            logging.warning(message, len(classes))
            return None
        guesses = tfidf_baseline(train.text, train.label, examples.text, classes, pairs)
        ids = self.ids(examples)
        return classification_scores(ids, Predictions.of(ids, guesses))

    def sections(self, comparison, examples, answers, folder):
        ids, labels = self.ids(examples), self.labels
        sections = classification_sections(comparison, examples, ids, answers, labels, folder)
        return [*sections, *([f"## N-grams\n\n{self.ngrams_found}"] if self.ngrams_found else [])]


class RegressTask(TableTask):
    """A number for each text, or pair of texts; chosen by Spearman's rank correlation. Trained on
    targets of mean 0 and variance 1; the saved model answers in the data's own unit.
    """

    metrics = {"val_spearman": "max", "val_pearson": "max", "val_loss": "min"}  # noqa: RUF012
    baseline_method = "ridge regression on TF-IDF"

    def targets(self):
        self.numbers = _numbers(self.train)
        # What makes the model's outputs numbers in the data's unit.
        self.mean, self.scale = float(np.mean(self.numbers)), float(np.std(self.numbers)) or 1.0
        targets = ((self.numbers - self.mean) / self.scale)[:, None]
        return targets, np.ones(len(targets), np.float32)

    def losses(self):
        return {"loss": keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")}

    def answers(self, examples):
        outputs = predict_all(self.text_model.predict, *_columns(examples))["outputs"]
        return np.array(outputs) * self.scale + self.mean

    def scores(self, examples, answers):
        return regression_scores(_numbers(examples), answers)

    def validation_scores(self, answers, scores):
        return {"loss": scores["mse"], **scores}

    def save(self, workdir):  # not `finish`: an adapter of low-rank factors has the head, too
        layer = self.model.output_layer
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel * self.scale, bias * self.scale + self.mean])
        self.mean, self.scale = 0.0, 1.0
        return super().save(workdir)

    def baseline(self, examples):
        train, pairs = self.train, self.pairs(examples)
        guesses = ridge_baseline(train.text, self.numbers, examples.text, pairs)
        return regression_scores(_numbers(examples), guesses)

    def sections(self, comparison, examples, answers, folder):
        return regression_sections(comparison, examples, _numbers(examples), answers)


class EmbedTask(EncoderTask):
    """Pairs of texts, such as question and answer, get vectors that are near, told from the other
    rows of the batch; chosen by how often the partner is found first in all of validation.
    """

    metrics = {"val_mrr": "max", "val_accuracy@1": "max", "val_loss": "min"}  # noqa: RUF012
    unit = "pairs"
    fingerprint_columns = ("text", "text_pair")
    baseline_method = "cosine of TF-IDF"

    def __init__(self, config: TrainConfig, data_dir: str | None = None):
        # Here and not in the config: with --task and --data it is made before `text` is set.
        for field in ("prompt", "pair_prompt"):
            if name := getattr(config.data, field):
                config.text.require_prompt(f"data.{field}", name)
        super().__init__(config, data_dir)
        self.trained_model = PairedEmbeddings(self.model)

    def make_text_model(self, initial):
        before, text = initial and initial.config.text, self.config.text
        if before is not None and before.prompts and not text.prompts:
            logging.warning(
                "%s has prompts, which this run leaves out; --set=text.prompts='%s' keeps them",
                self.config.finetune.init_from,
                json.dumps(before.prompts, ensure_ascii=False),
            )
        return super().make_text_model(initial)

    def vocabulary_texts(self):
        return [*self.train.text, *self.train.text_pair]

    def encode(self):
        columns = [clean_all(self.text_model, column) for column in _columns(self.train)]
        before = [self.config.text.prompts.get(name, "").encode() for name in self._prompts()]
        prompted = [[start + text for text in column] for start, column in zip(before, columns)]
        self.columns = [tf.constant(column, tf.string) for column in prompted]
        distill, data = self.config.distill, self.config.data
        if distill.teacher is not None:
            names = {"data.prompt": data.prompt, "data.pair_prompt": data.pair_prompt}
            teacher = load_teacher(distill, "embed")
            self.wanted = tf.constant(pair_vectors(teacher, columns, prompted, names))
        longest = np.maximum(*(token_counts(self.tokenizer, column) for column in prompted))
        return np.minimum(longest + special_count(pairs=False), self.config.text.max_length)

    def make_batch(self, step, rows, length):
        pair = tf.stack([tf.gather(column, rows) for column in self.columns], axis=1)  # (B, 2)
        # Partners lie side by side, so that a batch may be cut between pairs for several devices.
        ids = self.tokenizer.encode(tf.reshape(pair, [-1]))
        ids = truncate(ids, length - special_count(pairs=False))
        packed = pack(self.tokenizer, ids, length=length)
        inputs = {
            name: tf.reshape(value, tf.stack([-1, 2, length])) for name, value in packed.items()
        }
        ones = tf.ones_like(rows, tf.float32)
        if self.config.distill.teacher is not None:
            return inputs, tf.gather(self.wanted, rows), ones
        return inputs, tf.zeros_like(ones), ones

    def _prompts(self) -> list[str]:
        """The name of each column's prompt, "" without one."""
        data, default = self.config.data, self.config.text.default_prompt or ""
        return [default if n is None else n for n in (data.prompt, data.pair_prompt)]

    def losses(self):
        if self.config.distill.teacher is not None:
            return {"loss": SimilarityLoss(reduction="mean_with_sample_weight")}
        temperature = self.config.temperature
        return {"loss": InBatchContrastiveLoss(temperature, reduction="mean_with_sample_weight")}

    def answers(self, examples) -> list[np.ndarray]:
        """Vectors (N, D) of the texts and of their partners."""
        # Without prompts the model has no such option.
        prompts = self._prompts() if self.config.text.prompts else ()
        return vectors(self.text_model, _columns(examples), prompts)

    def scores(self, examples, answers):
        return retrieval_scores(rank_partners(*answers)[0])

    def validation_scores(self, answers, scores):
        each = InBatchContrastiveLoss(self.config.temperature, reduction=None)
        losses = each(np.zeros(len(answers[0])), np.stack(answers, axis=1))
        return {"loss": float(np.mean(ops.convert_to_numpy(losses))), **scores}

    def baseline(self, examples):
        found = map(fitted_vectorizer(self.vocabulary_texts()).transform, _columns(examples))
        return retrieval_scores(rank_partners(*found)[0])

    def sections(self, comparison, examples, answers, folder):
        return retrieval_sections(comparison, examples, *rank_partners(*answers))


class PairedEmbeddings(keras.Model):
    """A SentenceEncoder over pairs: inputs (B, 2, T) to vectors (B, 2, D)."""

    def __init__(self, model: keras.Model, **kwargs):
        super().__init__(name="paired_embeddings", **kwargs)
        self.model = model
        self.built = True

    def call(self, inputs, training=None):
        flat = {name: ops.reshape(v, (-1, ops.shape(v)[-1])) for name, v in inputs.items()}
        vectors = self.model(flat, training=training)  # (2B, D)
        return ops.reshape(vectors, (-1, 2, vectors.shape[-1]))


def _columns(examples) -> list[list[str]]:
    return [examples.text] if examples.text_pair is None else [examples.text, examples.text_pair]


def _numbers(examples) -> np.ndarray:
    return label_numbers(examples.label, examples.where)
