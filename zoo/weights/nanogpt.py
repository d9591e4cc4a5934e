"""nanoGPT and minGPT checkpoints in safetensors format as our models.

Karpathy's two repositories share their weights' names. They differ in GELU (minGPT: the tanh
approximation, nanoGPT: exact), in biases (nanoGPT may have none) and in the head (nanoGPT ties it
to the token embedding). Their `ckpt.pt` is a pickle, which runs code when it is read; `load` tells
how to turn one into safetensors.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from zoo.bundle import Bundle, bundle_in_memory
from zoo.config import ConfigError, Fields, config_dataclass, from_dict
from zoo.files import BundleError, inside
from zoo.models.build import build
from zoo.models.configs import GPTConfig
from zoo.tokenizers import CharacterTokenizer, Tokenizer
from zoo.weights.assign import assign_weights, listed, model_weights
from zoo.weights.families import NANOGPT
from zoo.weights.safetensors_files import WeightFiles, open_weights

Activation = Literal["gelu", "gelu_tanh"]

# torch.compile wraps the model, and its name stands before all others.
_COMPILED = "_orig_mod."
# The causal mask, kept as a buffer beside the weights.
_BUFFER = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_BLOCK = re.compile(r"transformer\.h\.(\d+)\.")
_TOKENS, _POSITIONS = "transformer.wte.weight", "transformer.wpe.weight"
# A logit whose exp is 0 in float32 beside any other that a model gives.
_NEVER = -1e4


@config_dataclass
class CheckpointConfig:
    """What nanoGPT's and minGPT's own configs hold; None is read off the weights, but for n_head.

    `dropout` is nanoGPT's name, the three rates are minGPT's; `model_type` says nothing more.
    """

    n_layer: int | None = None
    n_head: int | None = None
    n_embd: int | None = None
    block_size: int | None = None
    vocab_size: int | None = None
    bias: bool | None = None
    dropout: float = 0.0
    embd_pdrop: float | None = None
    resid_pdrop: float | None = None
    attn_pdrop: float | None = None
    model_type: str | None = None

    def __post_init__(self):
        if len({self.embd_pdrop, self.resid_pdrop, self.attn_pdrop} - {None}) > 1:
            raise ConfigError(
                "embd_pdrop, resid_pdrop and attn_pdrop differ, and a model has one dropout here. "
                "Give all three the same number: predictions do not depend on it"
            )


def load(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer | None = None,
    characters: str | None = None,
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    n_head: int | None = None,
    activation: Activation = "gelu",
    start_text: str | None = None,
) -> Bundle:
    """A checkpoint of nanoGPT or minGPT and its tokenizer, ready to serve.

    A model of characters has no ids for "unknown" and "end of text": it gets two more rows, which
    it never predicts, so that our CharacterTokenizer fits it. All other probabilities stay what
    they were.

    nanoGPT keeps its characters in `meta.pkl`, and its weights in `ckpt.pt`. Both are pickles:
    turn your own into what is read here, where PyTorch is installed:

        checkpoint = torch.load("ckpt.pt", map_location="cpu")
        weights = {k: v.clone() for k, v in checkpoint["model"].items()}
        safetensors.torch.save_file(weights, "model.safetensors")
        json.dump(checkpoint["model_args"], open("config.json", "w"))
        itos = pickle.load(open("meta.pkl", "rb"))["itos"]
        characters = "".join(itos[i] for i in range(len(itos)))

    Args:
        path: a safetensors file, or a folder with `model.safetensors`.
        tokenizer: whose ids are the checkpoint's; it may have fewer (nanoGPT rounds GPT-2's 50257
            up to 50304). Either this or `characters`.
        characters: the character of each id, in the order of ids.
        config: the checkpoint's `model_args`, as a dict or a JSON file. Defaults to the
            `config.json` beside the weights, if there is one. What it lacks is read off the
            weights' shapes, `n_head` excepted.
        n_head: int, attention heads; needed unless the config has it.
        activation: "gelu" as nanoGPT's `nn.GELU()`, or "gelu_tanh" for what was trained with the
            approximation: minGPT, and nanoGPT before it took `nn.GELU()`. Defaults to "gelu".
        start_text: one character, what an empty text reads, such as "\\n". Defaults to the
            tokenizer's end of text, which tells a model of characters nothing.

    Returns:
        Bundle, in memory; `zoo.save` writes it.

    Raises:
        BundleError: no such file, not safetensors, a tensor that is missing, unknown or of a wrong
            shape, a config that does not fit, or no `n_head`; the message names it.
        ValueError: tokenizer or characters do not fit the model, or `start_text` is not one token.
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
    activation: Activation = "gelu",
) -> keras.Model:
    """The CausalLM of a checkpoint with its own ids; arguments and errors as `load` has them.

    Its embeddings are tied if the file has no `lm_head.weight`, or one that equals the token
    embedding.
    """
    fields = _read_config(Path(path), config)
    if n_head is not None:
        if fields.n_head not in (None, n_head):
            raise BundleError(f"{path}: n_head={n_head}, but the config says {fields.n_head}")
        fields = dataclasses.replace(fields, n_head=n_head)
    with open_weights(path) as weights:
        return _build(weights, fields, activation)


