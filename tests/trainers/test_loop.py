"""Whole runs of tiny models: what they leave behind, and that stopping them changes nothing."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import zoo
from trainers.checkpoints import Checkpoints
from trainers.config import FineTuneConfig
from trainers.loop import train
from trainers.optim.optimizers import schedule_of
from trainers.own_data import own_config
from trainers.recorder import Recorder, TrainingDiverged
from trainers.tasks import make_task
from trainers.tasks.lm import LanguageModelTask
from trainers.workdir import WorkdirError
from zoo.config import ConfigError

TIMES = {"seconds", "cpu_seconds", "tokens_per_second"}
FAMILIES = ["gpt", "lstm"]
# What is measured when the report is written.
MEASURED = "| memory"


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_times(workdir):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in records(workdir)]


def assert_same_result(workdir, other):
    """Weights equal to the last bit, and the same log."""
    for one, two in zip(zoo.load(workdir).model.get_weights(), zoo.load(other).model.get_weights()):
        np.testing.assert_array_equal(one, two)
    assert without_times(workdir) == without_times(other)


def stop_at(monkeypatch, step, error):
    """Raises `error` in training once `step` steps are done."""
    original = Recorder.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == step:
            raise error

    monkeypatch.setattr(Recorder, "on_train_batch_end", on_train_batch_end)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """Workdirs of two uninterrupted runs."""
    workdirs = {family: tmp_path_factory.mktemp("runs") / family for family in FAMILIES}
    for family, workdir in workdirs.items():
        train(tiny(family), workdir)
    return workdirs


@pytest.mark.parametrize("family", FAMILIES)
def test_metrics(finished, family):
    lines = records(finished[family])
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert [line["tokens"] for line in lines] == [320, 640, 960]
    assert lines[-1]["val_loss"] < lines[0]["val_loss"]
    for line in lines:
        assert line["val_perplexity"] == pytest.approx(math.exp(line["val_loss"]))
        bits = line["val_loss"] / math.log(2)  # a token a character, but the first is not predicted
        assert line["val_bits_per_character"] == pytest.approx(bits, rel=0.01)
        assert 0 < line["val_accuracy"] < 1
        assert 0 < line["accuracy"] < 1
        assert line["tokens_per_second"] > 0
    assert lines[0]["seconds"] < lines[1]["seconds"] < lines[2]["seconds"]
    assert lines[0]["cpu_seconds"] < lines[2]["cpu_seconds"]
    assert lines[0]["learning_rate"] > lines[2]["learning_rate"]


def test_report(finished):
    text = (finished["gpt"] / "report.md").read_text(encoding="utf-8")
    last = records(finished["gpt"])[-1]
    assert f"{last['val_loss']:.4f} nats a token (step 30)" in text
    assert "960 tokens in 30 steps" in text
    assert "| speed | " in text and "| memory | " in text
    assert "No prompt:\n\n```text\n" in text
    assert "Prompt 'the ```':\n\n````text\nthe ```" in text, "a sample cannot end its block"
    assert re.search(r"\| 30 \| \d\.\d{4} \|", text)
    assert f"python -m export --workdir={finished['gpt']} --out=served/gpt" in text
    assert '"recipe": "tiny_gpt"' in text
    assert (finished["gpt"] / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("family", FAMILIES)
def test_tensorboard_has_the_derived_metrics(finished, family):
    events = EventAccumulator(str(finished[family] / "tensorboard" / "validation"))
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {"epoch_loss", "epoch_perplexity", "epoch_bits_per_character"} <= tags
    logged = [
        float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("epoch_perplexity")
    ]
    expected = [line["val_perplexity"] for line in records(finished[family])]
    assert logged == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bundle_has_the_logged_loss(finished, tiny, family):
    """The best weights, evaluated afresh, give the best line of the log."""
    bundle = zoo.load(finished[family])
    assert bundle.config.family == family
    task = make_task(tiny(family))
    task.compile("sgd")
    task.model.set_weights(bundle.model.get_weights())
    found = task.trained_model.evaluate(task.validation_data[""], verbose=0, return_dict=True)
    best = min(line["val_loss"] for line in records(finished[family]))
    assert found["loss"] == pytest.approx(best, rel=1e-6)
    assert bundle.lm.generate(["the "], max_new_tokens=[3])["text"].numpy()[0].startswith(b"the ")


# Of an LSTM: test_survival.py, whose runs are killed.
@pytest.mark.parametrize("family", ["gpt", pytest.param("lstm", marks=pytest.mark.slow)])
def test_stopped_and_resumed_is_as_if_never_stopped(finished, tiny, tmp_path, monkeypatch, family):
    config = tiny(family, sample_prompts=())  # the samples have no part in it
    with monkeypatch.context() as patch:
        stop_at(patch, 13, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path)
    assert Checkpoints(tmp_path).latest().step == 10
    assert not (tmp_path / "config.json").exists()
    # As if killed between the log and the checkpoint of step 20, in the middle of two files.
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 20}) + '\n{"step": 3')
    leftover = tmp_path / "checkpoints" / ".partial-x-step-00000020.npz"
    leftover.write_bytes(b"half")
    train(config, tmp_path)
    assert_same_result(tmp_path, finished[family])
    assert not leftover.exists()
    assert records(tmp_path)[-1]["seconds"] > 0


def test_a_finished_run_is_left_alone(finished, tiny):
    workdir = finished["gpt"]
    kept = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    bundle = train(tiny("gpt"), workdir)
    assert bundle.config.family == "gpt"
    changed = [p.name for p, time in kept.items() if p.stat().st_mtime_ns != time]
    assert changed in ([], ["train_config.json"])


def test_a_run_killed_before_its_report_writes_it(finished, tiny):
    """The last step is done, so there is nothing to train: only the end is made up for."""
    report = finished["lstm"] / "report.md"

    def lines():
        text = report.read_text(encoding="utf-8").splitlines()
        return [line for line in text if not line.startswith(MEASURED)]

    before = lines()
    report.unlink()
    train(tiny("lstm"), finished["lstm"])
    assert lines() == before


def test_another_text_is_refused(finished, tiny, tmp_path, monkeypatch):
    workdir = tmp_path / "copy"
    shutil.copytree(finished["gpt"], workdir)
    (workdir / "report.md").unlink()  # so that the run still has something to do
    monkeypatch.setattr(LanguageModelTask, "fingerprint", lambda task: "another")
    with pytest.raises(WorkdirError, match=r"the data at '.*text\.txt' are not those this run"):
        train(tiny("gpt"), workdir)


def test_one_changed_character_changes_the_fingerprint(tiny):
    task = make_task(tiny("gpt"))
    before, ids = task.fingerprint(), task.corpus.corpora[""].validation_ids
    ids[-1] += 1
    assert task.fingerprint() != before
    ids[-1] -= 1
    assert task.fingerprint() == before


def test_divergence_names_the_step_and_keeps_the_checkpoint(tiny, tmp_path, monkeypatch):
    original = Recorder.on_train_batch_end

    def spoil(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == 14:
            weight = self.model.trainable_variables[0]
            weight.assign(np.full(weight.shape, np.nan))

    monkeypatch.setattr(Recorder, "on_train_batch_end", spoil)
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step 15\. Nothing after step 10"):
        train(tiny("gpt"), tmp_path)
    assert Checkpoints(tmp_path).latest().step == 10
    assert [line["step"] for line in records(tmp_path)] == [10]
    assert not (tmp_path / "config.json").exists()


def test_select_last_keeps_the_last_weights(tiny, tmp_path):
    config = tiny("lstm", steps=10, evaluate_every=5, select="last", sample_prompts=())
    bundle = train(config, tmp_path)
    with np.load(Checkpoints(tmp_path).path(10)) as arrays:
        values = [arrays[name] for name in arrays.files]
    # Two carried states come first, then the model's own weights and integer seeds.
    saved = [value for value in values if value.dtype == "float32"][2:]
    for weight, value in zip(bundle.model.get_weights(), saved):
        np.testing.assert_array_equal(weight, value)
    assert "## Samples" not in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_language_model_goes_on_from_another(finished, tiny, family):
    source = zoo.load(finished[family])
    config = tiny(family, finetune=FineTuneConfig(init_from=str(finished[family])))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer="byte"))
    task = make_task(config)
    # The tokenizer and the weights are the first run's, whatever the config says of them.
    assert task.tokenizer.fingerprint == source.tokenizer.fingerprint
    for weight, there in zip(task.model.weights, source.model.weights):
        np.testing.assert_array_equal(weight, there)


def test_low_rank_factors_of_a_language_model_are_merged_into_its_bundle(finished, tiny, tmp_path):
    start = FineTuneConfig(init_from=str(finished["gpt"]), lora_rank=2)
    config = tiny("gpt", finetune=start, model={"context_length": 6}, steps=2, evaluate_every=2)
    trained, source = train(config, tmp_path / "run").model, zoo.load(finished["gpt"]).model
    assert trained.context_length == 6
    assert trained.count_params() == source.count_params()
    moved = {
        there.path
        for weight, there in zip(trained.weights, source.weights)
        if not np.array_equal(weight, there)
    }
    assert moved == {there.path for there in source.weights if "block_0" in there.path} & moved
    assert any("qkv/kernel" in path for path in moved)


@pytest.mark.slow
def test_a_lora_run_from_a_model_of_transformers_writes_its_adapter(text_file, tmp_path):
    base, fixtures = tmp_path / "base", Path(__file__).parents[1] / "zoo/fixtures/huggingface"
    for name in ("gpt2", "gpt2_lm"):
        shutil.copytree(fixtures / name, base, dirs_exist_ok=True)
    settings = ["steps=2", "evaluate_every=2", "batch_size=2", "sample_tokens=2"]
    settings += ["finetune.lora_rank=2", "optimizer.warmup_steps=0", "jit_compile=false"]
    config, _ = own_config("lm", str(text_file), settings, init_from=str(base))
    tuned = train(config, tmp_path / "run").model
    adapted = zoo.load(tmp_path / "run" / "adapter", base=base).model
    moved = 0
    for weight, there, before in zip(tuned.weights, adapted.weights, zoo.load(base).model.weights):
        np.testing.assert_allclose(weight, there, rtol=0, atol=1e-6)
        moved += not np.array_equal(weight, before)
    assert moved == 4 * tuned.backbone.config.num_layers
    assert tuned.context_length == adapted.context_length


def test_an_encoder_is_no_start_for_a_language_model(tiny, tmp_path):
    model = zoo.build("bert_tiny", "embed", vocabulary_size=5)
    zoo.save(
        tmp_path, model, zoo.WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    )
    with pytest.raises(ConfigError, match="holds an encoder"):
        make_task(tiny("gpt", finetune=FineTuneConfig(init_from=str(tmp_path))))


def test_a_damaged_log_is_written_anew_from_the_checkpoint(finished, tiny, tmp_path, warnings):
    workdir = tmp_path / "copy"
    shutil.copytree(finished["gpt"], workdir)
    (workdir / "report.md").unlink()
    log = workdir / "metrics.jsonl"
    content = log.read_bytes()
    log.write_bytes(b"\xff" + content[1:])
    train(tiny("gpt"), workdir)
    assert log.read_bytes() == content
    assert any("metrics.jsonl: missing or damaged" in message for message in warnings)


def test_damaged_weights_of_a_finished_run_are_written_anew(finished, tiny, tmp_path, warnings):
    workdir = tmp_path / "copy"
    shutil.copytree(finished["gpt"], workdir)
    weights = workdir / "model.weights.h5"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    train(tiny("gpt"), workdir)
    assert_same_result(workdir, finished["gpt"])
    assert any("model.weights.h5" in message for message in warnings)


def test_a_finished_run_says_that_its_data_or_config_changed(finished, tiny, tmp_path, monkeypatch):
    workdir = tmp_path / "copy"
    shutil.copytree(finished["gpt"], workdir)
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(WorkdirError, match=r"holds a finished run with another config:\n  seed"):
        train(tiny("gpt", seed=5), workdir)
    monkeypatch.setattr(LanguageModelTask, "fingerprint", lambda task: "another")
    with pytest.raises(WorkdirError, match=r"is finished, and the data at .* have changed since"):
        train(tiny("gpt"), finished["gpt"])


def test_a_finished_run_is_trained_longer(finished, tiny, tmp_path):
    """The first 30 steps stay; those after them have the learning rate of a run of 50."""
    workdir, longer = tmp_path / "copy", tiny("gpt", steps=50)
    shutil.copytree(finished["gpt"], workdir)
    with pytest.raises(WorkdirError, match=r"steps: 30 -> 50\n.*--extend trains it longer"):
        train(longer, workdir)
    with pytest.raises(WorkdirError, match=r"--extend changes nothing but steps"):
        train(tiny("gpt", steps=50, seed=5), workdir, extend=True)
    train(longer, workdir, extend=True)
    assert [line["step"] for line in records(workdir)] == [10, 20, 30, 40, 50]
    assert without_times(workdir)[:3] == without_times(finished["gpt"])
    rates = schedule_of(longer.optimizer, 50)
    expected = [float(rates(step)) for step in (40, 50)]
    assert [line["learning_rate"] for line in records(workdir)[3:]] == pytest.approx(expected)
    assert "made longer at step 30" in (workdir / "report.md").read_text(encoding="utf-8")
    train(longer, workdir)  # finished again: only loaded
