"""Makes `tests/zoo/fixtures/encoder_decoders`: tiny encoder-decoders of transformers, with their
tokenizers, and what they answer.

Needs torch, transformers, sentencepiece and protobuf; tests read what it wrote and need none of
them.

    python tools/make_encoder_decoder_fixtures.py [--searches]  # the searches of what is there
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import safetensors.torch
import sentencepiece
import tokenizers
import torch
import transformers
from transformers.convert_slow_tokenizer import import_protobuf

FOLDER = Path(__file__).parent.parent / "tests" / "zoo" / "fixtures" / "encoder_decoders"
# Widths that are all different, so that no matrix fits where another or its transpose belongs.
T5 = {
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 18,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9,
    "decoder_start_token_id": 0,
}
BART = {
    "d_model": 12,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 18,
    "decoder_ffn_dim": 18,
    "max_position_embeddings": 40,
    "forced_eos_token_id": None,
}
# Name of the fixture -> class of transformers, its config, and tokenizer files.
MODELS = {
    "t5": ("T5ForConditionalGeneration", T5),
    "t5_gated": (
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": ("MT5ForConditionalGeneration", {**T5, "num_decoder_layers": 2}),
    "bart": ("BartForConditionalGeneration", BART),
    "mbart": (
        "MBartForConditionalGeneration",
        {**BART, "scale_embedding": True, "activation_function": "relu"},
    ),
    "mbart50": (
        "MBartForConditionalGeneration",
        {**BART, "scale_embedding": True, "decoder_start_token_id": 2},
    ),
    "pegasus": (
        "PegasusForConditionalGeneration",
        {**BART, "scale_embedding": True, "activation_function": "relu"},
    ),
    "marian": (
        "MarianMTModel",
        {**BART, "scale_embedding": True, "activation_function": "swish", "eos_token_id": 0},
    ),
}
# What a generation_config.json may say: as of BART's summaries, OPUS-MT's, and others.
_FORCED = {"forced_eos_token_id": "end"}
SEARCHES = {
    "summary": {
        "num_beams": 4,
        "length_penalty": 2.0,
        "early_stopping": True,
        "no_repeat_ngram_size": 2,
        "min_length": 6,
        "max_length": 12,
        **_FORCED,
    },
    "translation": {"num_beams": 3, "max_length": 9, "renormalize_logits": True, **_FORCED},
    "patient": {
        "num_beams": 2,
        "length_penalty": 0.6,
        "early_stopping": "never",
        "min_new_tokens": 4,
        "max_new_tokens": 10,
        "no_repeat_ngram_size": 1,
    },
    "hasty": {"num_beams": 3, "early_stopping": True, "length_penalty": -1.0, "max_length": 10},
    "greedy": {"no_repeat_ngram_size": 3, "min_length": 5, "max_length": 12, **_FORCED},
}
SEARCHED = ("t5", "bart", "mbart50", "pegasus", "marian")
SENTENCES = """\
The quick brown fox jumps over the lazy dog.
A model reads a source text and writes a target text.
Der schnelle braune Fuchs springt über den faulen Hund.
Ein Modell liest einen Text und schreibt einen anderen.
Le renard brun saute par-dessus le chien paresseux, déjà vu.
Summarize the text below in one sentence, please: it is 1984.
敏捷的棕色狐狸跳过了懒狗。
模型读一段文字，写另一段文字。
The fox reads the text and the dog reads the text of the fox, sentence by sentence.
The text that the model writes is the text that the model reads, translated or shortened.
Der Hund liest den Text und der Fuchs liest den Text des Hundes, Satz für Satz.
Der Text, den das Modell schreibt, ist der Text, den das Modell liest.
Numbers 0 1 2 3 4 5 6 7 8 9 and signs ! ? - : ; ' " ( )"""
TEXTS = [
    "The quick brown fox.",
    "  doubled   spaces  inside ",
    "Ein naïver Käfer über alles, déjà vu!",
    "狐狸 reads 文字。",
    "emoji 😀😀 end 🦊",
    "",
    " ",
    "ＡＢ full width\u00a0blank\ttab\nline",
    "one.two...three   ",
    "ẞßﬁ ½ x",
    ">>deu<< The fox",
    ">>fra<<The << fox",
    "The >>deu<< fox",
]


