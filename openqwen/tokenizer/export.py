"""A tokenizer's files: our own two, and the Hugging Face layout that other programs read.

Report §2.2, A.1.1. vocab.tiktoken and special.json are the tokenizer; tokenizer.json and tokenizer_config.json
say the same to `tokenizers` and `transformers`; merges.txt is for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from openqwen.core.artifact import write_atomic, write_json
from openqwen.tokenizer.pattern import QWEN_PATTERN
from openqwen.tokenizer.ranks import to_letters, write_ranks
from openqwen.tokenizer.tokenizer import END_OF_TEXT, IM_END, IM_START, Tokenizer

# ChatML as a Jinja template: the same text as chat/chatml.py renders (tests hold them equal). Other programs tokenise that
# text with control tokens parsed, so there content that spells <|im_end|> ends its message; a template cannot prevent it.
CHAT_TEMPLATE = (
    "{%- if not messages or messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def save(tokenizer: Tokenizer, folder: Path, max_length: int | None = None) -> None:
    """Writes vocab.tiktoken, special.json, tokenizer.json, tokenizer_config.json and merges.txt.

    max_length: of the model, for an export: tokenizer_config.json names it then, and chat_template.jinja holds the
    template, where newer programs look for it.
    """
    merges = find_merges(tokenizer.ranks)
    config = tokenizer_config(tokenizer, merges)
    write_ranks(folder / "vocab.tiktoken", tokenizer.ranks)
    write_json(folder / "special.json", tokenizer.special)
    write_atomic(folder / "tokenizer.json", json.dumps(tokenizer_json(tokenizer, merges), ensure_ascii=False))
    if max_length is not None:
        config["model_max_length"] = max_length
        write_atomic(folder / "chat_template.jinja", CHAT_TEMPLATE)
    write_json(folder / "tokenizer_config.json", config)
    write_atomic(folder / "merges.txt", merges_listing(tokenizer.ranks, merges))


def find_merges(ranks: Mapping[bytes, int]) -> dict[bytes, tuple[bytes, bytes]]:
    """For each token, the two older tokens it is joined from, in rank order.

    A token that the older ones never bring together has no entry; the released vocabulary has none of these.
    """
    merges = {}
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = _merge_below(token, ranks, rank)
            if len(parts) == 2:
                merges[token] = (parts[0], parts[1])
    return merges


def _merge_below(token: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """bpe.merge_parts without its recounting: tokens are short, so a list of pair ranks is kept beside the parts."""
    parts = [token[i : i + 1] for i in range(len(token))]
    pairs = [ranks.get(a + b, limit) for a, b in pairwise(parts)]
    while pairs and (best := min(pairs)) < limit:
        at = pairs.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del pairs[at]
        if at < len(pairs):
            pairs[at] = ranks.get(parts[at] + parts[at + 1], limit)
        if at:
            pairs[at - 1] = ranks.get(parts[at - 1] + parts[at], limit)
    return parts


def merges_listing(ranks: Mapping[bytes, int], merges: Mapping[bytes, tuple[bytes, bytes]]) -> str:
    """One line a token: rank, the two parts, the token, as Python writes them where they are not plain text."""
    lines = ["# rank  left + right = token"]
    for token, (left, right) in merges.items():
        lines.append(f"{ranks[token]}  {readable(left)} + {readable(right)} = {readable(token)}")
    return "\n".join(lines) + "\n"


def readable(token: bytes) -> str:
    """`" the"` in quotes if the bytes are text, else `b'\\xe4\\xbd'`."""
    try:
        return json.dumps(token.decode(), ensure_ascii=False)
    except UnicodeDecodeError:
        return repr(token)


def tokenizer_json(tokenizer: Tokenizer, merges: Mapping[bytes, tuple[bytes, bytes]]) -> dict[str, Any]:
    """The content of tokenizer.json."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name, i in tokenizer.special.items()
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": QWEN_PATTERN},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a piece that is a token is that token, as in tiktoken
            "vocab": {to_letters(token): rank for token, rank in tokenizer.ranks.items()},
            "merges": [[to_letters(left), to_letters(right)] for left, right in merges.values()],
        },
    }


def tokenizer_config(tokenizer: Tokenizer, merges: Mapping[bytes, tuple[bytes, bytes]]) -> dict[str, Any]:
    """The content of tokenizer_config.json: its class, ChatML's template, and which tokens end and pad."""
    return {
        "tokenizer_class": _class_of(tokenizer, merges),
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "additional_special_tokens": [IM_START, IM_END],
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "errors": "replace",
        "chat_template": CHAT_TEMPLATE,
    }


def _class_of(tokenizer: Tokenizer, merges: Mapping[bytes, tuple[bytes, bytes]]) -> str:
    """Qwen2Tokenizer, unless some text gives a token that merges alone do not reach.

    transformers 5 builds that class anew from vocabulary and merges and leaves ignore_merges out; the general class
    takes tokenizer.json as it is.
    """
    apart = [token for token in tokenizer.ranks if len(token) > 1 and token not in merges]
    reached = any(
        tokenizer.encode(token.decode(errors="replace")) == [tokenizer.ranks[token]] for token in apart
    )
    return "PreTrainedTokenizerFast" if reached else "Qwen2Tokenizer"
