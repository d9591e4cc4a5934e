"""Every task by the commands of its user: train two steps on a file, export, verify, ask.

What `trainers` writes and `export` reads is tested nowhere else from a real run. The commands'
`main` functions run in this process, where TensorFlow is imported already.
"""

import importlib
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags, logging
from absl.testing import flagsaver

import zoo
from export.golden.replay import ask_servable
from export.model_folder import CARD_FILE
from export.server.run.servable import Servable
from export.signatures import functions_of
from trainers.metrics import MetricsLog
from zoo.text.chat_form import ChatForm, Joint

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.timeout(240)]

FIXTURES = Path(__file__).parent / "zoo" / "fixtures" / "huggingface"
TEXT = "\n".join(f"{('to', 'be', 'or', 'not')[i % 4]} ada saw rome in {i} days" for i in range(40))
TABLE = "text,label,second,score\n" + "\n".join(
    f"a {'good' if i % 2 else 'bad'} film {i},{'pos' if i % 2 else 'neg'},seen {i},{1000 + i % 5}"
    for i in range(40)
)
ENTITIES = "Ada\tB-PER\nLee\tI-PER\nsaw\tO\nRome\tB-LOC\n\nBob\tB-PER\nsaw\tO\nOslo\tB-LOC\n\n" * 10
PARTS_OF_SPEECH = "Ada\tNNP\nsaw\tVBD\nin\tIN\n?\tSYM\n\nIs\tEX\nBob\tNNP\nin\tIN\n\n" * 10
PLAIN_TYPES = "Ada\tPER\nsaw\tO\nRome\tLOC\n\nBob\tPER\nleft\tO\n\n" * 10
QUESTIONS = json.dumps(
    {
        "data": [
            {
                "paragraphs": [
                    {
                        "context": f"Ada went to Rome for {i} days.",
                        "qas": [
                            {
                                "id": str(i),
                                "question": "Where did Ada go?",
                                "answers": [{"text": "Rome", "answer_start": 12 + (i == 11)}],
                            }
                        ],
                    }
                    for i in range(12)
                ]
            }
        ]
    }
)

