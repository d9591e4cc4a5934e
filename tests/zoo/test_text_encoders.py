"""Strings in, answers out: every task's functions, on texts of every kind."""

import string

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zoo
from zoo.text.config import CleaningConfig, TextConfig
from zoo.text.models import TEXT_MODELS, bio_tables
from zoo.tokenizers import WordPieceTokenizer

LETTERS = [*string.ascii_lowercase, *string.digits, *".,?!'中国"]
TOKENIZER = WordPieceTokenizer(
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    + LETTERS
    + [f"##{letter}" for letter in string.ascii_lowercase]
)
CONFIG = TextConfig(max_length=12, max_question_length=4, max_answer_length=5)
HEADS = {
    "mlm": {},
    "classify": {"num_classes": 3},
    "pair": {"num_classes": 3},
    "tag": {"num_tags": 3},
    "span": {},
    "embed": {"embedding_dim": 4},
    "regress": {},
}
LABELS = {"classify": ("a, b", 'c"d', "e"), "tag": ("O", "B-X", "I-X")}
LABELS["pair"] = LABELS["classify"]
TEXTS = [
    "Ab c, d 中国 é!",
    "",
    " \t\n",
    "word " * 40,
    "x",
    "caf\u0301e \U0001f600 [MASK] z",
    b"\xff\xfe bad \xf0",
]


def build(task, family="bert"):
    size = {"vocabulary_size": TOKENIZER.vocabulary_size, "context_length": 12}
    if family == "bert":
        config = zoo.BertConfig(num_layers=1, num_heads=2, hidden_dim=8, dropout=0.0, **size)
    else:
        config = zoo.LSTMConfig(num_layers=1, hidden_dim=4, bidirectional=True, **size)
    keras.utils.set_random_seed(0)
    return zoo.build(config, task=task, head=HEADS[task])


@pytest.fixture(scope="module")
def models():
    made = {
        task: TEXT_MODELS[task](TOKENIZER, build(task), CONFIG, LABELS.get(task, ()))
        for task in HEADS
    }
    tagger = TEXT_MODELS["tag"](TOKENIZER, build("tag", "lstm"), CONFIG, LABELS["tag"])
    return {**made, "bilstm tag": tagger}


def ask(text_model, *columns):
    name = next(iter(text_model.functions))
    answer = getattr(text_model, name)(*columns)
    return {key: value.numpy() for key, value in answer.items()}


def columns(task, texts):
    """The task's inputs: a second column where it has two."""
    return [texts, texts[::-1]] if task in ("pair", "span") else [texts]


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("task", HEADS)
def test_a_row_does_not_depend_on_its_neighbours(models, task):
    together = ask(models[task], *columns(task, TEXTS))
    for row in (0, 1, 3, 6):
        alone = ask(models[task], *(column[row : row + 1] for column in columns(task, TEXTS)))
        for name, value in alone.items():
            wide = np.asarray(together[name][row])
            value = np.asarray(value[0])
            narrow = wide[tuple(slice(0, size) for size in value.shape)]
            if value.dtype.kind == "f":
                np.testing.assert_allclose(value, narrow, atol=1e-5, err_msg=name)
            else:
                np.testing.assert_array_equal(value, narrow, err_msg=name)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("task", HEADS)
def test_no_rows_give_no_rows(models, task):
    for name, value in ask(models[task], *([] for _ in columns(task, []))).items():
        assert value.shape[0] == 0, name


def test_classes_are_in_the_labels_order(models):
    answer = ask(models["classify"], TEXTS)
    np.testing.assert_allclose(answer["scores"].sum(axis=1), 1, rtol=1e-5)
    names = [name.encode() for name in LABELS["classify"]]
    assert answer["classes"].tolist() == [names] * len(TEXTS)
    best = [names[i] for i in answer["scores"].argmax(axis=1)]
    assert answer["label"].tolist() == best


