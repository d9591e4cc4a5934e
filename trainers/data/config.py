"""Where the training data comes from and how it becomes batches: part of `TrainConfig`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

from trainers.data.augment import AugmentConfig
from trainers.data.limits import Limits
from trainers.data.masking import MaskingConfig
from trainers.data.mixture import block_counts
from zoo.config import STRICT, ConfigError


def require(holds: bool, rule: str, value: Any) -> None:
    """Raises ConfigError with the rule and the value unless it holds."""
    if not holds:
        raise ConfigError(f"{rule}. Received: {value!r}")


_COLUMNS = (
    "text_column",
    "pair_column",
    "label_column",
    "id_column",
    "token_column",
    "tag_column",
)


def _columns_as_text(config: Any, *names: str) -> None:
    """A column is known by one spelling: 1 and "1" are the same setting of a run."""
    for name in names:
        if getattr(config, name) is not None:
            object.__setattr__(config, name, str(getattr(config, name)))


@dataclasses.dataclass(frozen=True)
class MixedCorpus:
    """A corpus of `data.mixture`.

    Attributes:
        train: what `data.train` takes: a file, glob, folder, address, named corpus, or a folder
            that `python -m trainers.data.prepare` made.
        weight: float above 0, its part of what is read; weights need not add up to 1.
        name: what metrics and the report call it; "" is `train`.
        validation: what to validate on, None holds out a share of `train`.
        encoding, split, pattern, max_bytes, format, text_column: as in `DataConfig`, for this
            corpus; None is what `data` says.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    train: str
    weight: float = 1.0
    name: str = ""
    validation: str | None = None
    encoding: str | None = None
    split: Literal["files", "lines", "rows"] | None = None
    pattern: str | None = None
    max_bytes: int | None = None
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "tfrecord"] | None = None
    text_column: str | int | None = None

    def __post_init__(self):
        _columns_as_text(self, "text_column")
        require(bool(self.train), "data.mixture: `train` of each corpus must name a text", "")
        usable = math.isfinite(self.weight) and self.weight > 0
        rule = f"data.mixture: the weight of {self.title!r} must be a number above 0, such as 2"
        require(usable, f"{rule} (leave the corpus out to read nothing of it)", self.weight)

    @property
    def title(self) -> str:
        """Its name, in metrics and messages."""
        return self.name or self.train


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the data comes from, how it is read, and how it becomes batches.

    Attributes:
        train: running text (tasks lm, mlm): a file, glob, folder, address or named corpus, see
            `trainers.data.sources`, or a folder that `python -m trainers.data.prepare` made;
            labelled data (the other tasks): a file or a named set, see `trainers.data.datasets`.
        validation: the same, for validation; None holds out part of `train`.
        mixture: MixedCorpus, corpora that are read in proportion to their weights, in place of
            `train`, which is "" or one of theirs (tasks lm, mlm); () reads `train` alone.
        test: labelled data that is looked at once, when training is over; None has no test.
        validation_fraction: float, share held out: of the characters of running text, of the
            examples (of each class alike) of labelled data. Defaults to 0.1.
        test_fraction: float, share of the examples held out as test examples where there is no
            `test`; 0 holds none out. Defaults to 0, and to 0.1 where `--set=data.train` takes the
            place of the data of a recipe that has a test.
        encoding: codec of the files. Defaults to "utf-8".
        invalid: "replace" puts U+FFFD for bytes that are not valid, "strict" stops.

        split: "files" makes each file of running text a document, "lines" each line, "rows" the
            `text_column` of each row (CSV, TSV, JSON lines, Parquet, TFRecord, Hugging Face).
        pattern: of the files in a folder, such as "*.txt"; None takes every file.
        max_bytes: int, reads no more running text than that; None reads all.
        start_text: one token's text, read in place of an empty prompt (task lm); "" is the
            end-of-text token, which stands before every document of a corpus of several.
        order: "windows" draws windows in random order, each once an epoch; "segments" draws
            segments of consecutive windows, and carries the state of an LSTM from one window to
            the next of its segment (truncated back-propagation through time).
        segment_windows: int, windows of a segment. Defaults to 16.
        document_mask: bool, whether tokens see those of their own document only, where a window
            holds several, and count positions from its start (a GPT, task lm). Defaults to False.

        tokenizer: "character" (Unicode code points) or "byte" (needs no training), for task lm;
            "wordpiece" for the others; "bytepair" (GPT-2's and RoBERTa's kind) or "sentencepiece"
            (a model that there is) for all.
        max_vocabulary_size: int, of a vocabulary that is trained; None keeps all characters, and
            8000 pieces.
        min_count: int, characters seen less often become unknown; byte pairs seen less often, or
            once, are not merged. Defaults to 1.
        vocabulary: what to use in place of training: a `vocab.txt` (WordPiece), a `tokenizer.json`
            or a folder with it or with `vocab.json` and `merges.txt` (byte pairs), a `.model`
            (SentencePiece, which needs it).
        vocabulary_from: further text to train an encoder's vocabulary on; None: `train` only.
        lowercase: bool, WordPiece lower-cases and strips accents. Defaults to True.

        format: of rows: "auto" by name, or "csv", "tsv", "jsonl"; of labelled data also "folders"
            and "lines", of running text also "parquet" and "tfrecord".
        text_column, pair_column, label_column: names in the header, or numbers from 0, from the
            end with a minus sign. pair_column is the second text of tasks pair, embed and, where
            given, regress.
        id_column: only checked: ids that repeat are counted in a warning; None: there are none.
        header: "first" if the first line names the columns, "none" if there are no names; "auto"
            is "none" if all columns are given by number.
        quotes: bool, whether quotes enclose fields; None: in CSV yes, in TSV no.
        token_column, tag_column: columns of a CoNLL file, by number as above or by name: of
            CoNLL-U, such as FORM and UPOS, or of a line that names them.
        separator: of those columns: "tab", "space" (any run of blanks), "auto" looks.
        scheme: of its tags: "auto", "bio", "iob1", "iob2", "bioes", or "raw" for parts of speech.
        mismatched: what becomes of answers that do not stand where the file says: "error" or
            "skip".
        buckets: lengths to which batches are padded, ascending; () makes 4 up to
            `text.max_length`. Each is compiled once.
        class_weights: "none", "balanced" (n / (classes x count)) or "sqrt" (its root).
        augment: AugmentConfig, changes to training texts, other ones every epoch; off by default.
        masking: MaskingConfig, for task mlm.
        negative_windows: float in [0, 1], share kept of the windows without the answer (task
            span). Defaults to 1.
        limits: Limits, sizes beyond which reading stops with an error.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    train: str
    mixture: tuple[MixedCorpus, ...] = ()
    validation: str | None = None
    test: str | None = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.0
    encoding: str = "utf-8"
    invalid: Literal["replace", "strict"] = "replace"

    split: Literal["files", "lines", "rows"] = "files"
    pattern: str | None = None
    max_bytes: int | None = None
    start_text: str = ""
    order: Literal["windows", "segments"] = "windows"
    segment_windows: int = 16
    document_mask: bool = False

    tokenizer: Literal["character", "byte", "wordpiece", "bytepair", "sentencepiece"] = "character"
    max_vocabulary_size: int | None = None
    min_count: int = 1
    vocabulary: str | None = None
    vocabulary_from: str | None = None
    lowercase: bool = True

    format: Literal["auto", "csv", "tsv", "jsonl", "folders", "lines", "parquet", "tfrecord"] = (
        "auto"
    )
    text_column: str | int = "text"
    pair_column: str | int | None = None
    label_column: str | int = "label"
    id_column: str | int | None = None
    header: Literal["auto", "first", "none"] = "auto"
    quotes: bool | None = None
    token_column: str | int = 0
    tag_column: str | int = -1
    separator: Literal["auto", "tab", "space"] = "auto"
    scheme: Literal["auto", "bio", "iob1", "iob2", "bioes", "raw"] = "auto"
    mismatched: Literal["error", "skip"] = "error"
    buckets: tuple[int, ...] = ()
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    masking: MaskingConfig = dataclasses.field(default_factory=MaskingConfig)
    negative_windows: float = 1.0
    limits: Limits = dataclasses.field(default_factory=Limits)

    def __post_init__(self):
        _columns_as_text(self, *_COLUMNS)
        if self.mixture:
            self._check_mixture()
        else:
            require(bool(self.train), "data.train must name a text", self.train)
        require(self.min_count >= 1, "data.min_count must be at least 1", self.min_count)
        windows = self.segment_windows
        require(windows >= 1, "data.segment_windows must be at least 1", windows)
        ascending = (
            list(self.buckets) == sorted(set(self.buckets)) and min(self.buckets, default=4) >= 4
        )
        require(ascending, "data.buckets must ascend from at least 4", self.buckets)
        share = self.negative_windows
        require(0 <= share <= 1, "data.negative_windows must be in [0, 1]", share)
        fraction = self.validation_fraction
        require(0 < fraction < 1, "data.validation_fraction must be in (0, 1)", fraction)
        fraction = self.test_fraction
        require(0 <= fraction < 1, "data.test_fraction must be in [0, 1)", fraction)

    def _check_mixture(self) -> None:
        titles = [corpus.title for corpus in self.mixture]
        require(
            len(set(titles)) == len(titles),
            "data.mixture: two corpora have one name; set `name` of one of them",
            titles,
        )
        require(
            self.train in ("", *(corpus.train for corpus in self.mixture)),
            "data.mixture is read in place of data.train, which is none of its corpora: set "
            "--set=data.train= as well",
            self.train,
        )
        require(
            self.validation is None,
            "data.validation cannot be set with data.mixture: set `validation` of its corpora",
            self.validation,
        )
        try:
            self.block()
        except ValueError as error:
            raise ConfigError(f"data.mixture: {error}") from None

    def block(self) -> dict[str, int]:
        """Name -> examples of each corpus of the mixture in every block."""
        return block_counts({corpus.title: corpus.weight for corpus in self.mixture})

    @property
    def named(self) -> str:
        """What the text is called, in messages."""
        return ", ".join(corpus.title for corpus in self.mixture) or self.train

    def corpora(self) -> dict[str, DataConfig]:
        """Name -> how each corpus of the mixture is read by itself; without one {"": self}."""
        if not self.mixture:
            return {"": self}
        return {corpus.title: self._alone(corpus) for corpus in self.mixture}

    def _alone(self, corpus: MixedCorpus) -> DataConfig:
        own = {
            field.name: getattr(corpus, field.name)
            for field in dataclasses.fields(corpus)
            if field.name not in ("name", "weight")
        }
        own = {name: value for name, value in own.items() if value is not None}
        return dataclasses.replace(self, mixture=(), **own)