def main():
    """Writes all fixtures anew, or what `SEARCHES` find."""
    if "--searches" in sys.argv[1:]:
        for name in SEARCHED:
            make_searches(FOLDER / name)
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    for seed, name in enumerate(MODELS):
        make_fixture(FOLDER / name, name, seed)


def make_fixture(folder: Path, name: str, seed: int):
    """A model with its tokenizer, and what transformers makes of texts."""
    folder.mkdir(parents=True)
    tokenizer, fields = TOKENIZERS[name](folder)
    class_name, options = MODELS[name]
    options = {"vocab_size": len(tokenizer) + 1, **options, **fields}
    model_class = getattr(transformers, class_name)
    # Some of the searches end early, and some do not.
    if not any(make_model(folder, model_class, options, seed + 100 * n, n / 4) for n in range(40)):
        raise ValueError(f"{name}: all searches of all these models end, or none")
    answers = {"texts": TEXTS, "ids": tokenizer(TEXTS, add_special_tokens=True)["input_ids"]}
    targets = tokenizer(text_target=TEXTS)["input_ids"] if name == "marian" else None
    answers |= {"targets": targets} if targets else {}
    (folder / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")
    if name in SEARCHED:
        make_searches(folder)


def train(path: Path, size: int, text: str = SENTENCES, **options):
    """A unigram model with few rules of normalisation, so that the file is small."""
    rules = {9: 32, 10: 32, 0xA0: 32, 0xFB01: "fi", 0xBD: "1/2"}
    rules |= {0xFF21 + index: 65 + index for index in range(26)}
    with tempfile.TemporaryDirectory() as temporary:
        table = Path(temporary, "rules.tsv")
        lines = []
        for source, target in rules.items():
            points = [ord(c) for c in target] if isinstance(target, str) else [target]
            lines.append(f"{source:X}\t{' '.join(f'{point:X}' for point in points)}\n")
        table.write_text("".join(lines))
        Path(temporary, "text.txt").write_text(text)
        sentencepiece.SentencePieceTrainer.train(
            input=str(Path(temporary, "text.txt")),
            model_prefix=str(Path(temporary, "model")),
            vocab_size=size,
            normalization_rule_tsv=str(table),
            character_coverage=1.0,
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )
        shutil.move(Path(temporary, "model.model"), path)


T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def t5_tokenizer(folder: Path, extra_ids: int = 100):
    """spiece.model alone, as it was first published."""
    train(folder / "spiece.model", 140, **T5_IDS)
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": extra_ids}
    if extra_ids:
        names = [f"<extra_id_{index}>" for index in range(extra_ids)]
        config["additional_special_tokens"] = names
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return transformers.T5Tokenizer.from_pretrained(folder), {}


def t5_json(folder: Path):
    """tokenizer.json alone."""
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer, _ = t5_tokenizer(Path(temporary))
        tokenizer.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder), {}


def bart_tokenizer(folder: Path):
    """Byte pairs as GPT-2 and RoBERTa have them, in vocab.json and merges.txt."""
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.train_from_iterator(SENTENCES.splitlines(), trainer)
    model.model.save(str(folder))
    ids = json.loads((folder / "vocab.json").read_text())
    ids["<mask>"] = len(ids)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BartTokenizer"}))
    return transformers.BartTokenizer.from_pretrained(folder), {}


FAIRSEQ_IDS = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}