def test_pairs_need_as_many_second_texts(models):
    with pytest.raises(Exception, match="same number of rows"):
        models["pair"].predict(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="text and text_pair"):
        models["pair"].predict(["a"])
    with pytest.raises(ValueError, match="text alone"):
        models["classify"].predict(["a"], ["b"])


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_tags_stand_at_their_places(models, texts):
    answer = ask(models["bilstm tag"], texts)
    for row, text in enumerate(texts):
        source = text.encode()
        words = answer["start"][row] >= 0
        assert np.all(answer["tags"][row][~words] == b"")
        for token, start, end, score in zip(
            *(answer[name][row][words] for name in ("tokens", "start", "end", "scores"))
        ):
            assert source[start:end] == token != b""
            token.decode()  # whole characters
            assert 0 < score <= 1
        assert np.all(np.diff(answer["start"][row][words]) > 0)


def test_inside_tags_follow_their_own_kind():
    types, begins = bio_tables(("O", "B-PER", "I-PER", "I-LOC", "NOUN"))
    assert types[1] == types[2] != types[3]
    assert begins.tolist() == [0, 1, 1, 3, 4]


def test_tags_are_well_formed(models):
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(list("abc"), 8)) for _ in range(12)]
    for row in ask(models["tag"], texts)["tags"]:
        for before, tag in zip([b"O", *row], row):
            assert tag != b"I-X" or before in (b"B-X", b"I-X")


def test_a_repaired_tag_has_the_probability_of_the_models_choice():
    model = build("tag")
    assert model.weights[-1].path == "bert/output/bias"
    model.weights[-1].assign([0.0, 0.0, 1.0])  # I- often comes first
    tagger = TEXT_MODELS["tag"](TOKENIZER, model, CONFIG, LABELS["tag"])
    assert LABELS["tag"] == ("O", "B-X", "I-X")
    plain = TEXT_MODELS["tag"](TOKENIZER, tagger.model, CONFIG, ("O", "B", "I"))  # no repair
    texts = [" ".join(np.random.default_rng(seed).choice(list("abc"), 8)) for seed in range(9)]
    served, chosen = ask(tagger, texts), ask(plain, texts)
    repaired = (served["tags"] == b"B-X") & (chosen["tags"] == b"I")
    assert repaired.any()
    np.testing.assert_array_equal(served["scores"], chosen["scores"])
    assert np.all(served["scores"] >= 1 / 3)


def test_answers_are_slices_of_the_context(models):
    questions = ["who?"] * len(TEXTS)
    answer = ask(models["span"], questions, TEXTS)
    for row, text in enumerate(TEXTS):
        source = text if isinstance(text, bytes) else text.encode()
        start, end = answer["start"][row], answer["end"][row]
        if start < 0:
            assert (answer["answer"][row], end) == (b"", -1)
            assert not source.strip()
        else:
            assert answer["answer"][row] == source[start:end] != b""
            assert 0 < answer["score"][row] <= 1


def test_the_best_span_is_the_best_of_all():
    """Against every pair of places, scored by hand."""
    from zoo.text.answer import _best_span

    random = np.random.default_rng(0)
    start, end = random.normal(size=(2, 3, 7)).astype("float32")
    scores, first, last = (value.numpy() for value in _best_span(start, end, longest=3))
    for row in range(3):
        pairs = {
            (i, j): start[row, i] + end[row, j] for i in range(7) for j in range(i, min(i + 3, 7))
        }
        best = max(pairs, key=pairs.get)
        assert (first[row], last[row]) == best
        assert scores[row] == pytest.approx(pairs[best])


def test_masks_are_filled_and_the_rest_stays(models):
    texts = ["a [MASK] b", "no mask", "[MASK][MASK] \u00e9", "x " * 50 + "[MASK]"]
    answer = ask(models["mlm"], texts)
    assert answer["tokens"].shape[:2] == (4, 2)
    assert answer["text"][1] == b"no mask"
    specials = {name.encode() for name in TOKENIZER.special_tokens}
    for row, masks in enumerate([1, 0, 2, 1]):
        shares = answer["probabilities"][row]
        assert np.all(np.diff(shares[:masks], axis=1) <= 0)
        assert not np.any(shares[masks:]) and np.all(answer["tokens"][row][masks:] == b"")
        assert not specials & set(answer["tokens"][row][:masks].reshape(-1))
    first = answer["tokens"][0, 0, 0]
    expected = b"a" + (first[2:] if first.startswith(b"##") else b" " + first) + b" b"
    assert answer["text"][0] == expected


