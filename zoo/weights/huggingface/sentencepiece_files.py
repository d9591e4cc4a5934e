"""SentencePiece tokenizers of transformers: which ids it gives the pieces."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError, blaming, inside
from zoo.tokenizers import SentencePieceTokenizer
from zoo.tokenizers import sentencepiece_model as spm
from zoo.tokenizers.charsmap import QUOTES, with_rules_before
from zoo.tokenizers.unigram_files import read_encoder_options, read_unigram

Pieces = list[tuple[str, float, int]]
_MODELS = ("spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model")
_SPECIAL = ("<pad>", "<s>", "</s>")
# The codes of languages in the order of their ids, behind the pieces.
_CODES = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT "
    "lv_LV my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN "
    # mBART-50 has these, too.
    "af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF "
    "pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
)
MBART50 = tuple(_CODES.split())
MBART = MBART50[:25]


def read_sentencepiece(
    folder: Path,
    config: Fields,
    name: str,
    roles: Mapping[str, str] | None = None,
    pair_separators: int = 1,
) -> SentencePieceTokenizer:
    """The tokenizer of a folder; `config` is its tokenizer_config.json, `name` the class.

    With `roles` it is an encoder's, which finds its special tokens in texts.

    Raises:
        BundleError: no file of it is there, or one asks for what is not known here.
    """
    options: dict[str, Any] = {}
    if roles:
        options = {"end": roles["sep"], "roles": roles, "parse_special": True}
        options |= {"pair_separators": pair_separators}
        options["added_tokens"] = {roles["mask"]: ["lstrip"]}
    path = inside(folder, "tokenizer.json")
    if path.is_file():
        with blaming(path):
            model = read_unigram(path, {*_SPECIAL, *options.get("roles", {}).values()})
            options |= read_encoder_options(path, roles) if roles else {}
            return SentencePieceTokenizer(model, **options)
    found = [path for path in (inside(folder, file) for file in _MODELS) if path.is_file()]
    order = _ORDERS.get(name.removesuffix("Fast"))
    if not found or order is None:
        files = "" if order is None else f", and no {' and no '.join(_MODELS)}"
        raise BundleError(f"{folder}: no tokenizer.json{files}")
    with blaming(found[0]):
        pieces, charsmap = spm.read_unigram_model(found[0].read_bytes())
        pieces = order(pieces, config)
        pieces += _added(config, pieces)
        charsmap = _with_class_rules(charsmap, config, name.removesuffix("Fast"))
        return SentencePieceTokenizer(spm.write_unigram_model(pieces, charsmap), **options)


def _t5_order(pieces: Pieces, config: Fields) -> Pieces:
    """As they are, and the sentinels of its first training behind them, the last one first."""
    known = {text for text, _, _ in pieces}
    names = [f"<extra_id_{i}>" for i in range(config.whole("extra_ids", 100, least=0))]
    return pieces + _controls(*(name for name in reversed(names) if name not in known))


def _fairseq_order(*languages: str) -> Callable[[Pieces, Fields], Pieces]:
    """Four tokens of its own before the pieces, languages and the mask behind them."""

    def order(pieces: Pieces, config: Fields) -> Pieces:
        first = [text for text, _, _ in pieces[:3]]
        if first != ["<unk>", "<s>", "</s>"]:
            raise BundleError(f"the first pieces are {first!r:.80}, and not <unk>, <s> and </s>")
        start = [*_controls("<s>", "<pad>", "</s>"), pieces[0]]
        return [*start, *pieces[3:], *_controls(*languages, "<mask>")]

    return order


def _pegasus_order(pieces: Pieces, config: Fields) -> Pieces:
    """103 tokens of its own between the first two pieces and the others."""
    config.require("offset", (103,), "so many tokens stand between the first pieces")
    first = [text for text, _, _ in pieces[:3]]
    if first != ["<pad>", "</s>", "<unk>"]:
        raise BundleError(f"the first pieces are {first!r:.80}, and not <pad>, </s> and <unk>")
    own = ("<mask_1>", "<mask_2>", *(f"<unk_{index}>" for index in range(2, 103)))
    return [*_controls("<pad>", "</s>", *own), *pieces[2:]]


def _with_class_rules(charsmap: bytes, config: Fields, name: str) -> bytes:
    """The table of characters with what a class does to texts before."""
    if name == "DebertaV2Tokenizer":
        for field in ("do_lower_case", "split_by_punct"):
            config.require(field, (False,), "the model alone says what becomes of a text")
    if name != "AlbertTokenizer":
        return charsmap
    lowercase, keeps = config.flag("do_lower_case", True), config.flag("keep_accents", False)
    return with_rules_before(charsmap, lowercase, not keeps, QUOTES)


def _deberta_order(pieces: Pieces, config: Fields) -> Pieces:
    """As they are, and the mask behind them."""
    return pieces + _controls(*({"[MASK]"} - {text for text, _, _ in pieces}))


_ORDERS: dict[str, Callable[[Pieces, Fields], Pieces]] = {
    **dict.fromkeys(("T5Tokenizer", "MT5Tokenizer"), _t5_order),
    "MBartTokenizer": _fairseq_order(*MBART),
    "MBart50Tokenizer": _fairseq_order(*MBART50),
    "XLMRobertaTokenizer": _fairseq_order(),
    "PegasusTokenizer": _pegasus_order,
    "AlbertTokenizer": lambda pieces, config: pieces,
    "DebertaV2Tokenizer": _deberta_order,
}


def _controls(*names: str) -> Pieces:
    return [(name, 0.0, spm.CONTROL) for name in names]


def _added(config: Fields, pieces: Pieces) -> Pieces:
    """Tokens that tokenizer_config.json has beyond all pieces."""
    if config.values.get("added_tokens_decoder") is None:
        return []
    decoder, ids = config.part("added_tokens_decoder"), {p[0]: i for i, p in enumerate(pieces)}
    added: Pieces = []
    for key in sorted(decoder.values, key=lambda key: (len(key), key)):
        token, index = decoder.part(key), len(pieces) + len(added)
        name: Any = token.text("content")
        if str(ids.get(name, index)) != key:
            raise BundleError(
                f"{token.where}: {name!r:.80} has id {key:.20} there, and {ids.get(name, index)} "
                "beside the pieces"
            )
        if name not in ids:
            added.append((name, 0.0, spm.CONTROL if token.flag("special") else spm.USER_DEFINED))
    return added
