"""What a reply must look like, as a torch-free value: a JSON schema, a regular expression, one of some
strings, or a grammar.

Ours. guide.py turns it into masks over the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openqwen.core.errors import UsageError

# Characters of a schema, pattern or list; a pattern of a million alternatives takes 0.2 s to read.
MAX_LENGTH = 100_000


@dataclass(frozen=True)
class Constraint:
    """Made by `Constraint.json`, `.regex`, `.choice` or `.grammar`: of the whole reply, from its first character on."""

    kind: Literal["json", "regex", "choice", "grammar"]
    text: str  # the schema or the list as JSON, the pattern, or the grammar

    def __post_init__(self) -> None:
        if len(self.text) > MAX_LENGTH:
            raise UsageError(
                f"a {self.kind} constraint of {len(self.text)} characters is longer than {MAX_LENGTH}"
            )
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the {self.kind} constraint is not Unicode text: {error.reason}") from error

    @classmethod
    def json(cls, schema: Mapping[str, Any] | None = None) -> Constraint:
        """JSON that fulfils a JSON Schema; None: any JSON object. Properties come in the schema's order."""
        if schema is not None and not isinstance(schema, Mapping):
            raise UsageError(f"a JSON schema is an object, not {type(schema).__name__}")
        try:
            text = json.dumps({"type": "object"} if schema is None else schema, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"the JSON schema is not JSON: {error}") from error
        return cls("json", text)

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """Text that a regular expression matches as a whole. No look-around and no back-references."""
        return cls("regex", pattern)

    @classmethod
    def choice(cls, options: Sequence[str]) -> Constraint:
        """One of the given strings, whole."""
        if isinstance(options, str) or not options or not all(isinstance(o, str) and o for o in options):
            raise UsageError("a choice needs a list of strings, none of them empty")
        return cls("choice", json.dumps(list(options), ensure_ascii=False))

    @classmethod
    def grammar(cls, rules: str) -> Constraint:
        """Text of a grammar in llguidance's dialect of Lark, as react_grammar.py writes it."""
        return cls("grammar", rules)
