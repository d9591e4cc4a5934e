"""Mixtures of corpora: one tokenizer, mistakes named, validated one by one, resumed exactly."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import tensorflow as tf

import zoo
from trainers.config import TrainConfig, read_config, with_overrides
from trainers.data.config import DataConfig, MixedCorpus, PrepareConfig
from trainers.data.prepare.job import prepare
from trainers.loop import train
from trainers.metrics import MetricsLog
from trainers.recorder import Preempted, Recorder
from trainers.tasks import make_task
from trainers.tasks.lm import ResetValidationState
from trainers.workdir import WorkdirError
from zoo.config import ConfigError, from_dict

TEXTS = {"numbers": "one two three four five six.\n", "letters": "abc def ghi jkl mno pqr.\n"}


@pytest.fixture
def files(tmp_path):
    paths = {}
    for place, (name, text) in enumerate(TEXTS.items()):
        path = paths[name] = tmp_path / f"{name}.txt"
        path.write_text(text * (60 + 40 * place), encoding="utf-8")
    return paths


def mixed_data(files, weights=(3, 1), **options):
    corpora = tuple(
        MixedCorpus(str(path), weight, name) for (name, path), weight in zip(files.items(), weights)
    )
    return DataConfig(train="", mixture=corpora, **{"start_text": " ", **options})


@pytest.fixture
def mixed(tiny, files):
    def config(family="gpt", data=None, **options):
        one = tiny(family, sample_prompts=(), **options)
        own = {"order": one.data.order, "segment_windows": one.data.segment_windows}
        return dataclasses.replace(one, data=data or mixed_data(files, **own))

    return config


def test_one_tokenizer_for_all(mixed):
    corpus = make_task(mixed()).corpus
    assert set(corpus.corpora) == set(TEXTS)
    for name, part in corpus.corpora.items():
        text = corpus.tokenizer.decode(part.train_ids[None]).numpy()[0].decode()
        assert text.startswith(TEXTS[name])
    assert corpus.shares == {"numbers": 0.75, "letters": 0.25}


def test_prepared_and_plain_corpora_mix(tmp_path, mixed, files):
    """The batches are those of the same ids in memory, whichever lie in shards."""
    folders = {name: tmp_path / f"prepared_{name}" for name in files}
    for place, (name, path) in enumerate(files.items()):
        data = DataConfig(train=str(path), tokenizer="byte")
        prepare(PrepareConfig(data, record_tokens=40 + 7 * place), folders[name])
    config = mixed(data=mixed_data(folders, tokenizer="byte"), steps=10)
    from_shards = make_task(config)
    for in_memory in (["letters"], ["numbers", "letters"]):
        corpora = dict(from_shards.corpus.corpora)
        for name in in_memory:
            ids = {
                part: np.concatenate([*getattr(corpora[name], part).chunks()])
                for part in ("train_ids", "validation_ids")
            }
            corpora[name] = dataclasses.replace(corpora[name], **ids)
        task = copy.copy(from_shards)
        task.corpus = dataclasses.replace(from_shards.corpus, corpora=corpora)
        assert task.fingerprint() != from_shards.fingerprint()
        for host in (0, 1):
            both = [one.training_data(3, host, 2) for one in (task, from_shards)]
            for one, other in zip(*both, strict=True):
                np.testing.assert_array_equal(one, other)
                assert one[0].shape == (2, 8)
        for name, batches in task.validation_data.items():
            for one, other in zip(batches, from_shards.validation_data[name], strict=True):
                for part, expected in zip(one, other):
                    np.testing.assert_array_equal(part, expected)


def test_prepared_corpora_decide_the_tokenizer(tmp_path, mixed, files):
    folders = {}
    for name, path in files.items():
        settings = PrepareConfig(DataConfig(train=str(path), tokenizer="character"))
        prepare(settings, tmp_path / f"prepared_{name}")
        folders[name] = tmp_path / f"prepared_{name}"
    with pytest.raises(ConfigError, match=r"corpus 'letters': .*fingerprint .*this run has"):
        make_task(mixed(data=mixed_data(folders)))
    # A text beside a prepared one is read with that one's tokenizer.
    one = mixed_data({**files, "numbers": folders["numbers"]})
    corpus = make_task(mixed(data=one)).corpus
    own = zoo.tokenizers.load_tokenizer(folders["numbers"] / "tokenizer")
    assert corpus.tokenizer.fingerprint == own.fingerprint
    assert np.any(corpus.corpora["letters"].train_ids == own.unknown_id)
    with pytest.raises(ConfigError, match=r"corpus 'numbers': data.tokenizer='bytepair'"):
        make_task(mixed(data=dataclasses.replace(one, tokenizer="bytepair", start_text="")))


def test_a_corpus_has_its_own_way_of_being_read(tmp_path, mixed, files):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"body": f"row {n} of it"}) + "\n" for n in range(60)))
    held = tmp_path / "held.txt"
    held.write_text("kept for later, " * 20)
    corpora = (
        MixedCorpus(str(files["numbers"]), validation=str(held)),
        MixedCorpus(str(rows), name="rows", split="rows", text_column="body"),
    )
    data = DataConfig(train="", mixture=corpora, start_text=" ", tokenizer="byte")
    corpus = make_task(mixed(data=data)).corpus
    numbers, rows = corpus.corpora[str(files["numbers"])], corpus.corpora["rows"]
    assert len(numbers.train_ids) == len(TEXTS["numbers"]) * 60
    assert numbers.validation_characters == len(held.read_text())
    ends = sum(
        np.sum(ids == corpus.tokenizer.end_id) for ids in (rows.train_ids, rows.validation_ids)
    )
    assert ends == 60
    assert b"row 1 of it" in corpus.tokenizer.decode(rows.train_ids[None]).numpy()[0]


# Mistakes.


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ('[{"train": "a", "weight": 0}]', r"mixture.*weight must be above 0. Received: 0"),
        ('[{"train": "a", "weight": -1}]', r"mixture.*weight must be above 0. Received: -1"),
        ('[{"train": "a", "weight": NaN}]', r"data.mixture.0.weight: .*valid number"),
        ('[{"train": "a", "weight": "2"}]', r"data.mixture.0.weight: .*valid number"),
        ('[{"train": "a", "wieght": 2}]', "unknown key 'data.mixture.0.wieght'; known keys: .*we"),
        ('[{"weight": 2}]', "missing key 'data.mixture.0.train'"),
        ('[{"train": "", "weight": 2}]', "`train` of each corpus must name a text"),
        ('[{"train": "a"}, {"train": "a"}]', "two corpora have one name; set `name`"),
        ('[{"train": "a"}, {"train": "b", "weight": 1e-6}]', "'b' is 1e-06 of all, less than one"),
        ('[{"train": "b"}]', "data.train, which is none of its corpora: set --set=data.train= as"),
        ("a:3,b:1", "data.mixture: .*Received: 'a:3,b:1'"),
    ],
)
def test_a_mistake_is_named(mixture, message):
    one = TrainConfig(recipe="t", preset="gpt_char_cpu", data=DataConfig(train="a"))
    with pytest.raises(ConfigError, match=message):
        with_overrides(one, [f"data.mixture={mixture}"])


def test_weights_made_in_python_are_checked_too():
    for weight in (float("nan"), float("inf"), 0.0, -2.0):
        with pytest.raises(ConfigError, match=r"weight"):
            MixedCorpus("a", weight)


def test_what_does_not_go_with_a_mixture(files):
    data = mixed_data(files)
    with pytest.raises(ConfigError, match=r"data.validation cannot be set with data.mixture"):
        dataclasses.replace(data, validation="held.txt")
    with pytest.raises(ConfigError, match=r"data.mixture is for running text, tasks lm and mlm"):
        TrainConfig(
            recipe="t",
            task="classify",
            preset="bert_tiny",
            data=dataclasses.replace(data, tokenizer="wordpiece"),
        )
    with pytest.raises(ConfigError, match=r"data.mixture: prepare each corpus by itself"):
        PrepareConfig(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "data.mixture: corpus 'letters': .*no file at"),
        ("", "data.mixture: corpus 'letters': .*no text in"),
        ("abc", "data.mixture: corpus 'letters': the training text has 2 tokens, fewer than"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_named(mixed, files, text, message):
    files["letters"].unlink() if text is None else files["letters"].write_text(text)
    with pytest.raises((ConfigError, OSError), match=message):
        make_task(mixed())


def test_a_mixture_is_set_by_a_flag_and_kept_in_its_file(tmp_path, mixed, files):
    value = [{"train": str(path), "weight": 2 - k} for k, path in enumerate(files.values())]
    one = with_overrides(
        mixed(data=DataConfig(train=str(files["numbers"]))), [f"data.mixture={json.dumps(value)}"]
    )
    assert [corpus.weight for corpus in one.data.mixture] == [2.0, 1.0]
    assert one.data.block() == {str(path): 2 - k for k, path in enumerate(files.values())}
    (tmp_path / "train_config.json").write_text(json.dumps(dataclasses.asdict(one)))
    assert read_config(tmp_path) == one


# Training.


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt", "lstm"])
def test_training_on_a_mixture_and_going_on(mixed, files, tmp_path, monkeypatch, family):
    """One corpus can choose the best; another weight is another run."""
    monitor = "val_loss" if family == "gpt" else "val_loss/letters"
    config = mixed(family, steps=20, monitor=monitor)
    whole = train(config, tmp_path / "whole")
    records = MetricsLog(tmp_path / "whole").read()
    for record in records:
        each = record["val_loss/numbers"], record["val_loss/letters"]
        assert record["val_loss"] == pytest.approx(0.75 * each[0] + 0.25 * each[1])
        assert record["val_bits_per_character"] == pytest.approx(
            record["val_loss"] / math.log(2), rel=0.02
        )
    report = (tmp_path / "whole" / "report.md").read_text()
    task = make_task(config)
    seen = np.concatenate([inputs.numpy() for inputs, _ in task.training_data(0)])
    letters = {*task.tokenizer.encode([TEXTS["letters"]]).to_list()[0]}
    alone = letters - {*task.tokenizer.encode([TEXTS["numbers"]]).to_list()[0]}
    count = int(np.isin(seen, [*alone]).any(axis=1).sum())
    share = f"{100 * count / len(seen):.2f} %"
    assert f"| letters | 1 | {share} | {count * 8:,} |" in report
    # Each validation loss is that of its own corpus.
    task.compile("sgd")
    best = min(records, key=lambda record: record[monitor])
    task.model.set_weights(whole.model.get_weights())
    for name, batches in task.validation_data.items():
        task.trained_model.evaluate(task.validation_data["numbers"], verbose=0)
        found = task.trained_model.evaluate(
            batches, callbacks=[ResetValidationState()], verbose=0, return_dict=True
        )
        assert found["loss"] == pytest.approx(best[f"val_loss/{name}"], rel=1e-5)

    if family == "gpt":
        other = dataclasses.replace(config, data=mixed_data(files, (1, 1)))
        with pytest.raises(WorkdirError, match=r"data.mixture: \["):
            train(other, tmp_path / "whole")

    def stop(self, batch, logs=None, original=Recorder.on_train_batch_end):
        self.interruption.requested = self.step == 12
        original(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_batch_end", stop)
        with pytest.raises(Preempted):
            train(config, tmp_path / "stopped")
    resumed = train(config, tmp_path / "stopped")
    for one, other in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    again = MetricsLog(tmp_path / "stopped").read()
    for one, other in zip(again, records, strict=True):
        for key in ("loss", "val_loss", "val_loss/letters", "val_accuracy"):
            assert one[key] == other[key]


def test_a_monitor_that_is_no_corpus_is_refused(mixed):
    with pytest.raises(ConfigError, match=r"monitor='val_loss/greek': .*val_loss/letters"):
        _ = make_task(mixed(monitor="val_loss/greek")).monitor


def test_masked_windows_of_a_mixture(files):
    data = {
        "train": "",
        "mixture": [
            {"train": str(path), "name": name, "weight": 3 - 2 * k}
            for k, (name, path) in enumerate(files.items())
        ],
        "tokenizer": "wordpiece",
        "max_vocabulary_size": 60,
    }
    config = from_dict(
        TrainConfig,
        {
            "recipe": "tiny_mlm",
            "task": "mlm",
            "preset": "bert_tiny",
            "model": {"hidden_dim": 8, "num_layers": 1, "intermediate_dim": 16},
            "text": {"max_length": 16},
            "data": data,
            "batch_size": 4,
            "steps": 2,
            "evaluate_every": 2,
            "jit_compile": False,
            "baseline": False,
        },
    )
    task = make_task(config)
    size = task.tokenizer.vocabulary_size
    frequencies = task.corpus.mean(
        lambda part: np.bincount(part.train_ids, minlength=size) / len(part.train_ids)
    )
    bias = np.exp(np.asarray(task.model.output_bias))
    tokens = sum(len(part.train_ids) for part in task.corpus.corpora.values())
    expected = (tokens * frequencies + 0.5) / (tokens + 0.5 * size)
    np.testing.assert_allclose(bias, expected, rtol=1e-5)
    hosts = [list(task.training_data(1, host, 2).as_numpy_iterator()) for host in range(2)]
    for whole, first, second in zip(task.training_data(1), *hosts, strict=True):
        parts = zip(*map(tf.nest.flatten, (whole, first, second)))
        for expected, one, other in parts:
            np.testing.assert_array_equal(expected, np.concatenate([one, other]))
    assert set(task.validation_data) == set(TEXTS)
