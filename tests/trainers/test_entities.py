"""Entities: the same spans and scores as seqeval on any tags."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import metrics
from seqeval.metrics.sequence_labeling import get_entities

from trainers.report.entities import entity_scores, entity_spans

TAGS = st.sampled_from(
    ["O", "B", "I", "E", "S", "B-", "I-", "I-_", "E-_", "O-a", "I-a-b", "B-a-b", "Ia"]
    + [f"{letter}-{kind}" for letter in "BIES" for kind in ("a", "b")]
)
SENTENCES = st.lists(st.lists(st.tuples(TAGS, TAGS), max_size=8), min_size=1, max_size=4)


@pytest.mark.filterwarnings("ignore:.*seems not to be NE tag")
@settings(max_examples=500, deadline=None)
@given(st.lists(TAGS, max_size=12))
def test_spans_equal_seqeval(tags):
    assert entity_spans(tags) == [
        (kind, first, last + 1) for kind, first, last in get_entities(tags)
    ]


@settings(max_examples=200, deadline=None)
@given(SENTENCES)
def test_scores_equal_seqeval(sentences):
    gold = [[pair[0] for pair in sentence] for sentence in sentences]
    predicted = [[pair[1] for pair in sentence] for sentence in sentences]
    scores = entity_scores(gold, predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns of undefined ratios and odd tags
        assert scores["precision"] == pytest.approx(metrics.precision_score(gold, predicted))
        assert scores["recall"] == pytest.approx(metrics.recall_score(gold, predicted))
        assert scores["f1"] == pytest.approx(metrics.f1_score(gold, predicted))
        if not scores["types"]:
            return  # seqeval's report fails on sentences without entities
        report = metrics.classification_report(gold, predicted, output_dict=True)
    assert list(scores["types"]) == [name for name in report if not name.endswith(" avg")]
    for kind, ours in scores["types"].items():
        theirs = report[kind]
        assert ours["f1"] == pytest.approx(theirs["f1-score"])
        assert [ours[key] for key in ("precision", "recall", "support")] == pytest.approx(
            [theirs[key] for key in ("precision", "recall", "support")]
        )


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ([], []),
        (["O", "I-a", "I-a"], [("a", 1, 3)]),  # never opened
        (["B-a", "I-b"], [("a", 0, 1), ("b", 1, 2)]),  # another type
        (["B-a", "B-a"], [("a", 0, 1), ("a", 1, 2)]),
        (["B-a", "I-a", "E-a", "I-a", "S-a"], [("a", 0, 3), ("a", 3, 4), ("a", 4, 5)]),
    ],
)
def test_spans(tags, spans):
    assert entity_spans(tags) == spans


def test_same_words_in_another_sentence_do_not_count():
    scores = entity_scores([["B-a"], ["O"]], [["O"], ["B-a"]])
    assert scores["f1"] == 0.0
    assert scores["types"]["a"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}


def test_bad_input_says_where():
    with pytest.raises(ValueError, match=r"tag 1 is 'X-a'; expected O or B-TYPE"):
        entity_spans(["O", "X-a"])
    with pytest.raises(ValueError, match="tag 0 is ''"):
        entity_spans([""])
    with pytest.raises(ValueError, match="sentence 1 has 2 gold tags and 1 predicted"):
        entity_scores([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match="1 gold sentences, 0 predicted"):
        entity_scores([["O"]], [])
