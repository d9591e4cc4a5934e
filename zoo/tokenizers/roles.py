"""Which special tokens an encoder's input is packed with, for tokenizers that may have none."""

from collections.abc import Mapping

from zoo.tokenizers.base import Tokenizer

# Role -> the attribute that holds its id.
ROLES = {
    "cls": "cls_id",
    "sep": "sep_id",
    "pad": "pad_id",
    "mask": "mask_id",
    "unknown": "unknown_id",
}


def set_roles(tokenizer: Tokenizer, roles: Mapping[str, str] | None) -> None:
    """Sets `cls_id`, `sep_id`, `pad_id`, `mask_id` and `unknown_id` of the roles that are given.

    Args:
        tokenizer: its `special_tokens` are set.
        roles: role -> name of a special token; None for none.

    Raises ValueError for an unknown role, or a name that is no special token.
    """
    tokenizer.unknown_id = None
    for role, name in (roles or {}).items():
        if role not in ROLES:
            raise ValueError(f"roles: {role!r} is none of {', '.join(ROLES)}.")
        if name not in tokenizer.special_tokens:
            raise ValueError(
                f"roles: {role}={name!r} is no special token; those are "
                f"{', '.join(tokenizer.special_tokens) or 'none'}."
            )
        setattr(tokenizer, ROLES[role], tokenizer.special_tokens[name])


def require_roles(tokenizer: Tokenizer, *roles: str) -> None:
    """Raises ValueError unless the tokenizer has the roles, such as "cls" and "sep"."""
    missing = [role for role in roles if getattr(tokenizer, ROLES[role], None) is None]
    if missing:
        raise ValueError(
            f"a {tokenizer.kind} tokenizer without special tokens for {', '.join(missing)} cannot "
            "feed an encoder. Use a WordPiece tokenizer, or one made with "
            'roles={"cls": "<s>", "sep": "</s>", "pad": "<pad>", ...}.'
        )