GPT = '{"hidden_dim": 8, "num_layers": 1, "num_heads": 2, "context_length": 16}'
LSTM = '{"hidden_dim": 8, "num_layers": 1, "context_length": 8}'
BERT = GPT.replace("16}", '32, "intermediate_dim": 8}')
ENCODER = ["preset=bert_tiny", f"model={BERT}", "text.max_length=32", "data.max_vocabulary_size=80"]
BY_TAG = {"accuracy", "macro_f1"}
BY_ENTITY = {"f1", "precision", "recall", "accuracy"}
OF_TABLE = "table.csv", TABLE
TALKS = "\n".join(
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": f"What is {i}?"},
                {"role": "assistant", "content": f"{i} is {i}."},
            ]
        }
    )
    for i in range(20)
)
PAIRS = "\n".join(f"Ada saw {i} days. In Rome.\tAda vio {i}." for i in range(40))
SEQ2SEQ = [f"model={GPT.replace('16}', '32}').replace('1,', '2,')}", "data.max_vocabulary_size=280"]
# name -> recipe or task, (file, its content), settings, question, names of the scores.
TASKS = {
    "gpt": (
        "--task=lm",
        ("my.txt", TEXT),
        [f"model={GPT}"],
        {"text": ["ada"], "max_new_tokens": np.int32([3])},
        {"loss", "bits_per_character"},
    ),
    "lstm": (
        "--recipe=shakespeare_lstm_cpu",
        ("my.txt", TEXT),
        [f"model={LSTM}", 'data.start_text="\\n"'],
        {"text": ["ada"], "max_new_tokens": np.int32([3])},
        {"loss", "bits_per_character"},
    ),
    "chat": (
        "--task=chat",
        ("talks.jsonl", TALKS),
        [f"model={GPT.replace('16}', '64}')}"],
        {"text": ["ada"], "max_new_tokens": np.int32([3])},
        {"loss", "accuracy"},
    ),
    "mlm": ("--task=mlm", ("my.txt", TEXT), ENCODER, {"text": ["ada [MASK] rome"]}, {"loss"}),
    "classify": (
        "--recipe=polarity_bert",
        OF_TABLE,
        [*ENCODER, "data.test=null"],
        {"text": ["a good film"]},
        {"accuracy", "macro_f1", "mcc"},
    ),
    "pair": (
        "--task=pair",
        OF_TABLE,
        [*ENCODER, "data.test_fraction=0.1"],
        {"text": ["a good film"], "text_pair": ["seen 3"]},
        {"accuracy", "macro_f1", "mcc"},
    ),
    "regress": (
        "--task=regress",
        OF_TABLE,
        [*ENCODER, "data.test_fraction=0.1"],
        {"text": ["a good film"]},
        {"spearman", "pearson", "mse"},
    ),
    "embed": (
        "--task=embed",
        OF_TABLE,
        [*ENCODER, "data.test_fraction=0.1"],
        {"text": ["a good film"]},
        {"mrr", "accuracy@1"},
    ),
    "tag": ("--task=tag", ("my.conll", ENTITIES), ENCODER, {"text": ["Ada saw Rome"]}, BY_ENTITY),
    "tag_parts_of_speech": (
        "--task=tag",
        ("my.conll", PARTS_OF_SPEECH),
        ENCODER,
        {"text": ["Ada saw Rome"]},
        BY_TAG,
    ),
    "tag_raw": (
        "--recipe=wnut17_bert",
        ("my.conll", PLAIN_TYPES),
        [*ENCODER, "data.scheme=raw"],
        {"text": ["Ada saw Rome"]},
        BY_TAG,
    ),
    "span": (
        "--task=span",
        ("my.json", QUESTIONS),
        ["preset=bert_tiny", f"model={BERT}", "text.max_length=32", "text.max_question_length=8"]
        + ["data.test_fraction=0.1"],
        {"question": ["Where?"], "context": ["Ada went to Rome."]},
        {"f1", "exact_match"},
    ),
    "translate": (
        "--task=translate",
        ("pairs.tsv", PAIRS),
        SEQ2SEQ,
        {"text": ["Ada saw 3 days."], "max_new_tokens": np.int32([3])},
        {"bleu", "chrf"},
    ),
    "summarize": (
        "--task=summarize",
        ("pairs.tsv", PAIRS),
        SEQ2SEQ,
        {"text": ["Ada saw 3 days."], "max_new_tokens": np.int32([3])},
        {"rouge1", "rouge2", "rougeL"},
    ),
}


def quickly(*exceptions):
    """All tasks; those that another one covers by `make test-slow` alone."""
    quick = [task for task in TASKS if task not in exceptions]
    return [*quick, *(pytest.param(task, marks=pytest.mark.slow) for task in exceptions)]


TYPES = {
    "tag": {"PER", "LOC"},
    "tag_parts_of_speech": {"NNP", "VBD", "IN", "SYM", "EX"},
    "tag_raw": {"O", "PER", "LOC"},
}


@pytest.fixture(scope="module")
def command():
    """`command("trainers", "--flag=value", ...)` runs the `main` of a command in this process."""
    for name in ("trainers.__main__", "export.__main__", "export.verify"):
        try:
            importlib.import_module(name)
        except flags.DuplicateFlagError:  # both commands have a --workdir; either definition does
            delattr(flags.FLAGS, "workdir")
            importlib.import_module(name)

    def run(name, *arguments):
        module = importlib.import_module(name)
        verbosity = logging.get_verbosity()
        with flagsaver.flagsaver():
            flags.FLAGS([name, *arguments])
            # Two tiny steps and a few samples take less time than their tracing.
            tf.config.run_functions_eagerly(name == "trainers.__main__")
            try:
                return module.main([name])
            finally:
                tf.config.run_functions_eagerly(False)
                logging.set_verbosity(verbosity)

    return run


@pytest.fixture
def eager(monkeypatch):
    """Training steps without tracing, which takes longer than two tiny steps."""
    compile_ = keras.Model.compile

    def compile_eagerly(self, *args, **options):
        compile_(self, *args, **{**options, "jit_compile": False, "run_eagerly": True})

    monkeypatch.setattr(keras.Model, "compile", compile_eagerly)


