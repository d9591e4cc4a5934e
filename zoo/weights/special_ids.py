"""Room for special tokens in a language model that was trained without any."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from zoo.files import BundleError
from zoo.models.build import build
from zoo.weights.assign import assign_weights, model_weights

# exp of it is 0 in float32 beside any logit that a model gives.
NEVER = -1e4


def add_special_ids(
    model: keras.Model, count: int, order: Sequence[int] | None = None
) -> keras.Model:
    """The same model with `count` more ids before its own, which it never predicts.

    Models like nanoGPT's character models know their characters and nothing else, but a tokenizer
    here has ids for "unknown" and "end of text", too. In the new model, id i + `count` is id i (or
    order[i]) of the old one. The new ids read as the mean of all tokens, and their logit is -10,000
    everywhere, so that their probability is 0 and all others are what they were.

    A linear head without a bias has that constant in it, because a final layer norm comes before
    it: x = g * z + b, and the entries of z sum to 0 whatever the text is. So with S = sum(b / g)
    and u = 1 / (S g), u . x = 1 always, and u is the direction in which a head's rows can have a
    bias. To keep S away from 0, b becomes b + s g with s = sign(S), which adds s w . g to the logit
    of a row w; taking s (w . g) u off that row undoes it.

    Args:
        model: CausalLM on a GPTBackbone with layer norms. It is not changed.
        count: int, at least 1.
        order: which id of the old model each of the new ones is, after the special ones. Defaults
            to all of them as they are.

    Returns:
        CausalLM with biases, untied embeddings and `count` more ids.

    Raises:
        BundleError: another model, or a final norm with a scale of 0.

    Example: `add_special_ids(model, 2).vocabulary_size == model.vocabulary_size + 2`
    """
    config = model.backbone.config
    if config.family != "gpt" or config.norm != "layer_norm":
        raise BundleError(
            "only a GPT with norm='layer_norm' can take special ids. "
            f"Received: family {config.family!r}, norm {getattr(config, 'norm', None)!r}"
        )
    values = {name: np.asarray(keras.ops.convert_to_numpy(w)) for name, w in _weights(model)}
    gamma = values["final_norm/gamma"].astype(np.float64)
    beta = values.get("final_norm/beta", np.zeros_like(gamma)).astype(np.float64)
    if not np.all(gamma):
        raise BundleError("final_norm: a scale of exactly 0; this model cannot take special ids")
    sign = -1.0 if np.sum(beta / gamma) < 0 else 1.0
    beta = beta + sign * gamma
    bias_direction = 1 / gamma / np.sum(beta / gamma)  # (D,)
    embeddings = values["token_embedding/embeddings"]  # (V, D)
    head = values.get("token_embedding/reverse_embeddings", embeddings.T).T.astype(np.float64)
    head = head - sign * (head @ gamma)[:, None] * bias_direction
    special_head = np.tile(NEVER * bias_direction, (count, 1))
    order = list(range(len(head))) if order is None else list(order)
    special = np.tile(embeddings.mean(axis=0), (count, 1))

    grown = build(
        dataclasses.replace(
            config,
            vocabulary_size=count + len(order),
            tie_embeddings=False,
            use_bias=True,
        )
    )
    values |= {
        "final_norm/beta": beta,
        "token_embedding/embeddings": np.concatenate([special, embeddings[order]]),
        "token_embedding/reverse_embeddings": np.concatenate([special_head, head[order]]).T,
    }
    for name, weight in _weights(grown):
        # What a model without biases lacks are biases, and it works as if they were 0.
        values.setdefault(name, np.zeros(weight.shape))
    sources = {name: lambda value=value: value.astype(np.float32) for name, value in values.items()}
    assign_weights(grown, sources, where="add_special_ids")
    return grown


def _weights(model: keras.Model):
    return model_weights(model).items()