def mbart_tokenizer(folder: Path):
    """sentencepiece.bpe.model, as mBART was published."""
    train(folder / "sentencepiece.bpe.model", 140, **FAIRSEQ_IDS)
    config = {"tokenizer_class": "MBartTokenizer", "src_lang": "en_XX", "tgt_lang": "ro_RO"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = transformers.MBartTokenizer.from_pretrained(folder)
    return as_in_version_4(tokenizer, folder / "sentencepiece.bpe.model"), {}


def mbart50_tokenizer(folder: Path):
    """tokenizer.json, as transformers 4 wrote it."""
    with tempfile.TemporaryDirectory() as temporary:
        train(Path(temporary, "sentencepiece.bpe.model"), 140, **FAIRSEQ_IDS)
        tokenizer = transformers.MBart50Tokenizer.from_pretrained(temporary, src_lang="de_DE")
        tokenizer = as_in_version_4(tokenizer, Path(temporary, "sentencepiece.bpe.model"))
    tokenizer.save_pretrained(folder)
    config = {"tokenizer_class": "MBart50Tokenizer", "src_lang": "de_DE", "tgt_lang": "zh_CN"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer, {}


def as_in_version_4(tokenizer, model: Path):
    """With the model's own rules of normalisation; transformers 5 leaves some or all out."""
    proto = import_protobuf().ModelProto.FromString(model.read_bytes())
    charsmap = proto.normalizer_spec.precompiled_charsmap
    steps = [tokenizers.normalizers.Precompiled(charsmap), tokenizers.normalizers.Strip(False)]
    steps += [tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), "▁")]
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Sequence(steps)
    return tokenizer


def pegasus_tokenizer(folder: Path):
    """spiece.model alone, as it was first published."""
    train(folder / "spiece.model", 140, **T5_IDS)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PegasusTokenizer"}')
    tokenizer = transformers.PegasusTokenizer.from_pretrained(folder)
    return as_in_version_4(tokenizer, folder / "spiece.model"), {}


def marian_tokenizer(folder: Path):
    """source.spm, target.spm, and vocab.json with the ids of both."""
    english, others = SENTENCES.split("Der ", 1)
    pieces = ["</s>", "<unk>"]
    for side, text in {"source": english, "target": others}.items():
        path = folder / f"{side}.spm"
        train(path, 90, text, unk_id=1, eos_id=0, bos_id=-1, pad_id=-1)
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        pieces += [model.id_to_piece(index) for index in range(len(model))]
    names = [*dict.fromkeys(pieces), ">>deu<<", ">>zho<<", "<pad>"]
    ids = {piece: index for index, piece in enumerate(names)}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "MarianTokenizer"}')
    pad = ids["<pad>"]
    fields = {"vocab_size": len(ids), "pad_token_id": pad, "decoder_start_token_id": pad}
    return transformers.MarianTokenizer.from_pretrained(folder), fields


TOKENIZERS = {
    "t5": t5_tokenizer,
    "t5_gated": t5_json,
    "mt5": lambda folder: t5_tokenizer(folder, 0),
    "bart": bart_tokenizer,
    "mbart": mbart_tokenizer,
    "mbart50": mbart50_tokenizer,
    "pegasus": pegasus_tokenizer,
    "marian": marian_tokenizer,
}


