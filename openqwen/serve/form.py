"""The form a client may ask of a reply, under the names that OpenAI's API and vLLM's servers gave it.

Ours. `response_format` is OpenAI's (with llama.cpp's `schema` beside `json_object`), `structured_outputs` and the
older `guided_*` are vLLM's. Other servers' names for the same are refused, not ignored: a client that believes its
reply is constrained must not get one that is not.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from openqwen.core.errors import UsageError
from openqwen.engine.constraint import Constraint
from openqwen.serve.body import Body, parse_json

Schema = dict[str, Any]
FOREIGN = ("grammar", "ebnf", "guided_grammar", "structural_tag", "json_schema", "regex")


class JsonSchema(Body):
    """A named schema; `strict` or not, the reply is held to it."""

    name: str | None = Field(None, max_length=64)
    strict: bool | None = None
    schema_: Schema = Field(alias="schema")


class ResponseFormat(Body):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Schema | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("json_schema belongs to type json_schema, and only there")
        if self.schema_ is not None and self.type != "json_object":
            raise ValueError("schema belongs to type json_object")
        return self

    def constraints(self) -> list[Constraint]:
        """At most one."""
        if self.type == "text":
            return []
        return [Constraint.json(self.json_schema.schema_ if self.json_schema else self.schema_)]


class StructuredOutputs(Body):
    """vLLM's `structured_outputs`: one of its fields."""

    model_config = ConfigDict(extra="forbid")  # vLLM has more kinds

    json_: Schema | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = Field(None, max_length=10_000)
    json_object: bool | None = None

    def constraints(self) -> list[Constraint]:
        """One for each field given."""
        found = []
        if self.json_ is not None:
            found.append(_json(self.json_))
        if self.regex is not None:
            found.append(Constraint.regex(self.regex))
        if self.choice is not None:
            found.append(Constraint.choice(self.choice))
        if self.json_object:
            found.append(Constraint.json())
        return found


class Formed(Body):
    """What both endpoints let a client say about the form of the reply."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = Field(None, max_length=10_000)

    @model_validator(mode="before")
    @classmethod
    def _no_foreign(cls, data: Any) -> Any:
        given = [name for name in FOREIGN if isinstance(data, dict) and data.get(name) is not None]
        if given:
            raise ValueError(f"{given[0]} is not known here; use response_format or structured_outputs")
        return data

    def constraint(self) -> Constraint | None:
        """The form asked for. UsageError if it is none, or if there are two."""
        older = StructuredOutputs(json=self.guided_json, regex=self.guided_regex, choice=self.guided_choice)
        parts = (self.response_format, self.structured_outputs, older)
        found = [constraint for part in parts if part is not None for constraint in part.constraints()]
        if len(found) > 1:
            raise UsageError("a reply can have one form only", fix="give one of the constraints")
        return found[0] if found else None


def _json(schema: Schema | str) -> Constraint:
    return Constraint.json(parse_json(schema.encode(), "the schema") if isinstance(schema, str) else schema)