def _read_config(
    path: Path, config: Mapping[str, Any] | str | os.PathLike[str] | None
) -> CheckpointConfig:
    where = "config"
    if not isinstance(config, Mapping):
        beside = inside(path if path.is_dir() else path.parent, "config.json")
        file = beside if config is None else Path(config)
        where, config = str(file), Fields.read(file, optional=config is None).values
    try:
        return from_dict(CheckpointConfig, dict(config), where)
    except ConfigError as error:
        raise BundleError(str(error)) from None


def _build(weights: WeightFiles, fields: CheckpointConfig, activation: Activation) -> keras.Model:
    names = {name.removeprefix(_COMPILED): name for name in weights.names()}
    names = {name: key for name, key in names.items() if not _BUFFER.fullmatch(name)}
    for name in (_TOKENS, _POSITIONS):
        if name not in names or len(weights.shape(names[name])) != 2:
            raise BundleError(
                f"{weights.path}: no matrix {name!r}, so this is no minGPT or nanoGPT model"
            )
    head = NANOGPT.untied_head
    config = _model_config(weights, names, fields, activation, tied=_is_tied(weights, names, head))
    tables = {
        ours: dataclasses.replace(
            table, names=tuple(n if n == head else NANOGPT.prefix + n for n in table.names)
        )
        for ours, table in NANOGPT.backbone_tensors(config).items()
    }
    expected = {name for table in tables.values() for name in table.names}
    problems = [f"{name} is missing" for name in sorted(expected - names.keys())]
    problems += [f"{name} is unknown" for name in sorted(names.keys() - expected - {head})]
    width = config.hidden_dim
    for name in names:
        is_turned = weights.shape(names[name]) == (width, 3 * width)
        if is_turned and name.endswith("attn.c_attn.weight"):
            problems.append(
                f"{name} has shape {[width, 3 * width]} in place of {[3 * width, width]}; "
                "Hugging Face's GPT-2 is turned like that: load it as hf://"
            )
    if problems:
        raise BundleError(f"{weights.path}: {listed(problems, '; ')}")
    model = build(config)
    sources = {
        ours: lambda table=table: table.to_variable([weights.read(names[n]) for n in table.names])
        for ours, table in tables.items()
    }
    assign_weights(model, sources, where=str(weights.path))
    return model


def _model_config(
    weights: WeightFiles,
    names: dict[str, str],
    fields: CheckpointConfig,
    activation: Activation,
    tied: bool,
) -> GPTConfig:
    vocab_size, n_embd = weights.shape(names[_TOKENS])
    found = {
        "n_layer": len({match[1] for match in map(_BLOCK.match, names) if match}),
        "n_embd": n_embd,
        "block_size": weights.shape(names[_POSITIONS])[0],
        "vocab_size": vocab_size,
        "bias": "transformer.h.0.attn.c_attn.bias" in names,
    }
    for key, value in found.items():
        stated = getattr(fields, key)
        if stated not in (None, value):
            raise BundleError(
                f"{weights.path}: {key} is {value} by the weights, but the config says {stated}"
            )
    if fields.n_head is None:
        raise BundleError(
            f"{weights.path}: the number of attention heads cannot be read off the weights: pass "
            "n_head=..., or a config that has it"
        )
    found["n_head"] = fields.n_head
    values = {ours: found[option.name] for ours, option in NANOGPT.options.items()}
    dropout = fields.dropout if fields.resid_pdrop is None else fields.resid_pdrop
    values |= {"activation": activation, "tie_embeddings": tied, "dropout": dropout}
    try:
        return from_dict(GPTConfig, {**values, **NANOGPT.fixed})
    except ConfigError as error:
        raise BundleError(f"{weights.path}: {error}") from None


def _is_tied(weights: WeightFiles, names: dict[str, str], head: str) -> bool:
    # A file of tied weights has the head as a copy, or not at all.
    if head not in names:
        return True
    if weights.shape(names[head]) != weights.shape(names[_TOKENS]):
        return False
    return np.array_equal(weights.read(names[head]), weights.read(names[_TOKENS]))


def add_special_ids(
    model: keras.Model, count: int, order: Sequence[int] | None = None
) -> keras.Model:
    """The same model with `count` more ids before its own, which it never predicts.

    Models like nanoGPT's character models know their characters and nothing else, but a tokenizer
    here has ids for "unknown" and "end of text", too. In the new model, id i + `count` is id i (or
    order[i]) of the old one. The new ids read as the mean of all tokens, and their logit is -10,000
    everywhere, so that their probability is 0 and all others are what they were. The new model has
    biases and untied embeddings.

    A linear head without a bias has that constant in it, because a final layer norm comes before
    it: x = g * z + b, and the entries of z sum to 0 whatever the text is. So with S = sum(b / g)
    and u = 1 / (S g), u . x = 1 always, and u is the direction in which a head's rows can have a
    bias. To keep S away from 0, b becomes b + s g with s = sign(S), which adds s w . g to the logit
    of a row w; taking s (w . g) u off that row undoes it.

    Raises:
        BundleError: no GPT with layer norms, or a final norm with a scale of 0.
    """
    config = model.backbone.config
    if config.family != "gpt" or config.norm != "layer_norm":
        raise BundleError(
            "only a GPT with norm='layer_norm' can take special ids. "
            f"Received: family {config.family!r}, norm {getattr(config, 'norm', None)!r}"
        )
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
    grown = build(
        dataclasses.replace(config, vocabulary_size=size, tie_embeddings=False, use_bias=True)
    )
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