@pytest.fixture
def replayed(monkeypatch):
    """The sessions in which exports replayed their golden pairs, left open to be asked more.

    A session of its own would prepare the same graphs once more.
    """
    sessions = []

    class Kept(Servable):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            sessions.append(self)

        def close(self):
            pass

    monkeypatch.setattr("export.golden.replay.Servable", Kept)
    yield sessions
    for session in sessions:
        Servable.close(session)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("task", quickly("lstm", "summarize", "tag_raw", "tag_parts_of_speech"))
def test_train_export_verify_ask(task, command, replayed, tmp_path, capsys):
    way, (file, content), settings, question, names = TASKS[task]
    data, workdir, served = tmp_path / file, tmp_path / "run", tmp_path / "served"
    data.write_text(content, encoding="utf-8")
    settings = [*settings, "steps=2", "evaluate_every=2", "batch_size=4", "jit_compile=false"]
    if way.startswith("--recipe"):
        settings += [f"data.train={data}", "optimizer.warmup_steps=0"]
    train = [
        "trainers.__main__",
        way,
        *([] if way.startswith("--recipe") else [f"--data={data}"]),
        f"--workdir={workdir}",
        "--strategy=one_device",
        *(f"--set={setting}" for setting in [*settings, "sample_tokens=2"]),
    ]
    command(*train)
    if way == "--task=pair":
        assert "reading columns 'text' and 'second' as texts, 'label' as" in capsys.readouterr().out
        command(*train)  # the same command finds the run finished
    scores = json.loads((workdir / "scores.json").read_text(encoding="utf-8"))
    report = (workdir / "report.md").read_text(encoding="utf-8")
    assert report.startswith(("**Better than the base", "**Not better than the base"))
    titles = re.findall("^#.*$", re.sub("(?s)(```+).*?\\1", "block", report), re.MULTILINE)
    assert len(titles) > 4 and not re.search("(?m)^#.*\n+#", report), "an empty heading"
    if task in ("gpt", "lstm", "mlm"):  # samples go on from the user's own text
        (prompt,) = re.findall(
            "Prompt '(.*)':" if task != "mlm" else "## Masks filled\n\n```text\n(.*)", report
        )
        text = " ".join(TEXT.split())
        assert len(prompt) > 4 and all(part.strip() in text for part in prompt.split("[MASK]"))
    kept = scores["validation"]
    record = next(line for line in MetricsLog(workdir).read() if line["step"] == kept["step"])
    if task != "classify":  # which learns n-grams after its last evaluation
        assert all(record[f"val_{name}"] == value for name, value in kept["scores"].items())
    assert names <= scores.get("model", kept["scores"]).keys()
    if task == "span":
        assert scores["left_out"] == 1 and " questions (1 more of the file left out:" in report
        assert "test questions (1 left out)" in report
    if task.startswith("tag"):
        assert kept["scores"].keys() == names
        assert scores["model"].keys() == scores["baseline"].keys() == names | {"types"}
        assert ("## Scores (entities), " in report) == (names == BY_ENTITY)
        assert set(scores["baseline"]["types"]) <= TYPES[task]
    if task in ("tag_parts_of_speech", "tag_raw"):
        # So regular that word forms tell every tag.
        assert scores["baseline"]["accuracy"] == scores["baseline"]["macro_f1"] == 1.0
        return  # a tagger's export is that of "tag"

    command("export.__main__", f"--workdir={workdir}", f"--out={served}")
    assert "golden answers verified" in capsys.readouterr().out
    if task == "classify":  # what it does for the others is what the export has just done
        assert not command("export.verify", f"--model_dir={served}", "--clients=2")
        assert "no differences" in capsys.readouterr().out
    card = (served / "1" / CARD_FILE).read_text(encoding="utf-8")
    (row,) = [line for line in card.splitlines() if line.startswith("| validation |")]
    assert f"(step {kept['step']})" in row
    assert all(f"{name} {value:.4g}" in row for name, value in kept["scores"].items())
    for who in ("model", "baseline"):
        if scores.get(who):
            assert all(f"{name} {scores[who][name]:.4g}" in card for name in names)

    texts = {k: np.array(v, object) if isinstance(v, list) else v for k, v in question.items()}
    answer = ask_servable(replayed[0], "serving_default", texts)
    if task == "chat":
        asked = {"role": "user", "content": "What is 3?"}
        talk = {k: np.array([[v, *[""] * 15]], object) for k, v in asked.items()}
        talk["max_new_tokens"] = np.int32([3])
        assert ask_servable(replayed[0], "chat", talk)["content"].shape == (1,)
    assert answer and all(len(value) == 1 for value in answer.values())
    if task == "regress":  # in the unit of the data
        assert 900 < answer["outputs"][0] < 1100


