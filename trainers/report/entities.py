"""Scores of tagged sentences: over whole entities (as conlleval counts), or over single tags.

`are_entities` decides which, from the tags alone; every score of a tagger comes from `tag_scores`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence

_ENTITY_TAG = re.compile(r"[BIES]-.+", re.DOTALL)
INSIDE = ("I", "E")  # letters that can go on with an entity
OPEN = ("B", "I")  # letters after which an entity can go on


def are_entities(labels: Collection[str]) -> bool:
    """Whether tags mark spans of words (BIO, IOB1, BIOES) and are not a class of each word.

    All of them are "O" or a letter of B, I, E, S with "-" and a type; or such letters alone with
    "B" among them (chunks of one kind). Parts of speech, and types without a letter, are classes.

    Example: `are_entities(["O", "B-person", "I-person"]) and not are_entities(["O", "person"])`
    """
    marked = set(labels) - {"O"}
    if "B" in marked:
        return marked <= {"B", "I", "E", "S"}
    return bool(marked) and all(map(_ENTITY_TAG.fullmatch, marked))


def tag_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], labels: Collection[str]
) -> dict:
    """What a tagger of these labels is judged by, numbers first, the one that matters most first.

    Args:
        gold: tags of each sentence.
        predicted: tags of each sentence, as many.
        labels: all tags that the tagger knows.

    Returns:
        Where `are_entities(labels)`: "f1", "precision", "recall" of entities and "accuracy" of
        single tags; else "accuracy" and "macro_f1", the mean F1 of the tags that occur. Also
        "types": type of entity, or tag -> "precision", "recall", "f1" and "support", its number.

    Raises:
        ValueError: as `entity_scores`.

    Example:
        tag_scores([["DT", "NN"]], [["DT", "DT"]], ["DT", "NN"])["accuracy"] == 0.5
    """
    single = _scores(gold, predicted, _single_tags)
    accuracy = single["f1"]  # each word has one tag and gets one
    if are_entities(labels):
        found = entity_scores(gold, predicted)
        numbers = {name: found[name] for name in ("f1", "precision", "recall")}
        return {**numbers, "accuracy": accuracy, "types": found["types"]}
    f1s = [of["f1"] for of in single["types"].values()]
    macro_f1 = sum(f1s) / len(f1s) if f1s else 0.0
    return {"accuracy": accuracy, "macro_f1": macro_f1, "types": single["types"]}


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
    return _scores(gold, predicted, entity_spans)


def _single_tags(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    return [(tag, place, place + 1) for place, tag in enumerate(tags)]


def _scores(gold, predicted, units: Callable[[Sequence[str]], list[tuple[str, int, int]]]) -> dict:
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold sentences, {len(predicted)} predicted; need as many")
    right, made, wanted = Counter(), Counter(), Counter()
    for number, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted)):
        if len(gold_tags) != len(predicted_tags):
            raise ValueError(
                f"sentence {number} has {len(gold_tags)} gold tags and {len(predicted_tags)} "
                "predicted; give one for each word, also for words that the model cut off (O)"
            )
        gold_units, predicted_units = units(gold_tags), units(predicted_tags)
        wanted.update(kind for kind, *_ in gold_units)
        made.update(kind for kind, *_ in predicted_units)
        right.update(kind for kind, *_ in set(gold_units) & set(predicted_units))
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
