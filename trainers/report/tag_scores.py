"""Scores of tagged sentences: over whole entities, equal to seqeval's, or over single tags."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence

_ENTITY_TAG = re.compile(r"[BIES]-.+", re.DOTALL)
_CONTINUES, _CAN_CONTINUE = ("I", "E"), ("B", "I")  # letters inside an entity, and before them


def are_entities(labels: Collection[str]) -> bool:
    """Whether tags mark spans of words (BIO, IOB1, BIOES) and are not a class of each word.

    All of them are "O" or a letter of B, I, E, S with "-" and a type; or such letters alone with
    "B" among them (chunks of one kind). Parts of speech, and types without a letter, are classes.
    """
    marked = set(labels) - {"O"}
    if "B" in marked:
        return marked <= {"B", "I", "E", "S"}
    return bool(marked) and all(map(_ENTITY_TAG.fullmatch, marked))


def tag_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], labels: Collection[str]
) -> dict:
    """What a tagger of these labels is judged by, the score that matters most first.

    Returns:
        Where `are_entities(labels)`: "f1", "precision", "recall" of entities and "accuracy" of
        single tags; else "accuracy" and "macro_f1", the mean F1 of the tags that occur. Also
        "types": type of entity, or tag -> "precision", "recall", "f1" and "support", its number.

    Raises:
        ValueError: different numbers of sentences, or of words in one.
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


def entity_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict:
    """Precision, recall and F1 of entities, right with the same words and type; as seqeval."""
    return _scores(gold, predicted, entity_spans)


def entity_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, start, end) of each entity of a sentence; words start..end-1, as Python slices.

    Reads BIO, IOB1 and BIOES, and forgives what a tagger that looks at one word at a time gets
    wrong, as conlleval and seqeval's default mode do: `I-` or `E-` after `O`, after the end of an
    entity or after another type starts an entity; one that is never closed ends where it stops. A
    letter alone has the type "_". Raises ValueError for a tag that starts with another letter.
    """
    spans = []
    kind, start, letter_before = "", -1, "O"
    for position, tag in enumerate([*tags, "O"]):
        letter, kind_here = tag[:1], tag[1:].removeprefix("-") or "_"
        if letter not in ("O", "B", "I", "E", "S"):
            raise ValueError(
                f"tag {position} is {tag!r}; expected O or B-TYPE, I-TYPE (also E-TYPE, S-TYPE)"
            )
        if not (letter_before in _CAN_CONTINUE and letter in _CONTINUES and kind_here == kind):
            if letter_before != "O":
                spans.append((kind, start, position))
            kind, start = kind_here, position
        letter_before = letter
    return spans


def _single_tags(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    return [(tag, place, place + 1) for place, tag in enumerate(tags)]


def _scores(gold, predicted, units: Callable[[Sequence[str]], list[tuple[str, int, int]]]) -> dict:
    """Micro averages over (type, start, end), and each type's; 0 where nothing can be divided."""
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


def _ratios(right: int, made: int, wanted: int) -> dict[str, float]:
    precision = right / made if made else 0.0
    recall = right / wanted if wanted else 0.0
    f1 = 2 * right / (made + wanted) if right else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}
