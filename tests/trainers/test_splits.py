"""Splits lose and double nothing; labels become ids, numbers and weights, or are refused."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from trainers.data.examples import (
    LabeledTexts,
    TaggedTexts,
    class_weights,
    grouped_split,
    label_classes,
    label_ids,
    label_numbers,
    random_split,
    stratified_split,
    warn_blank,
)

FRACTIONS = st.floats(0.01, 0.99)
# "a\0" and "a" are one value to a numpy string array.
LABELS = st.lists(st.sampled_from(["a", "a\0", "b", "12", ""]), min_size=2, max_size=60)


def check_partition(parts, count):
    train, validation = parts
    assert sorted([*train, *validation]) == list(range(count))
    assert len(train) and len(validation)
    for part in parts:
        assert part.dtype == np.int64 and list(part) == sorted(part)


@given(LABELS, FRACTIONS, st.integers(0, 3))
def test_a_stratified_split_is_a_partition_with_every_class_in_both(labels, fraction, seed):
    counts = Counter(labels)
    if max(counts.values()) == 1:
        with pytest.raises(ValueError, match="every class has one"):
            stratified_split(labels, fraction, seed)
        return
    _, validation = parts = stratified_split(labels, fraction, seed)
    check_partition(parts, len(labels))
    for label, count in counts.items():
        held_out = sum(labels[i] == label for i in validation)
        assert abs(held_out - fraction * count) <= 1 and (count == 1 or 0 < held_out < count)
    again = stratified_split(np.array(labels, object), fraction, seed)
    assert all(np.array_equal(*pair) for pair in zip(parts, again))


@given(st.integers(2, 60), FRACTIONS, st.integers(0, 3))
def test_a_random_split_is_a_partition(count, fraction, seed):
    parts = random_split(count, fraction, seed)
    check_partition(parts, count)
    assert abs(len(parts[1]) - fraction * count) <= 1
    assert np.array_equal(parts[1], random_split(count, fraction, seed)[1])


@given(LABELS, FRACTIONS, st.integers(0, 3))
def test_a_grouped_split_keeps_groups_together(groups, fraction, seed):
    if len(set(groups)) == 1:
        with pytest.raises(ValueError, match="all are about one text"):
            grouped_split(groups, fraction, seed)
        return
    train, validation = parts = grouped_split(groups, fraction, seed)
    check_partition(parts, len(groups))
    assert not {groups[i] for i in train} & {groups[i] for i in validation}
    # No other number of the same shuffled groups would come nearer by a whole group.
    largest = max(Counter(groups).values())
    assert abs(len(validation) - fraction * len(groups)) <= largest


def test_the_seed_changes_the_split():
    splits = {tuple(stratified_split(["a", "b"] * 50, 0.1, seed)[1]) for seed in range(5)}
    assert len(splits) == 5 and all(len(split) == 10 for split in splits)


@pytest.mark.parametrize("split", [stratified_split, grouped_split])
def test_impossible_splits_are_refused(split):
    for labels in ([], ["a"]):
        with pytest.raises(ValueError, match=r"example\(s\).*data\.validation"):
            split(labels, 0.5, 0)


def test_classes_are_sorted():
    assert label_classes(["b", "a", "b"], ["x:1"] * 3) == ("a", "b")
    assert label_classes(["10", "2", "01", "1"], ["x:1"] * 4) == ("01", "1", "2", "10")
    assert label_classes(["10", "2", "x"], ["x:1"] * 3) == ("10", "2", "x")


def test_one_class_only_is_refused():
    with pytest.raises(ValueError, match=r"a\.csv:2: all 3 labels are 'yes'.*two classes"):
        label_classes(["yes"] * 3, ["a.csv:2", "a.csv:3", "a.csv:4"])
    with pytest.raises(ValueError, match="no labels"):
        label_classes([], [])


def test_an_unknown_label_is_refused_with_its_place():
    classes = [f"class_{i}" for i in range(30)]
    ids = label_ids(["class_29", "class_0"], classes, ["t.csv:2", "t.csv:3"])
    assert ids.tolist() == [29, 0] and ids.dtype == np.int32
    with pytest.raises(ValueError) as caught:
        label_ids(["class_1", "clas_3", "other"], classes, ["t.csv:2", "t.csv:3", "t.csv:4"])
    message = str(caught.value)
    for part in ("t.csv:3", "'clas_3'", "did you mean", "2 example(s)", "class_19, and 10 more"):
        assert part in message


def test_numbers():
    numbers = label_numbers(["2.5", " -1e3", "0"], [])
    assert numbers.tolist() == [2.5, -1000, 0] and numbers.dtype == np.float32
    for bad in ("", "x", "nan", "-inf", "1e39", "1_0"):
        with pytest.raises(ValueError, match=r"b\.csv:3: the label .* finite"):
            label_numbers(["1", bad], ["b.csv:2", "b.csv:3"])


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_balanced_weights_are_those_of_scikit_learn(labels):
    ids = np.array(["abc".index(label) for label in labels])
    weights = class_weights(ids, 3, "balanced")
    present = sorted(set(labels))
    expected = compute_class_weight("balanced", classes=np.array(present), y=labels)
    found = dict(zip("abc", weights))
    np.testing.assert_allclose([found[name] for name in present], expected, rtol=1e-6)
    assert all(found[name] == 1 for name in set("abc") - set(present))
    for how in ("balanced", "sqrt"):
        weights = class_weights(ids, 3, how)
        assert weights.dtype == np.float32
        assert np.mean(weights[ids]) == pytest.approx(1, rel=1e-5)


def test_root_weights_lie_between():
    ids = np.repeat([0, 1], [90, 10])
    balanced, root = (class_weights(ids, 2, how) for how in ("balanced", "sqrt"))
    assert balanced[1] / balanced[0] == pytest.approx(9)
    assert root[1] / root[0] == pytest.approx(3)


# The columns themselves.


def test_columns_have_one_length():
    with pytest.raises(ValueError, match="one length"):
        LabeledTexts(["a"], None, [], ["a:1"])
    texts = LabeledTexts(["a", "b"], None, ["x", "y"], ["a:1", "a:2"])
    assert texts.select(np.array([1])) == LabeledTexts(["b"], None, ["y"], ["a:2"])
    assert len(TaggedTexts([["a"]], [["O"]], ["a:1"])) == 1


def test_blanks_are_counted(warnings):
    warn_blank("text", ["a", "\t", ""], ["a:1", "a:2", "a:3"])
    warn_blank("text", ["a"], ["a:1"])
    assert len(warnings) == 1 and "2 of 3" in warnings[0] and "a:2" in warnings[0]