@pytest.mark.usefixtures("eager")
@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "tag", "embed", "pair"])
def test_a_student_learns_from_a_teacher(task, command, tmp_path, capsys):
    file, content = TASKS[task][1]
    data = tmp_path / file
    data.write_text(content, encoding="utf-8")
    unlabelled = tmp_path / "more.txt"
    unlabelled.write_text("a film\nsome other film\n", encoding="utf-8")
    of_all = ["steps=2", "evaluate_every=2", "batch_size=4", "jit_compile=false"]
    of_all += ["data.test_fraction=0", "baseline=false"]
    of_task = {
        "classify": ["distill.copies=1", "data.augment.delete=0.3", f"distill.texts={unlabelled}"],
        "pair": ["distill.copies=2", "data.augment.swap=0.3"],
    }
    lstm = f"model={LSTM.replace('8}', '32}')}"
    students = [f"--teacher={tmp_path / 'teacher'}", "--set=preset=lstm_encoder_cpu"]
    students += [f"--set={x}" for x in [lstm, "text.max_length=32", *of_task.get(task, [])]]
    for name, own in (("teacher", [f"--set={x}" for x in ENCODER]), ("student", students)):
        command(
            "trainers.__main__",
            f"--task={task}",
            f"--data={data}",
            f"--workdir={tmp_path / name}",
            "--strategy=one_device",
            *(f"--set={setting}" for setting in of_all),
            *own,
        )
    assert "learning from the labels and from what" in capsys.readouterr().out
    student = zoo.load(tmp_path / "student")
    assert student.model.backbone.config.family == "lstm"
    losses = [line["loss"] for line in MetricsLog(tmp_path / "student").read()]
    assert np.isfinite(losses).all()
    if task == "classify":
        assert "## N-grams" in (tmp_path / "student" / "report.md").read_text(encoding="utf-8")
        assert student.model.ngrams > 0


@pytest.mark.usefixtures("eager")
@pytest.mark.slow
@pytest.mark.parametrize("task", ["span", "embed", "tag", "mlm", "classify", "pair"])
def test_a_model_with_sentencepiece(task, command, replayed, tmp_path, capsys):
    """From XLM-R's files: its tokenizer gives what each task asks of one."""
    weights, workdir, served = (tmp_path / name for name in ("weights", "run", "served"))
    for name in ("xlm-roberta_model", "xlm-roberta"):
        shutil.copytree(FIXTURES / name, weights, dirs_exist_ok=True)
    _, (file, content), _, question, names = TASKS[task]
    data = tmp_path / file
    data.write_text(content, encoding="utf-8")
    settings = ["steps=2", "evaluate_every=2", "batch_size=4", "jit_compile=false"]
    settings += ["text.max_length=16"] + ["data.test_fraction=0.1"] * (task != "mlm")
    settings += ["text.max_question_length=4"] * (task == "span")
    if task == "embed":
        settings += ['text.prompts={"query": "the ", "passage": ""}', "data.prompt=query"]
        settings += ["text.default_prompt=passage"]
    given = [f"--task={task}", f"--data={data}", f"--init_from={weights}", f"--workdir={workdir}"]
    if task in ("classify", "pair", "embed"):
        given += ["--text_column=text", "--label_column=label"][: 1 + (task != "embed")]
        given += ["--pair_column=second"] * (task != "classify")
    command("trainers.__main__", *given, *(f"--set={setting}" for setting in settings))
    scores = json.loads((workdir / "scores.json").read_text(encoding="utf-8"))
    assert names <= scores.get("model", scores["validation"]["scores"]).keys()
    command("export.__main__", f"--workdir={workdir}", f"--out={served}")
    assert "golden answers verified" in capsys.readouterr().out
    question = {
        name: [text.replace("[MASK]", "<mask>") for text in texts]
        for name, texts in question.items()
    }
    texts = {name: np.array(texts, object) for name, texts in question.items()}
    answer = ask_servable(replayed[0], "serving_default", texts)
    bundle = zoo.load(workdir)
    ours = getattr(bundle.text_model, next(iter(bundle.text_model.functions)))(**question)
    for name, value in ours.items():
        if value.dtype == tf.string:
            assert answer[name].tolist() == value.numpy().tolist()
        else:
            np.testing.assert_allclose(answer[name], value, rtol=1e-4, atol=1e-5)
    if task == "embed":
        asked = texts | {"prompt": np.array([b"query"])}
        assert not np.allclose(
            ask_servable(replayed[0], "embed", asked)["embedding"], ours["embedding"]
        )


