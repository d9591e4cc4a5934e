"""Which class of transformers does which task of ours."""

from __future__ import annotations

from zoo.files import BundleError

# In the order in which a class is chosen for saving.
_TASKS = {
    "Model": "embed",
    "ForMaskedLM": "mlm",
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "tag",
    "ForQuestionAnswering": "span",
}
_CLASS_PREFIX = {"bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta"}
ARCHITECTURES: dict[str, tuple[str, str]] = {
    **{
        prefix + suffix: (model_type, task)
        for model_type, prefix in _CLASS_PREFIX.items()
        for suffix, task in _TASKS.items()
    },
    "GPT2LMHeadModel": ("gpt2", "lm"),
    # Read only: what they have more than the classes above is left out.
    "BertForPreTraining": ("bert", "mlm"),
    "GPT2Model": ("gpt2", "lm"),
}
# Several tasks, one network.
SAME_HEAD = {"pair": "classify", "regress": "classify"}
# What a config.json without "architectures" holds: the bare encoder, or the language model.
BARE = {"bert": "BertModel", "distilbert": "DistilBertModel", "roberta": "RobertaModel"}
BARE["gpt2"] = "GPT2Model"


def architecture_for(model_type: str, task: str) -> str:
    """The class of transformers that does a task.

    Example: `architecture_for("roberta", "pair")  # "RobertaForSequenceClassification"`
    """
    wanted = (model_type, SAME_HEAD.get(task, task))
    return next(name for name, does in ARCHITECTURES.items() if does == wanted)


def task_of(model_type: str, architecture: str, where: str) -> str:
    """The task that a class of transformers does.

    Raises:
        BundleError: an architecture that is not read, or not one of the model type; the message
            lists those that are.
    """
    known = [name for name, (kind, _) in ARCHITECTURES.items() if kind == model_type]
    if model_type not in BARE:
        raise BundleError(
            f"{where}: model_type {model_type!r} is not supported; supported are {', '.join(BARE)}"
        )
    if architecture not in known:
        raise BundleError(
            f"{where}: architecture {architecture!r} is not supported; supported for model_type "
            f"{model_type!r} are {', '.join(known)}. If only its backbone matters, load it with "
            "task='embed' or another task."
        )
    return ARCHITECTURES[architecture][1]
