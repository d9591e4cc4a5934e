"""Entities of tagged sentences, and precision, recall and F1 over them (as conlleval counts)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

INSIDE = ("I", "E")  # letters that can go on with an entity
OPEN = ("B", "I")  # letters after which an entity can go on


def entity_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Entities of one sentence.

    Reads BIO, IOB1 and BIOES, and forgives what a tagger that looks at one word at a time gets
    wrong, as conlleval and seqeval's default mode do: `I-` or `E-` after `O`, after the end of an
    entity or after another type starts an entity; one that is never closed ends where it stops.

    Args:
        tags: one a word: "O", or a letter of B, I, E, S with "-" and the type ("B-person"). A
            letter alone has the type "_".

    Returns:
        (type, start, end) of each entity in order; words start..end-1, as Python slices.

    Raises:
        ValueError: a tag starts with another letter.

    Example:
        entity_spans(["B-person", "I-person", "O"]) == [("person", 0, 2)]
    """
    spans = []
    kind, start, letter_before = "", -1, "O"
    for position, tag in enumerate([*tags, "O"]):
        letter, kind_here = _split(tag, position)
        goes_on = letter_before in OPEN and letter in INSIDE and kind_here == kind
        if not goes_on:
            if letter_before != "O":
                spans.append((kind, start, position))
            kind, start = kind_here, position
        letter_before = letter
    return spans


def entity_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict:
    """Precision, recall and F1 of predicted entities: right means the same words and type.

    Equal to seqeval's defaults (micro average; 0 where nothing can be divided).

    Args:
        gold: tags of each sentence.
        predicted: tags of each sentence, as many.

    Returns:
        "precision", "recall", "f1" (micro, 0..1) and "types": type -> the same three and
        "support", its number of gold entities, in alphabetical order.

    Raises:
        ValueError: different numbers of sentences, or of words in one.

    Example:
        entity_scores([["B-a", "O"]], [["B-a", "B-a"]])["precision"] == 0.5
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold sentences, {len(predicted)} predicted; need as many")
    right, made, wanted = Counter(), Counter(), Counter()
    for number, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted)):
        if len(gold_tags) != len(predicted_tags):
            raise ValueError(
                f"sentence {number} has {len(gold_tags)} gold tags and {len(predicted_tags)} "
                "predicted; give one for each word, also for words that the model cut off (O)"
            )
        gold_spans, predicted_spans = entity_spans(gold_tags), entity_spans(predicted_tags)
        wanted.update(kind for kind, *_ in gold_spans)
        made.update(kind for kind, *_ in predicted_spans)
        right.update(kind for kind, *_ in set(gold_spans) & set(predicted_spans))
    types = {
        kind: {**_ratios(right[kind], made[kind], wanted[kind]), "support": wanted[kind]}
        for kind in sorted(wanted.keys() | made.keys())
    }
    return {**_ratios(right.total(), made.total(), wanted.total()), "types": types}


def _split(tag: str, position: int) -> tuple[str, str]:
    letter, kind = tag[:1], tag[1:].removeprefix("-")
    if letter not in ("O", "B", "I", "E", "S"):
        raise ValueError(
            f"tag {position} is {tag!r}; expected O or B-TYPE, I-TYPE (also E-TYPE, S-TYPE)"
        )
    return letter, kind or "_"


def _ratios(right: int, made: int, wanted: int) -> dict[str, float]:
    precision = right / made if made else 0.0
    recall = right / wanted if wanted else 0.0
    f1 = 2 * right / (made + wanted) if right else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}
