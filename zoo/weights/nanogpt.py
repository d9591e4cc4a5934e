"""nanoGPT and minGPT checkpoints in safetensors format as our models. The two share names, and
differ in GELU (minGPT: the tanh approximation), biases and the head (nanoGPT: may have no biases,
and ties the head to the token embedding).
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from zoo.bundle import Bundle, bundle_in_memory
from zoo.config import Fields
from zoo.files import BundleError, blaming, inside
from zoo.models.build import build
from zoo.models.configs import GPTConfig
from zoo.tokenizers import CharacterTokenizer, Tokenizer
from zoo.weights.assign import assign_weights, listed, model_weights, sources_of
from zoo.weights.families import NANOGPT
from zoo.weights.safetensors_files import WeightFiles

_BLOCK = re.compile(r"h\.(\d+)\.")
# nanoGPT's name, and minGPT's; a model has one dropout here, and predictions do not depend on it.
_DROPOUTS = ("dropout", "embd_pdrop", "resid_pdrop", "attn_pdrop")
# A logit whose exp is 0 in float32 beside any other that a model gives.
_NEVER = -1e4


def load(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer | None = None,
    characters: str | None = None,
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    n_head: int | None = None,
    activation: Literal["gelu", "gelu_tanh"] = "gelu",
    start_text: str | None = None,
) -> Bundle:
    """A checkpoint of nanoGPT or minGPT and its tokenizer, ready to serve.

    nanoGPT's own files are pickles, which run code when they are read: docs/weights.md says how to
    turn yours into safetensors.

    Args:
        path: a safetensors file, or the folder of a `model.safetensors`.
        tokenizer: whose ids are the checkpoint's; it may have fewer, since nanoGPT pads.
        characters: in place of a tokenizer, in the order of ids. The model gets two more rows, for
            "unknown" and "end of text", which it never predicts.
        config: the checkpoint's `model_args`, a dict or a JSON file. Defaults to the `config.json`
            beside the weights; what that lacks is read off their shapes, but for `n_head`.
        n_head: number of attention heads.
        activation: "gelu", nanoGPT's, or "gelu_tanh", minGPT's and that of older nanoGPTs.
        start_text: one character, what an empty text reads. Defaults to the tokenizer's end of
            text, which tells a model of characters nothing.

    Raises:
        BundleError: files that are missing or do not fit together; the message says what.
        ValueError: tokenizer, characters or `start_text` do not fit the model.
    """
    if (tokenizer is None) == (characters is None):
        raise ValueError("pass either tokenizer= or characters=, whose ids are the checkpoint's")
    if characters is not None:
        tokenizer = CharacterTokenizer(characters)
    model = load_model(path, config, n_head, activation)
    if characters is not None:
        if len(characters) != model.vocabulary_size:
            raise ValueError(
                f"{path}: {model.vocabulary_size} ids, but {len(characters)} characters were given"
            )
        order = [characters.index(character) for character in tokenizer.vocabulary]
        model = add_special_ids(model, tokenizer.vocabulary_size - len(characters), order)
    start_id = None
    if start_text is not None:
        ids = tokenizer.encode([start_text]).flat_values.numpy()
        if len(ids) != 1 or ids[0] == tokenizer.unknown_id:
            raise ValueError(f"start_text must be one known token. Received: {start_text!r}")
        start_id = int(ids[0])
    return bundle_in_memory(Path(path), model, tokenizer, start_id)


def load_model(
    path: str | os.PathLike[str],
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    n_head: int | None = None,
    activation: Literal["gelu", "gelu_tanh"] = "gelu",
) -> keras.Model:
    """The CausalLM of a checkpoint with its own ids; arguments and errors as `load` has them."""
    if isinstance(config, Mapping):
        fields = Fields(dict(config), "config")
    else:
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        file = inside(folder, "config.json") if config is None else Path(config)
        fields = Fields.read(file, optional=config is None)
    weights = WeightFiles(path)
    where, names = weights.path, NANOGPT.stored_names(weights.names(), weights.path)
    shapes = {name: weights.shape(stored) for name, stored in names.items()}
    for name in ("wte.weight", "wpe.weight"):
        if len(shapes.get(name, ())) != 2:
            raise BundleError(f"{where}: no matrix {name!r}, so this is no minGPT or nanoGPT model")

    def read(name: str) -> np.ndarray:
        return weights.read(names[name])

    head = NANOGPT.untied_head
    tied = shapes.get(head, shapes["wte.weight"]) == shapes["wte.weight"] and (
        head not in names or np.array_equal(read(head), read("wte.weight"))
    )
    built = _model_config(fields, shapes, n_head, where)
    built = dataclasses.replace(built, activation=activation, tie_embeddings=tied)
    tables = NANOGPT.backbone_tensors(built)
    expected = {name for table in tables.values() for name in table.names}
    problems = [f"{name} is missing" for name in sorted(expected - names.keys())]
    problems += [f"{name} is unknown" for name in sorted(names.keys() - expected - {head})]
    turned = (built.hidden_dim, 3 * built.hidden_dim)
    problems += [
        f"{name} has shape {[*turned]} in place of {[*turned[::-1]]}; Hugging Face's GPT-2 is "
        "turned like that: load it as hf://"
        for name, shape in shapes.items()
        if name.endswith("attn.c_attn.weight") and shape == turned
    ]
    if problems:
        raise BundleError(f"{where}: {listed(problems, '; ')}")
    model = build(built)
    assign_weights(model, sources_of(tables, read), where)
    return model


def _model_config(
    fields: Fields, shapes: dict[str, tuple[int, ...]], n_head: int | None, where: Path
) -> GPTConfig:
    """What the shapes say; the config may say it, too, and says how many heads there are."""
    options = [option.name for option in NANOGPT.options.values()]
    fields.only([*options, *_DROPOUTS, "model_type"], f"known are {', '.join(options)}")
    found = {
        "vocab_size": shapes["wte.weight"][0],
        "block_size": shapes["wpe.weight"][0],
        "n_layer": len({match[1] for match in map(_BLOCK.match, shapes) if match}),
        "n_embd": shapes["wte.weight"][1],
        "bias": "h.0.attn.c_attn.bias" in shapes,
    }
    for key, value in found.items():
        stated = fields.values.get(key)
        if stated not in (None, value):
            raise BundleError(
                f"{where}: {key} is {value} by the weights, but the config says {stated!r:.80}"
            )
    found["n_head"] = heads = fields.whole("n_head", n_head)
    if heads is None:
        raise BundleError(
            f"{where}: the number of attention heads cannot be read off the weights: pass "
            "n_head=..., or a config that has it"
        )
    if n_head not in (None, heads):
        raise BundleError(f"{where}: n_head={n_head}, but the config says {heads}")
    dropouts = {fields.number(name) for name in _DROPOUTS} - {None}
    if len(dropouts) > 1:
        raise BundleError(
            f"{fields.where}: {', '.join(_DROPOUTS)} differ. Give them the same number: "
            "predictions do not depend on it"
        )
    values = {ours: found[option.name] for ours, option in NANOGPT.options.items()}
    with blaming(where):
        return GPTConfig(**values, **NANOGPT.fixed, dropout=max(dropouts, default=0.0))


def add_special_ids(
    model: keras.Model, count: int, order: Sequence[int] | None = None
) -> keras.Model:
    """The same model with `count` more ids before its own, which it never predicts.

    In the new model, id i + `count` is id i (or order[i]) of the old one. The new ids read as the
    mean of all tokens, and their logit is -10,000 everywhere: all others stay what they were.
    """
    # A linear head after a layer norm can have a constant in it: x = g * z + b, and the entries of
    # z sum to 0. So with S = sum(b / g) and u = 1 / (S g), u . x = 1 always. To keep S away from 0,
    # b becomes b + s g with s = sign(S), which adds s w . g to the logit of a row w; taking
    # s (w . g) u off that row undoes it.
    config = model.backbone.config
    if (kind := (config.family, getattr(config, "norm", None))) != ("gpt", "layer_norm"):
        raise BundleError(f"only a GPT with norm='layer_norm' can take special ids, and not {kind}")
    values = {n: keras.ops.convert_to_numpy(w) for n, w in model_weights(model).items()}
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
    special_head = np.tile(_NEVER * bias_direction, (count, 1))
    order = list(range(len(head))) if order is None else list(order)
    special = np.tile(embeddings.mean(axis=0), (count, 1))
    size = count + len(order)
    grown = build(config, vocabulary_size=size, tie_embeddings=False, use_bias=True)
    values |= {
        "final_norm/beta": beta,
        "token_embedding/embeddings": np.concatenate([special, embeddings[order]]),
        "token_embedding/reverse_embeddings": np.concatenate([special_head, head[order]]).T,
    }
    for name, weight in model_weights(grown).items():
        # What a model without biases lacks are biases, and it works as if they were 0.
        values.setdefault(name, np.zeros(weight.shape))
    sources = {name: lambda value=value: value.astype(np.float32) for name, value in values.items()}
    assign_weights(grown, sources, where="add_special_ids")
    return grown
