"""Problems made from families, each checked by its program before it is used. Ours (report §5.1 names no source)."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from openqwen.core.errors import DataError
from openqwen.math_qwen import check
from openqwen.math_qwen.families import FAMILIES, Family, more

_BOXED = re.compile(r"\[([^\]]+)\]")
_WHOLE = re.compile(r"[0-9]+")
_NAME = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class Problem:
    """A question with its answer and worked solutions, the last line "#### answer"."""

    id: str
    question: str
    answer: Fraction
    solutions: tuple[str, ...]
    lang: str = ""
    source: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def largest(self) -> int:
        """The largest whole number that stands in the question or a solution."""
        return max(
            int(number) for text in (self.question, *self.solutions) for number in _WHOLE.findall(text)
        )

    def records(self) -> list[dict[str, Any]]:
        """A conversation for each solution, in the form finetuning and `openqwen sample` read."""
        return [
            {
                "id": self.id if number == 0 else f"{self.id}-{number + 1}",
                "messages": [
                    {"role": "user", "content": self.question},
                    {"role": "assistant", "content": solution},
                ],
                "answer": written(self.answer),
                "lang": self.lang,
                "source": self.source,
                **self.extra,
            }
            for number, solution in enumerate(self.solutions)
        ]


def written(value: Fraction | int) -> str:
    """12, 7.5 or 20/7: a decimal where it ends after at most four places."""
    found = Fraction(value)
    if found.denominator == 1:
        return str(found.numerator)
    if 10_000 % found.denominator == 0:
        return f"{float(found):.4f}".rstrip("0")
    return f"{found.numerator}/{found.denominator}"


def make(
    count: int, langs: Sequence[str], seed: int, max_tries: int, largest: int | None = None
) -> list[Problem]:
    """So many different problems, families and languages in turn. DataError where the families have not so many.

    Those that hold a number above `largest`, in question or solution, are drawn again.
    """
    rng = random.Random(f"math {seed}")
    found: dict[str, Problem] = {}
    turns = [(family, lang) for lang in langs for family in FAMILIES]
    while len(found) < count:
        before = len(found)
        for family, lang in turns:
            for _ in range(max_tries):
                problem = one(family, lang, rng)
                if problem.question not in found and (largest is None or problem.largest() <= largest):
                    found[problem.question] = problem
                    break
            if len(found) == count:
                break
        if len(found) == before:
            raise DataError(
                f"the families have no more than about {before} different problems", fix=f"--count {before}"
            )
    return list(found.values())


def one(family: Family, lang: str, rng: random.Random) -> Problem:
    """A problem of a family. DataError, a bug of ours, if program and working disagree."""
    numbers = more(family.name, family.draw(rng))
    question, working = family.texts[lang]
    answer = Fraction(family.program(numbers))
    solution = f"{_worked(working.format(**numbers), numbers)}\n#### {written(answer)}"
    if not check.is_right(solution, answer) or check.result_of(solution) != answer:
        raise DataError(f"the working of a problem is wrong: {solution!r}", where=f"{family.name}, {lang}")
    text = question.format(**numbers)
    name = f"{family.name}-{'-'.join(str(n) for n in numbers.values())}-{lang}"
    return Problem(name, text, answer, (solution,), lang, "template", {"family": family.name})


def _worked(text: str, numbers: Mapping[str, int]) -> str:
    """[a + b] -> 3 + 4 = 7. Brackets in such an expression that hold a product are computed."""

    def put(match: re.Match[str]) -> str:
        filled = _NAME.sub(lambda name: str(numbers[name.group()]), match.group(1))
        inner = re.sub(r"\(([^()]+)\)", lambda part: written(check.value(part.group(1))), filled)
        while "(" in inner:
            inner = re.sub(r"\(([^()]+)\)", lambda part: written(check.value(part.group(1))), inner)
        return f"{inner} = {written(check.value(filled))}"

    return _BOXED.sub(put, text)
