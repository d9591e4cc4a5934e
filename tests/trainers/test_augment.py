"""Augmentation: the rates over many words, and entities that survive everything."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.augment import augment_tagged, augment_texts
from trainers.data.config import AugmentConfig
from zoo.config import ConfigError, from_dict

NEW = ("new0", "new1", "new2")
ROWS, WORDS = 500, 40
# Every word once, so that each can be followed.
UNIQUE = [[f"w{row}_{place}" for place in range(WORDS)] for row in range(ROWS)]
TEXTS = [" ".join(words) for words in UNIQUE]

rates = st.sampled_from([0.0, 0.1, 0.33])
units = st.sampled_from(["word", "character"])
configs = st.builds(
    AugmentConfig,
    delete=rates,
    swap=st.sampled_from([0.0, 0.5]),
    insert=st.sampled_from([0.0, 0.9]),
    replace=rates,
    mask=rates,
    probability=st.sampled_from([0.5, 1.0]),
    vocabulary=st.sampled_from([(), NEW]),
)
seeds = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))


def augmented(texts, seed=(0, 1), **options):
    result = augment_texts(texts, AugmentConfig(**options), seed)
    return [text.decode() for text in result.numpy()]


def assert_share(count, of, rate):
    """Within 5 standard deviations of a binomial share."""
    assert abs(count / of - rate) < 5 * np.sqrt(rate * (1 - rate) / of)


@settings(max_examples=8)
@given(st.lists(st.binary(max_size=9), max_size=4), seeds, units)
def test_nothing_switched_on_changes_no_byte(texts, seed, unit):
    assert augment_texts(texts, AugmentConfig(unit=unit), seed).numpy().tolist() == texts
    never = AugmentConfig(delete=0.5, insert=0.5, probability=0.0, unit=unit)
    assert augment_texts(texts, never, seed).numpy().tolist() == texts


def test_rate_of_deletion():
    for before, after in zip(UNIQUE, texts := augmented(TEXTS, delete=0.2)):
        left = iter(before)
        assert all(word in left for word in after.split())  # the others, in their order
    assert_share(ROWS * WORDS - sum(len(text.split()) for text in texts), ROWS * WORDS, 0.2)


def test_rate_of_replacement_and_mask():
    texts = augmented(TEXTS, replace=0.1, mask=0.25, vocabulary=NEW)
    pairs = [pair for b, a in zip(UNIQUE, texts) for pair in zip(b, a.split(), strict=True)]
    after = [after for before, after in pairs if before != after]
    assert set(after) == {*NEW, "[MASK]"}
    assert_share(after.count("[MASK]"), len(pairs), 0.25)
    assert_share(len(after) - after.count("[MASK]"), len(pairs), 0.1)
    for word in NEW:
        assert_share(after.count(word), len(pairs), 0.1 / 3)


def test_rate_of_insertion():
    texts = augmented(TEXTS, insert=0.3, vocabulary=NEW)
    inserted = sum(word in NEW for text in texts for word in text.split())
    assert_share(inserted, ROWS * WORDS, 0.3)
    for before, after in zip(UNIQUE, texts):
        assert [word for word in after.split() if word not in NEW] == before
    # Before as often as after: at the front of 15 in 100 texts, and at the end.
    assert_share(sum(text.split()[0] in NEW for text in texts), ROWS, 0.15)
    assert_share(sum(text.split()[-1] in NEW for text in texts), ROWS, 0.15)


def test_rate_of_swapping():
    texts = augmented(TEXTS, swap=0.25)
    moved, distances = 0, []
    for before, after in zip(UNIQUE, texts):
        places = {word: place for place, word in enumerate(after.split())}
        assert sorted(places) == sorted(before)
        steps = [abs(places[word] - place) for place, word in enumerate(before)]
        moved += np.count_nonzero(steps)
        distances += [step for step in steps if step]
    # One word alone has nowhere to go: 40 x 0.25 x 0.75^39 of 10 words, nothing to be seen.
    assert_share(moved, ROWS * WORDS, 0.25)
    # All over the text: the mean distance of two different places of n is (n + 1) / 3.
    assert abs(np.mean(distances) - (WORDS + 1) / 3) < 0.5


def test_rates_hold_together():
    rate = {"delete": 0.1, "replace": 0.2, "mask": 0.05, "insert": 0.15, "swap": 0.3}
    texts = augmented(TEXTS, **rate, vocabulary=NEW)
    words = [word for text in texts for word in text.split()]
    total = ROWS * WORDS
    assert_share(words.count("[MASK]"), total, 0.05)
    assert_share(sum(word in NEW for word in words), total, 0.2 + 0.15)
    old = [word for word in words if word[0] == "w"]
    assert len(set(old)) == len(old)
    assert_share(len(old), total, 1 - 0.1 - 0.2 - 0.05)


def test_share_of_texts_that_change_and_the_words_that_come_in():
    texts = augmented(TEXTS, replace=0.5, probability=0.3)
    changed = [(b, a.split()) for b, a in zip(UNIQUE, texts) if a != " ".join(b)]
    assert_share(len(changed), ROWS, 0.3)
    came = [a for row in changed for b, a in zip(*row, strict=True) if a != b]
    # Of the batch's own words, from all of its rows.
    assert set(came) <= set(itertools.chain(*UNIQUE))
    assert len({word.split("_")[0] for word in came}) > 0.9 * ROWS


@settings(max_examples=15)
@given(st.lists(st.text(max_size=6), max_size=5), configs, seeds, units)
def test_any_text(texts, config, seed, unit):
    config = from_dict(AugmentConfig, {**vars(config), "unit": unit})
    result = augment_texts(texts, config, seed).numpy().tolist()
    assert len(result) == len(texts)
    for before, after in zip(texts, result):
        assert bool(after.decode().strip()) == bool(before.strip())
    assert augment_texts(texts, config, seed).numpy().tolist() == result


def test_one_word_stays():
    texts = ["one two three"] * 300 + ["", " \t ", "alone"]
    result = augmented(texts, delete=0.99)
    assert result[-3:] == ["", " \t ", "alone"]
    singles = {text for text in result if len(text.split()) == 1}
    assert singles == {"one", "two", "three", "alone"}
    assert augmented(["中"] * 5 + [" 中 "], delete=0.99, unit="character") == ["中"] * 5 + [" 中 "]


def test_unchanged_texts_keep_their_spaces():
    result = augmented(["a  b\t", "\u3000中 文"] * 50, mask=0.2)
    assert "a  b\t" in result
    assert "a [MASK]" in result
    assert augment_texts([b"\xff  a"], AugmentConfig(delete=0.5), (0, 0)).numpy()[0] in (
        b"\xff  a",
        b"\xff",
        b"a",
    )


def test_characters():
    text = "我爱 北京"
    result = augmented([text] * 200, swap=0.6, unit="character")
    assert all(sorted(row) == sorted(text) for row in result)
    assert all(row[2] == " " for row in result)
    assert len(set(result)) > 10
    assert "我爱 [MASK]京" in augmented([text] * 200, mask=0.3, unit="character")


@st.composite
def tagged_rows(draw):
    """Words 'o<n>' outside and 'e<n>' in entities, each once, and any tags for the latter."""
    rows, number = [], itertools.count()
    for _ in range(draw(st.integers(0, 4))):
        tags = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), max_size=8))
        rows.append([(f"{'oe'[tag > 0]}{next(number)}", tag) for tag in tags])
    return rows


def entities(row):
    """Runs of words with tags, as the model must learn them."""
    runs = itertools.groupby(row, key=lambda pair: pair[1] != 0)
    return [list(run) for is_entity, run in runs if is_entity]


@settings(max_examples=15)
@given(tagged_rows(), configs, seeds, st.sampled_from([0, 7]))
def test_entities_survive(rows, config, seed, outside_id):
    words = tf.ragged.constant([[w for w, _ in row] for row in rows], tf.string, 1)
    tags = [[tag or outside_id for _, tag in row] for row in rows]
    tags = tf.ragged.constant(tags, tf.int32, 1)
    new_words, new_tags = augment_tagged(words, tags, config, seed, outside_id)
    assert new_tags.dtype == tf.int32
    assert new_words.row_lengths().numpy().tolist() == new_tags.row_lengths().numpy().tolist()
    assert new_words.shape[0] == len(rows)
    for row, row_words, row_tags in zip(rows, new_words.to_list(), new_tags.to_list()):
        pairs = [(w.decode(), 0 if t == outside_id else t) for w, t in zip(row_words, row_tags)]
        assert entities(pairs) == entities(row)
        assert all(word[0] != "e" for word, tag in pairs if tag == 0)
        assert bool(pairs) == bool(row)


def test_outside_words_keep_their_rates():
    row = ["o"] * 30 + ["e"] * 2 + ["o"] * 8
    tags = [0] * 30 + [1, 2] + [0] * 8
    words, tags = tf.constant([row] * ROWS), tf.constant([tags] * ROWS)
    words, tags = tf.RaggedTensor.from_tensor(words), tf.RaggedTensor.from_tensor(tags)
    config = AugmentConfig(delete=0.2, mask=0.3, insert=0.1, vocabulary=("new",))
    new_words, new_tags = augment_tagged(words, tags, config, (0, 0))
    flat = new_words.values.numpy()
    assert_share((flat == b"new").sum(), ROWS * 38, 0.1)
    assert_share((flat == b"[MASK]").sum(), ROWS * 38, 0.3)
    # All but the word after the entity may be deleted.
    assert_share((flat == b"o").sum() - ROWS * 0.7, ROWS * 37, 0.5)
    assert ((flat == b"e") == (new_tags.values.numpy() > 0)).all()


def test_the_word_after_an_entity_stays():
    rows = [["e", "x", "y"], ["e"], ["x", "y"]] * 200
    tags = [[1, 0, 0], [1], [0, 0]] * 200
    words, tags = tf.ragged.constant(rows), tf.ragged.constant(tags, tf.int32)
    result = augment_tagged(words, tags, AugmentConfig(delete=0.9), (0, 0))[0].to_list()
    assert set(map(tuple, result[::3])) == {(b"e", b"x"), (b"e", b"x", b"y")}
    assert set(map(tuple, result[2::3])) == {(b"x",), (b"y",), (b"x", b"y")}


def test_seeds_and_tf_data():
    config = AugmentConfig(delete=0.1, swap=0.1, insert=0.1, replace=0.1, mask=0.1)
    first = augment_texts(TEXTS[:9], config, (1, 2))
    same = augment_texts(TEXTS[:9], config, tf.constant([1, 2], tf.int64))
    other = augment_texts(TEXTS[:9], config, (1, 3))
    assert first.numpy().tolist() == same.numpy().tolist()
    assert (first.numpy() != other.numpy()).all()

    def of_step(step, text):
        return augment_texts(text, config, tf.stack([tf.constant(1, tf.int64), step]))

    dataset = tf.data.Dataset.from_tensors(TEXTS[:9]).repeat(4).enumerate().map(of_step)
    batches = list(dataset.as_numpy_iterator())
    assert batches[2].tolist() == first.numpy().tolist()
    assert batches[3].tolist() == other.numpy().tolist()

    rows = [text.split() for text in TEXTS[:9]]
    words, tags = tf.ragged.constant(rows), tf.ragged.constant([[0] * WORDS] * 9, tf.int32)
    tagged = tf.data.Dataset.from_tensors((words, tags)).map(
        lambda words, tags: augment_tagged(words, tags, config, (1, 2))
    )
    new_words, new_tags = next(iter(tagged))
    assert [b" ".join(row) for row in new_words.to_list()] == first.numpy().tolist()
    assert not new_tags.values.numpy().any()


def test_what_makes_no_sense_is_told():
    for values, message in (
        ({"delete": 1.0}, "delete must be"),
        ({"swap": -0.1}, "swap must be"),
        ({"delete": 0.5, "replace": 0.4, "mask": 0.2}, "sum to at most 1"),
        ({"probability": 1.5}, "probability"),
        ({"mask_token": ""}, "mask_token"),
        ({"vocabulary": ["two words"]}, "two words"),
        ({"unit": "letter"}, "unit"),
    ):
        with pytest.raises(ConfigError, match=message):
            from_dict(AugmentConfig, values)