def make_model(folder: Path, model_class, options: dict, seed: int, end_bias: float):
    """Saves a model with random weights, its logits and searches; whether some of those end."""
    torch.manual_seed(seed)
    model = model_class(model_class.config_class(**options, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_positions" in name and model.config.model_type in ("marian", "pegasus"):
                continue
            random = torch.round(torch.randn_like(weight) * 0.3 * 256) / 256
            centred = "norm" not in name or name.endswith("bias")
            weight.copy_(random if centred else 1 + random)
        # An end that is often the likeliest token, or never near.
        model.lm_head.weight[model.config.eos_token_id] *= 2
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(0, 0.5)
            model.final_logits_bias[0, model.config.eos_token_id] += end_bias
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if folder.name == "bart":  # as published; transformers 5 does not save it
        config = json.loads((folder / "config.json").read_text())
        config["forced_bos_token_id"] = 0
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if folder.name == "t5_gated":  # as it was published: transformers 5 ties what it saves
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        head = tensors["shared.weight"]
        tensors["lm_head.weight"] = head + torch.round(torch.randn_like(head) * 64) / 256
        safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        del config["scale_decoder_outputs"]
        config |= {"tie_word_embeddings": False, "transformers_version": "4.46.0"}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    model = model_class.from_pretrained(folder, attn_implementation="eager").eval()
    random = np.random.default_rng(seed)
    size = options["vocab_size"]
    lengths = np.array([9, 4, 7, 12])
    ids = random.integers(4, size, (4, 12))
    mask = (np.arange(12) < lengths[:, None]).astype("int64")
    targets = random.integers(4, size, (4, 11))
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    with torch.no_grad():
        logits = model(**inputs, decoder_input_ids=torch.tensor(targets)).logits.numpy()
    arrays = {"token_ids": ids, "mask": mask, "target_ids": targets}
    start, ends = model.config.decoder_start_token_id, model.config.eos_token_id
    start = 2 if start is None else start
    model.generation_config.forced_bos_token_id = None
    for name, search in {
        "greedy": {"num_beams": 1},
        "beams": {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 1.0},
        "long": {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 2.0},
    }.items():
        found = model.generate(
            **inputs,
            **search,
            decoder_start_token_id=start,
            max_new_tokens=9,
            do_sample=False,
            early_stopping=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        arrays[name] = found.sequences.numpy()
        if "num_return_sequences" in search:
            arrays[f"{name}_scores"] = found.sequences_scores.numpy()
    ended = (arrays["beams"][:, 1:] == ends).any(axis=1)
    arrays = {k: v if v.dtype == "float32" else v.astype("int32") for k, v in arrays.items()}
    np.savez_compressed(folder / "expected.npz", logits=logits, start=start, end=ends, **arrays)
    return 3 <= ended.sum() <= len(ended) - 3


def make_searches(folder: Path):
    """Saves generation configs, and what is found by each of the sources in `expected.npz`."""
    kind = json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"]
    tokenizer = getattr(transformers, kind).from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    end, start = tokenizer.eos_token_id, config.get("decoder_start_token_id")
    ids = {"eos_token_id": end, "decoder_start_token_id": end if start is None else start}
    ids |= {"pad_token_id": tokenizer.pad_token_id}
    ids |= {"forced_bos_token_id": config.get("forced_bos_token_id")}
    if folder.name == "mbart50":
        ids["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids("zh_CN")
    # Not written here: what is unknown, and ids that the tokenizer has not.
    ids["bad_words_ids"] = [[tokenizer.unk_token_id]]
    ids["bad_words_ids"] += [[index] for index in range(len(tokenizer), config["vocab_size"])]
    arrays = dict(np.load(folder / "expected.npz"))
    inputs = {"input_ids": "token_ids", "attention_mask": "mask"}
    inputs = {name: torch.tensor(arrays[ours]).long() for name, ours in inputs.items()}
    configs, found = {}, {}
    for name, search in SEARCHES.items():
        search = {key: end if value == "end" else value for key, value in search.items()}
        configs[name] = ids | search
        with tempfile.TemporaryDirectory() as temporary:
            copy = shutil.copytree(folder, temporary, dirs_exist_ok=True)
            (Path(copy) / "generation_config.json").write_text(json.dumps(configs[name]))
            model = transformers.AutoModelForSeq2SeqLM.from_pretrained(copy).eval()
        options = {"num_return_sequences": search["num_beams"]} if "num_beams" in search else {}
        options |= {"return_dict_in_generate": True, "output_scores": True}
        answer = model.generate(**inputs, **options)
        found[name] = answer.sequences.numpy().astype("int32")
        if "num_beams" in search:
            found[f"{name}_scores"] = answer.sequences_scores.numpy()
    (folder / "searches.json").write_text(json.dumps(configs, indent=1) + "\n")
    np.savez_compressed(folder / "searches.npz", **found)


if __name__ == "__main__":
    main()
