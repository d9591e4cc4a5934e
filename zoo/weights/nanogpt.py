"""minGPT and nanoGPT checkpoints as our models: from JSON or safetensors to a bundle.

Karpathy's two repositories share their weights' names. They differ in GELU (minGPT: the tanh
approximation, nanoGPT: exact), in biases (nanoGPT may have none) and in the head (nanoGPT ties it
to the token embedding). Their `ckpt.pt` is a pickle, which runs code when it is read; `load` tells
how to turn one into safetensors.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from zoo.bundle import Bundle, bundle_in_memory
from zoo.config import ConfigError, Fields, from_dict
from zoo.files import BundleError, inside
from zoo.tokenizers import CharacterTokenizer, Tokenizer
from zoo.weights.mingpt_json import TensorJson
from zoo.weights.nanogpt_tensors import Activation, CheckpointConfig, build_with_weights
from zoo.weights.safetensors_files import open_weights
from zoo.weights.special_ids import add_special_ids


def load_mingpt_json(path: str | os.PathLike[str]) -> keras.Model:
    """A minGPT model whose weights and config stand in one JSON file.

    Args:
        path: a file as `zoo.weights.mingpt_json.TensorJson` reads it.

    Returns:
        CausalLM with the checkpoint's own ids.

    Raises:
        BundleError: no such file, not JSON, a tensor that is missing, unknown, cut off, or of a
            wrong shape or dtype, or a config that does not fit; the message names it.

    Example:
        model = load_mingpt_json("gpt-nano-sort-model.json")
        model(np.array([[2, 0, 1]], "int32")).shape  # (1, 3, 3)
    """
    tensors = TensorJson(path)
    return build_with_weights(tensors, _checked(tensors.config, str(path)), "gelu_tanh")


def load_nanogpt(
    path: str | os.PathLike[str],
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    n_head: int | None = None,
    activation: Activation = "gelu",
) -> keras.Model:
    """A nanoGPT model from safetensors.

    Args:
        path: the file, or a folder with `model.safetensors`.
        config: the checkpoint's `model_args`, as a dict or a JSON file. Defaults to the
            `config.json` beside the weights, if there is one. What it lacks is read off the
            weights' shapes, `n_head` excepted.
        n_head: int, attention heads; needed unless the config has it.
        activation: "gelu" as nanoGPT's `nn.GELU()`, or "gelu_tanh" for what was trained with the
            approximation: minGPT, and nanoGPT before it took `nn.GELU()`. Defaults to "gelu".

    Returns:
        CausalLM with the checkpoint's own ids. Its embeddings are tied if the file has no
        `lm_head.weight`, or one that equals the token embedding.

    Raises:
        BundleError: no such file, not safetensors, a tensor that is missing, unknown or of a wrong
            shape, a config that does not fit, or no `n_head`; the message names it.

    Example: `load_nanogpt("out-shakespeare-char/model.safetensors", n_head=6)`
    """
    if isinstance(config, Mapping):
        fields = _checked(dict(config), "config")
    else:
        file = _config_beside(Path(path)) if config is None else Path(config)
        fields = CheckpointConfig() if file is None else _from_file(file)
    if n_head is not None:
        if fields.n_head not in (None, n_head):
            raise BundleError(f"{path}: n_head={n_head}, but the config says {fields.n_head}")
        fields = dataclasses.replace(fields, n_head=n_head)
    with open_weights(path) as weights:
        return build_with_weights(weights, fields, activation)


def load(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer | None = None,
    characters: str | None = None,
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    n_head: int | None = None,
    activation: Activation | None = None,
    start_text: str | None = None,
) -> Bundle:
    """A checkpoint of minGPT (JSON) or nanoGPT (safetensors) and its tokenizer, ready to serve.

    A model of characters has no ids for "unknown" and "end of text": it gets two more rows, which
    it never predicts (`zoo.weights.special_ids`), so that our CharacterTokenizer fits it. All
    other probabilities stay what they were.

    nanoGPT keeps its characters in `meta.pkl`, and its weights in `ckpt.pt`. Both are pickles:
    turn your own into what is read here, where PyTorch is installed:

        checkpoint = torch.load("ckpt.pt", map_location="cpu")
        weights = {k: v.clone() for k, v in checkpoint["model"].items()}
        safetensors.torch.save_file(weights, "model.safetensors")
        json.dump(checkpoint["model_args"], open("config.json", "w"))
        itos = pickle.load(open("meta.pkl", "rb"))["itos"]
        characters = "".join(itos[i] for i in range(len(itos)))

    Args:
        path: a `.json` file of minGPT, else as in `load_nanogpt`.
        tokenizer: whose ids are the checkpoint's; it may have fewer (nanoGPT rounds GPT-2's 50257
            up to 50304). Either this or `characters`.
        characters: the character of each id, in the order of ids.
        config, n_head, activation: as in `load_nanogpt`; a `.json` file has them itself.
        start_text: one character, what an empty text reads, such as "\\n". Defaults to the
            tokenizer's end of text, which tells a model of characters nothing.

    Returns:
        Bundle, in memory; `zoo.save` writes it.

    Raises:
        BundleError: as `load_mingpt_json` and `load_nanogpt`.
        ValueError: tokenizer or characters do not fit the model, or `start_text` is not one token.

    Example:
        bundle = nanogpt.load("gpt-nano-sort-model.json", characters="ABC")
        bundle.lm.generate(["CABBAC"], max_new_tokens=[6])["completion"]  # AABBCC
        zoo.save("runs/sort", bundle.model, bundle.tokenizer, bundle.config.start_id)
        # python -m export --workdir=runs/sort --out=served/sort
    """
    if (tokenizer is None) == (characters is None):
        raise ValueError("pass either tokenizer= or characters=, whose ids are the checkpoint's")
    if characters is not None:
        tokenizer = CharacterTokenizer(characters)
    if Path(path).suffix == ".json" and not str(path).endswith(".index.json"):
        given = {"config": config, "n_head": n_head, "activation": activation}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name}= is for safetensors: {path} has it itself")
        model = load_mingpt_json(path)
    else:
        model = load_nanogpt(path, config, n_head, activation or "gelu")
    if characters is not None:
        if len(characters) != model.vocabulary_size:
            raise ValueError(
                f"{path}: {model.vocabulary_size} ids, but {len(characters)} characters were given"
            )
        order = [characters.index(character) for character in tokenizer.vocabulary]
        specials = tokenizer.vocabulary_size - len(characters)
        model = add_special_ids(model, specials, order)
    start_id = None
    if start_text is not None:
        ids = tokenizer.encode([start_text]).flat_values.numpy()
        if len(ids) != 1 or ids[0] == tokenizer.unknown_id:
            raise ValueError(f"start_text must be one known token. Received: {start_text!r}")
        start_id = int(ids[0])
    return bundle_in_memory(Path(path), model, tokenizer, start_id)


def _config_beside(path: Path) -> Path | None:
    file = inside(path if path.is_dir() else path.parent, "config.json")
    return file if file.is_file() else None


def _from_file(path: Path) -> CheckpointConfig:
    return _checked(Fields.read(path).values, str(path))


def _checked(values: dict[str, Any], where: str) -> CheckpointConfig:
    try:
        return from_dict(CheckpointConfig, values, where)
    except ConfigError as error:
        raise BundleError(str(error)) from None