@pytest.mark.tensorflow_only
@pytest.mark.usefixtures("eager_functions")
@pytest.mark.parametrize("piece", ["\u0120the", "the", "####"])
def test_masks_of_byte_pairs_are_filled(piece):
    roles = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unknown": "<unk>", "mask": "<mask>"}
    tokenizer = zoo.BytePairTokenizer.train(
        ["the cat sat on the mat####"] * 20,
        vocabulary_size=300,
        special_tokens=("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
        roles=roles,
        end="</s>",
        parse_special=True,
        pair_separators=2,
    )
    config = zoo.BertConfig(tokenizer.vocabulary_size, 12, 1, 2, 8, num_segments=1)
    model = zoo.build(config, task="mlm")
    model.output_bias.assign(
        100 * np.eye(config.vocabulary_size)[tokenizer.vocabulary.index(piece)]
    )
    answer = ask(TEXT_MODELS["mlm"](tokenizer, model), ["on <mask> mat", "<mask>"])
    word = piece.replace("\u0120", "")
    # A piece without the space mark goes on with the word before it.
    assert answer["text"][0].decode() == ("on the mat" if word != piece else f"on{piece} mat")
    assert answer["text"][1].decode() == word
    assert answer["tokens"][0, 0, 0].decode() == piece.replace("\u0120", " ")
    # A byte of a character is a token, the likeliest here, but no text.
    model.output_bias.assign_add(
        200 * np.eye(config.vocabulary_size)[tokenizer.pieces().index(b"\xe4")]
    )
    partial = ask(TEXT_MODELS["mlm"](tokenizer, model), ["on <mask> mat", "<mask>"])
    assert partial["tokens"][0, 0, 0] == b"\xe4"
    assert list(partial["text"]) == list(answer["text"])


def test_what_does_not_fit_is_refused(models):
    model = models["classify"].model
    with pytest.raises(ValueError, match="2 labels for a model with 3 outputs"):
        TEXT_MODELS["classify"](TOKENIZER, model, CONFIG, ("a", "b"))
    with pytest.raises(ValueError, match="context_length is only 12"):
        TEXT_MODELS["classify"](TOKENIZER, model, TextConfig(max_length=13), LABELS["classify"])
    cleaned = TextConfig(max_length=12, cleaning=CleaningConfig(html=True))
    with pytest.raises(ValueError, match="places in the text"):
        TEXT_MODELS["tag"](TOKENIZER, models["tag"].model, cleaned, LABELS["tag"])
    with pytest.raises(zoo.ConfigError, match=r"text\.stride"):
        TextConfig(max_length=12, stride=11)


def test_cleaning_is_part_of_the_function(models):
    config = TextConfig(max_length=12, cleaning=CleaningConfig(html=True))
    model = models["classify"].model
    model = TEXT_MODELS["classify"](TOKENIZER, model, config, LABELS["classify"])
    scores = ask(model, ["<b>ab</b> c", "ab c"])["scores"]
    np.testing.assert_array_equal(scores[0], scores[1])


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("task", ["classify", "span"])
def test_a_bundle_answers_as_before(models, tmp_path, task):
    before = models[task]
    zoo.save(tmp_path, before.model, TOKENIZER, labels=before.labels, text=CONFIG)
    after = zoo.load(tmp_path)
    assert after.config.labels == before.labels
    expected, got = (ask(m, *columns(task, TEXTS)) for m in (before, after.text_model))
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value)
    with pytest.raises(zoo.BundleError, match="continues no text; use `served`, which has"):
        _ = after.lm


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("task", ["mlm", "pair", "tag", "span"])  # each way to cut a long text
def test_a_hundred_kilobytes_are_read(models, task):
    text = "word, " * 16667 + "\u00e9nd [MASK]"
    assert len(text.encode()) > 100_000
    answer = ask(models[task], *([text] for _ in columns(task, [text])))
    assert all(value.shape[0] == 1 for value in answer.values())
    if task == "tag":
        assert answer["tokens"].shape[1] == 2 * 16667 + 2
        assert answer["tokens"][0, -2].decode() == "\u00e9nd"
        assert not np.any(answer["tags"] == b"")
