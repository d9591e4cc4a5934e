"""One's own file: what it holds is found and told, and mistakes say what to do."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from trainers.own_data import own_config
from trainers.tasks import make_task
from zoo.config import to_dict

REVIEWS = [
    (f"a {'good' if i % 3 else 'bad'} film; number {i}", i % 3 + 1, f"seen {i} times", i % 7 / 2)
    for i in range(150)
]


@pytest.fixture
def reviews(tmp_path):
    """`reviews(separator, encoding)`: a table with names of columns."""

    def write(separator=",", encoding="utf-8", header=True):
        lines = ["number;review;stars;note;length".replace(";", separator)] if header else []
        for number, (text, stars, note, length) in enumerate(REVIEWS):
            cells = [str(number), f'"{text} é"', str(stars), note, str(length)]
            lines.append(separator.join(cells))
        path = tmp_path / "reviews.csv"
        path.write_text("\n".join(lines), encoding=encoding)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("separator", "encoding", "name"),
    [(",", "utf-8", "comma"), (";", "cp1252", "semicolon"), ("\t", "utf-16", "tab")],
)
def test_separator_encoding_header_and_columns_are_found(reviews, separator, encoding, name):
    config, lines = own_config("classify", reviews(separator, encoding))
    data = config.data
    assert (data.separator, data.encoding, data.header) == (name, encoding, "first")
    assert (data.text_column, data.label_column) == ("review", "stars")
    told = "\n".join(lines)
    assert "reading column 'review' as text, 'stars' as label; change with --text_column=" in told
    assert "3 classes: 1, 2, 3" in told and "150 examples" in told
    assert "no --init_from" in told
    assert data.test_fraction == 0.1 and config.steps % config.evaluate_every == 0
    assert (config.task, config.sample_prompts) == ("classify", None)


def test_the_same_command_gives_the_same_config(reviews):
    path = reviews()
    one, other = (own_config("classify", path, ["steps=20"])[0] for _ in range(2))
    assert to_dict(one) == to_dict(other)
    assert (one.steps, one.evaluate_every, one.optimizer.warmup_steps) == (20, 20, 2)
    own, _ = own_config("classify", path, ["steps=20", "optimizer.warmup_steps=7"])
    assert own.optimizer.warmup_steps == 7


def test_columns_may_be_given_by_name_or_number(reviews):
    path = reviews()
    config, _ = own_config("classify", path, text_column="note", label_column="2")
    assert (config.data.text_column, config.data.label_column) == ("note", "2")
    pair, lines = own_config("pair", path, pair_column="note")
    assert (pair.data.text_column, pair.data.pair_column) == ("review", "note")
    assert "'review' and 'note' as texts, 'stars' as label" in "\n".join(lines)
    embed, _ = own_config("embed", path, text_column="note", pair_column="review")
    assert (embed.data.text_column, embed.data.pair_column) == ("note", "review")
    regress, _ = own_config("regress", path, label_column="length")
    assert regress.data.label_column == "length" and not regress.text.pairs


def published(folder, hidden=384, layers=6, vocabulary=30522, **fields):
    """A folder with the config of a BERT of transformers, which is all that is read of one here."""
    fields = {"max_position_embeddings": 512, "architectures": ["BertModel"]} | fields
    fields |= {"model_type": "bert", "hidden_size": hidden, "num_attention_heads": hidden // 32}
    fields |= {"num_hidden_layers": layers, "vocab_size": vocabulary}
    fields["intermediate_size"] = 4 * hidden
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields))
    return str(folder)


@pytest.mark.parametrize(
    ("shape", "rate", "freeze"),
    [
        ((384, 6, 30522), 2e-4, "none"),  # MiniLM
        ((384, 12, 250037), 2e-4, "embeddings"),  # multilingual E5
        ((128, 2, 30522), 3e-4, "none"),
        ((768, 12, 30522), 5e-5, "none"),  # BERT base
        ((768, 12, 250002), 5e-5, "embeddings"),  # XLM-R's width and vocabulary
        ((1024, 24, 30522), 2.8e-5, "none"),
    ],
)
def test_the_shape_of_the_weights_to_start_from_decides_how_they_are_tuned(
    reviews, tmp_path, shape, rate, freeze
):
    start = published(tmp_path / "start", *shape)
    config, lines = own_config("classify", reviews(), init_from=start)
    assert config.finetune.init_from == start and config.finetune.freeze == freeze
    assert config.optimizer.learning_rate == pytest.approx(rate, rel=0.02) and not config.model
    assert config.optimizer.schedule == "linear" and config.optimizer.final_fraction == 0
    assert not any("no --init_from" in line for line in lines)
    told = "\n".join(lines)
    assert f"learning rate {rate:.2g}" in told
    assert ("finetune.freeze=none" in told) == (freeze != "none")
    lora, _ = own_config("classify", reviews(), ["finetune.lora_rank=2"], init_from=start)
    assert lora.finetune.freeze == "none"


def test_the_weights_decide_whether_capital_letters_count(tmp_path):
    conll = tmp_path / "names.conll"
    conll.write_text("Ada\tB-PER\nsaw\tO\nRome\tB-LOC\n\n" * 12, encoding="utf-8")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ada", "saw", "Ada"]
    for lowercase, found in ((True, 5), (False, 7)):
        tokenizer, start = zoo.WordPieceTokenizer(pieces, lowercase=lowercase), tmp_path / "start"
        model = zoo.build("bert_tiny", "mlm", vocabulary_size=8, num_layers=1, hidden_dim=8)
        zoo.save(start, model, tokenizer, text=zoo.TextConfig(max_length=16))
        task = make_task(own_config("tag", str(conll), init_from=str(start))[0])
        inputs, *_ = next(iter(task.training_data(0)))
        assert (
            found in inputs["token_ids"].numpy() and 12 - found not in inputs["token_ids"].numpy()
        )


def test_few_rows_are_read_more_often_and_long_texts_by_windows(tmp_path):
    start, path = published(tmp_path / "start", max_position_embeddings=64), tmp_path / "t.csv"

    def chosen(rows, words):
        lines = [f"{'word ' * words}{n},{'ab'[n % 2]}" for n in range(rows)]
        path.write_text("\n".join(["text,label", *lines]))
        return own_config("classify", str(path), init_from=start)[0]

    few, some, many = (chosen(rows, 20) for rows in (100, 3000, 40000))
    assert few.text.max_length == 64
    epochs = [one.steps * 32 / rows for one, rows in ((few, 100), (some, 3000), (many, 40000))]
    assert epochs[0] > 10 > epochs[1] == pytest.approx(4, rel=0.1) and epochs[2] < 1
    assert some.optimizer.learning_rate == few.optimizer.learning_rate == 2e-4
    assert many.optimizer.learning_rate == 1e-4
    assert chosen(8000, 20).steps * 32 / 8000 == pytest.approx(2, rel=0.1)
    long = chosen(1000, 150)  # at most as long as the weights have positions
    assert long.text.max_length == 64 and long.steps > 2 * chosen(1000, 20).steps


def test_running_text_tags_and_questions(tmp_path):
    text = tmp_path / "book.txt"
    text.write_text("To be, or not to be.\n" * 200, encoding="utf-8")
    config, lines = own_config("lm", str(text))
    assert config.data.start_text == "\n" and config.preset == "gpt_char_cpu"
    assert "4,200 characters" in "\n".join(lines)
    assert own_config("mlm", str(text))[0].data.tokenizer == "wordpiece"
    conll = tmp_path / "names.conll"
    conll.write_text("Ada\tB-PER\nsaw\tO\nRome\tB-LOC\n\n" * 12, encoding="utf-8")
    config, lines = own_config("tag", str(conll))
    assert not config.data.lowercase and "12 examples" in "\n".join(lines)
    conllu = tmp_path / "words.conllu"
    row = "\t_\t_\t0\troot\t_\t_\n"
    sentence = f"1\tIt\t_\tPRON{row}2\truns\t_\tVERB{row}\n"
    conllu.write_text(sentence * 12, encoding="utf-8")
    config, _ = own_config("tag", str(conllu))
    assert (config.data.token_column, config.data.tag_column) == ("FORM", "UPOS")
    answers = [{"text": "Rome", "answer_start": 11}]
    paragraphs = [
        {
            "context": f"Ada was in Rome for {i} days.",
            "qas": [{"id": str(i), "question": "Where?", "answers": answers}],
        }
        for i in range(9)
    ]
    squad = tmp_path / "questions.json"
    squad.write_text(json.dumps({"version": "1", "data": [{"paragraphs": paragraphs}]}))
    config, _ = own_config("span", str(squad))
    assert config.task == "span" and config.data.test_fraction == 0
    assert config.data.negative_windows == 1 and config.text.stride is None
    long = squad.read_text().replace("days.", "days." + " on" * 400)
    squad.write_text(long)
    assert own_config("span", str(squad))[0].text.max_length == 384
    config, _ = own_config("span", str(squad), init_from=published(tmp_path / "start"))
    assert (config.text.max_length, config.text.stride) == (192, 144)
    assert config.data.negative_windows == 0.25
    settings = ["text.max_length=100", "data.negative_windows=1"]
    config, _ = own_config("span", str(squad), settings, init_from=str(tmp_path / "start"))
    assert (config.text.max_length, config.text.stride) == (100, None)
    assert config.data.negative_windows == 1
    with pytest.raises(ValueError, match="--task=span"):
        own_config("classify", str(squad))


@pytest.mark.parametrize(
    ("task", "content", "options", "message"),
    [
        ("classify", "", {}, "empty"),
        ("classify", "text,label\n" + "a b,x\n" * 9, {"label_column": "label"}, "--label_column="),
        ("classify", "text,label\na b,x\nc d,y\n", {"text_column": "txt"}, "Did you mean 'text'"),
        (
            "classify",
            "text,label\na b,x\nc d,y\n",
            {"label_column": "stars"},
            "are 'text', 'label'",
        ),
        (
            "classify",
            "text,price\n" + "".join(f"a b {i},{i * 1.5}\n" for i in range(60)),
            {"label_column": "price"},
            "--task=regress",
        ),
        ("regress", "text,label\na b,x\nc d,y\n", {}, "--task=classify"),
        ("pair", "text,label\na b,x\nc d,y\n", {}, "--pair_column="),
        ("classify", "one text\nand another\n", {}, "plain text is for --task=lm"),
        ("poem", "text,label\na b,x\nc d,y\n", {}, "use one of lm"),
    ],
)
def test_mistakes_say_what_to_do(tmp_path, task, content, options, message):
    path = tmp_path / ("table.txt" if content.startswith("one") else "table.csv")
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        own_config(task, str(path), **options)


def test_globs_folders_and_settings_of_the_data(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("to be or not\n" * 50, encoding="utf-8")
    config, lines = own_config("lm", f"{tmp_path}/*.txt", ["data.max_bytes=1000"])
    assert config.data.max_bytes == 1000 and "1,000 characters" in "".join(lines)
    assert own_config("lm", str(tmp_path), ["data.tokenizer=byte"])[0].data.tokenizer == "byte"
    for label in ("good", "bad"):
        (tmp_path / "all" / label).mkdir(parents=True)
        for number in range(9):
            (tmp_path / "all" / label / f"{number}.txt").write_text(f"so {label} {number}")
    config, lines = own_config("classify", str(tmp_path / "all"))
    assert config.data.format == "folders" and "2 classes: bad, good" in lines


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        own_config("classify", str(tmp_path / "none.csv"))
    with pytest.raises(ValueError, match="is a folder"):
        own_config("tag", str(tmp_path))


def test_an_address_is_read_as_a_file_is(reviews, tmp_path, monkeypatch):
    """For every task: `find_files` knows addresses, and so does the look at the file."""
    path = Path(reviews())
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    address = f"{path.as_uri()}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"
    monkeypatch.setattr("trainers.own_file.ADDRESSES", ("file://",))
    monkeypatch.setattr("trainers.data.sources.ADDRESSES", ("file://",))
    for task in ("classify", "regress", "pair", "embed", "lm"):
        config, lines = own_config(task, address)
        assert config.data.train == address and config.data.text_column in ("review", "note")
        assert "separated by comma" in lines[0]


def test_two_of_each_class_leave_none_for_a_test(tmp_path):
    path = tmp_path / "pairs.csv"
    rows = [f"text {number},class {number % 100}" for number in range(200)]
    path.write_text("\n".join(["text,label", *rows]))
    config, lines = own_config("classify", str(path))
    assert config.data.test_fraction == 0
    assert "200 examples: a tenth validates, too few for a test as well" in lines


def test_tables_are_looked_at_without_tensorflow():
    """It takes seconds to load, and a mistake in a column's name should be told in one."""
    code = "import sys, trainers.own_data; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