@pytest.mark.usefixtures("eager")
def test_a_tuned_model_still_chats(command, tmp_path):
    """The form of the chat goes from the weights to start from into the bundle, to be exported."""
    tokenizer = zoo.BytePairTokenizer.train(
        ["ada saw rome"], 270, special_tokens=["<|im_start|>", "<|im_end|>"], end="<|im_end|>"
    )
    form = ChatForm(
        {
            "start>user": Joint("<|im_start|>user\n"),
            "user>generate": Joint("<|im_end|>\n<|im_start|>assistant\n"),
        }
    )
    config = zoo.GPTConfig(tokenizer.vocabulary_size, **json.loads(GPT))
    zoo.save(tmp_path / "chats", zoo.build(config), tokenizer, chat=form)
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    settings = ["steps=2", "evaluate_every=2", "batch_size=4", "jit_compile=false"]
    settings += [f"model={GPT}", "sample_tokens=2"]
    command(
        "trainers.__main__",
        "--task=lm",
        f"--data={tmp_path}/my.txt",
        f"--init_from={tmp_path}/chats",
        f"--workdir={tmp_path}/run",
        "--strategy=one_device",
        *(f"--set={setting}" for setting in settings),
    )
    tuned = zoo.load(tmp_path / "run")
    assert tuned.config.chat == form and tuned.chat.start_id == tokenizer.end_id
    assert functions_of(tuned).keys() == {"generate", "score", "next_token", "chat"}


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("eager")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["deberta-v2", "modernbert"])
def test_a_published_encoder_is_tuned_and_served(name, command, tmp_path, capsys):
    """From transformers' files to a served classifier, and back if such files can say it."""
    fixtures = Path(__file__).parent / "zoo" / "fixtures" / "huggingface"
    weights, data, workdir = tmp_path / "theirs", tmp_path / "table.csv", tmp_path / "run"
    for folder in (f"{name}_model", name):
        shutil.copytree(fixtures / folder, weights, dirs_exist_ok=True)
    data.write_text(TABLE, encoding="utf-8")
    settings = ["steps=2", "evaluate_every=2", "batch_size=4", "jit_compile=false", "ngrams=false"]
    command(
        "trainers.__main__",
        "--task=classify",
        f"--data={data}",
        f"--init_from={weights}",
        f"--workdir={workdir}",
        "--strategy=one_device",
        *(
            f"--set={setting}"
            for setting in [*settings, "data.test_fraction=0.1", "text.max_length=16"]
        ),
    )
    tuned = zoo.load(workdir)
    assert tuned.config.labels == ("neg", "pos")
    started = zoo.load(weights).model.backbone.config
    assert tuned.model.backbone.config.layer_types == started.layer_types
    assert tuned.model.backbone.config.relative_attention == started.relative_attention
    command("export.__main__", f"--workdir={workdir}", f"--out={tmp_path / 'served'}")
    assert "golden answers verified" in capsys.readouterr().out
    assert not command("export.verify", f"--model_dir={tmp_path / 'served'}", "--clients=2")
    assert "no differences" in capsys.readouterr().out
    if name == "modernbert":  # whose classifiers there read the mean, too
        again = zoo.load(tuned.save_huggingface(tmp_path / "ours"))
        texts = ["a good film", "a bad film 7"]
        np.testing.assert_array_equal(
            again.text_model.predict(texts)["scores"], tuned.text_model.predict(texts)["scores"]
        )
