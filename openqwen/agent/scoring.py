"""Scores of Table 6: was the right tool chosen, how close are its arguments, was a tool called without need.

Report §3.4, Table 6. As the released evaluate_plugin does it: a call is what follows "\\nAction: "; arguments are
read as JSON5, written again with sorted keys, cut into the model's own tokens and compared by Rouge-L over all
positives, wrong tools included. Ours: exact arguments, and intervals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence

from openqwen.agent import json5

Tokenize = Callable[[str], Sequence[Hashable]]
_ACTION, _INPUT, _OBSERVATION = "\nAction: ", "\nAction Input: ", "\nObservation:"


def calls_tool(reply: str) -> bool:
    """Whether a reply counts as a call; for a question that needs no tool it is a false positive."""
    return _ACTION in reply


def action(reply: str) -> str:
    """The name of the first tool called, as compared: stripped, lower case."""
    return _between(reply, _ACTION, ("\n",)).strip().lower() if calls_tool(reply) else ""


def arguments(reply: str) -> str:
    """The arguments of the first call in a comparable form; empty where they cannot be read."""
    try:
        value = json5.loads(_between(reply, _INPUT, (_OBSERVATION,)).strip())
    except ValueError:
        return ""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _between(text: str, label: str, ends: tuple[str, ...]) -> str:
    start = text.find(label)
    if start < 0:
        return ""
    rest = text[start + len(label) :]
    return rest[: min((rest.find(end) for end in ends if end in rest), default=len(rest))]


def right_tool(gold: str, reply: str) -> bool:
    """Same tool called as in the golden reply."""
    return calls_tool(reply) and action(gold) == action(reply)


def input_score(gold: str, reply: str, tokenize: Tokenize) -> float:
    """Rouge-L F of the reply's arguments against the golden ones, over the tokens of the model's tokenizer."""
    return rouge_l(tokenize(arguments(gold)), tokenize(arguments(reply)))


def rouge_l(gold: Sequence[Hashable], given: Sequence[Hashable]) -> float:
    """F-measure of the longest common subsequence."""
    if not gold or not given:
        return 0.0
    common = longest_common(gold, given)
    precision, recall = common / len(given), common / len(gold)
    return 2 * precision * recall / (precision + recall) if common else 0.0


def longest_common(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for left in a:
        above_left = 0
        for j, right in enumerate(b, 1):
            above = row[j]
            row[j] = above_left + 1 if left == right else max(above, row[j - 1])
            above_left = above
    return row[-1]


def words_of(tokenizer: object) -> Tokenize:
    """Tokens as the released scorer compares them: without the white space they carry, empty ones left out."""

    def tokenize(text: str) -> list[bytes]:
        tokens = [tokenizer.decode_bytes([i]).strip() for i in tokenizer.encode(text)]  # type: ignore[attr-defined]
        return [token for token in tokens if token]

    return tokenize
