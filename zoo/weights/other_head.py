"""Another task for a model that is there: its backbone, and a new head."""

from __future__ import annotations

from absl import logging

from zoo.bundle import Bundle
from zoo.bundle_error import BundleError
from zoo.presets import build
from zoo.strict_config import ConfigError
from zoo.text.base import TextConfig
from zoo.weights.in_memory import bundle_in_memory
from zoo.weights.variables import backbone_weights, model_weights

_LABELLED = {"classify": "num_classes", "pair": "num_classes", "tag": "num_tags"}
_ONE_NETWORK = {"classify", "pair"}


def with_task(bundle: Bundle, task: str) -> Bundle:
    """The bundle's backbone with the head of another task.

    The new head's weights are random and logged by name; "classify" and "pair" are one network,
    so between the two the head is kept, too.

    Args:
        bundle: what is there; it is not changed.
        task: a task that the backbone's family can do. One with labels takes the bundle's.

    Raises:
        BundleError: a task that the family cannot do, or that needs labels where there are none.

    Example: `with_task(zoo.load("runs/bert_mlm"), "embed").text_model.embed(["good"])`
    """
    labels = bundle.config.labels if task in _LABELLED else ()
    if task in _LABELLED and not labels:
        raise BundleError(
            f"{bundle.folder}: task {task!r} needs labels, and a model of task "
            f"{bundle.config.task!r} has none: fine-tune it with finetune.init_from"
        )
    head = {_LABELLED[task]: len(labels)} if labels else {}
    kept_head = {bundle.config.task, task} <= _ONE_NETWORK
    if kept_head:
        head = bundle.model.head_config()
    try:
        model = build(bundle.model.backbone.config, task, head)
    except ConfigError as error:
        raise BundleError(f"{bundle.folder}: {error}") from None
    here, there = model_weights(model), model_weights(bundle.model)
    copied = there if kept_head else backbone_weights(bundle.model.backbone)
    for name in copied:
        here[name].assign(there[name].value)
    new = [name for name in here if name not in copied]
    if new:
        logging.warning("%s: new, random weights for task %r: %s", bundle.folder, task, new)
    text = bundle.config.text
    if task != "lm" and text is None:
        text = TextConfig(max_length=min(128, model.context_length))
    try:
        return bundle_in_memory(bundle.folder, model, bundle.tokenizer, labels=labels, text=text)
    except ValueError as error:
        raise BundleError(f"{bundle.folder}: {error}") from error
