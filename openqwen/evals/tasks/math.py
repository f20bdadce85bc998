"""MATH: competition problems with a formula as answer.

Report §2.6, Table 2 (4-shot) and Table 12 (the 500-item split). The answer is what \\boxed{} holds, else what stands
after "answer is"; two answers are equal if they are after normalising, or as numbers. Equality of formulas by algebra is
not done. The layout and, where a set has no examples of its own, the four examples are the Minerva ones that the field
uses (problems of the set's training part, MIT). Harness (minerva_math500): the answer after "Final Answer: The final
answer is", in Minerva's normal form, must be the same text or equal by algebra.
"""

from __future__ import annotations

import re
from fractions import Fraction

from openqwen.core.errors import DataError
from openqwen.evals import algebra, formulas
from openqwen.evals.task import Ask, Item, Task, constant_guess, identity, take

_SAID = re.compile(r"(?i:answer is)\s*:?\s*(.+?)(?:\.\s|\.?$)", re.MULTILINE)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_DROP = ("\\left", "\\right", "\\!", "\\,", "\\;", "\\ ", "$", "\\%", "%", "^\\circ", "^{\\circ}", "\\$")


def parse(record: Item, place: str) -> Item:
    """The published form (problem, solution with \\boxed) and the primer's (question, answer with ####)."""
    solution = take(record, place, "solution", "answer")
    working, mark, gold = solution.rpartition("#### ")
    answer = gold.strip() if mark else boxed(solution)
    if answer is None:
        raise DataError("solution without \\boxed{answer} or '#### answer'", where=place)
    return {
        "id": identity(record, place, "idx", "unique_id"),
        "question": take(record, place, "problem", "question"),
        "working": working.strip() if mark else solution,
        "answer": answer,
        "split": record.get("split", "test"),
    }


def boxed(text: str) -> str | None:
    """What the last \\boxed{...} holds, braces inside it counted."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for i in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : i]
    return None


def final(text: str) -> str | None:
    """The answer a reply gives."""
    if (found := boxed(text)) is not None:
        return found
    said = _SAID.findall(text.replace("I hope it is correct", ""))
    return said[-1] if said else None


def normal(answer: str) -> str:
    """A form in which equal answers are equal texts: `\\dfrac{1}{2}` -> `1/2`, `$ 3 $.` -> `3`."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", answer)
    text = _FRACTION.sub(r"\1/\2", text)
    for part in _DROP:
        text = text.replace(part, "")
    return re.sub(r"(?<=\d),(?=\d{3})", "", re.sub(r"\s+", "", text).rstrip("."))


def equal(a: str, b: str) -> bool:
    """Same text after normalising, or same number."""
    a, b = normal(a), normal(b)
    if a == b:
        return a != ""
    try:
        return Fraction(a) == Fraction(b)
    except (ValueError, ZeroDivisionError):
        return False


def judge(text: str, item: Item) -> bool:
    found = final(text)
    return found is not None and equal(found, item["answer"])


def query(item: Item) -> str:
    return f"Problem:\n{item['question']}\n\nSolution:\n"


def answer(item: Item) -> str:
    return (
        f"{item['working']}\nFinal Answer: The final answer is ${item['answer']}$. I hope it is correct.\n\n"
    )


def chat_query(item: Item) -> str:
    return str(item["question"])


def chat_answer(item: Item) -> str:
    return f"{item['working']}\nThe answer is {item['answer']}."


def judge_chat(text: str, item: Item) -> bool:
    """As `judge`; a chat model that only works the sum out is read by the last number it equates to."""
    if final(text) is not None:
        return judge(text, item)
    last = re.findall(r"=\s*(-?[\d./]+)", text)
    return bool(last) and equal(last[-1], item["answer"])


def harness_query(item: Item) -> str:
    return f"Problem:\n{item['question']}\n\nSolution:"


def harness_answer(item: Item) -> str:
    return f" {answer(item)}"


def harness_judge(text: str, item: Item) -> bool:
    return algebra.same(formulas.minerva_answer(text), formulas.minerva_form(item["answer"]))


EXAMPLES: tuple[Item, ...] = (
    {
        "id": "minerva/1",
        "question": r"Find the domain of the expression  $\frac{\sqrt{x-2}}{\sqrt{5-x}}$.",
        "working": (
            r"The expressions inside each square root must be non-negative. Therefore, $x-2 \ge 0$, so $x\ge2$, and "
            r"$5 - x \ge 0$, so $x \le 5$. Also, the denominator cannot be equal to zero, so $5-x>0$, which gives "
            r"$x<5$. Therefore, the domain of the expression is $\boxed{[2,5)}$."
        ),
        "answer": "[2,5)",
    },
    {
        "id": "minerva/2",
        "question": (
            r"If $\det \mathbf{A} = 2$ and $\det \mathbf{B} = 12,$ then find $\det (\mathbf{A} \mathbf{B}).$"
        ),
        "working": (
            r"We have that $\det (\mathbf{A} \mathbf{B}) = (\det \mathbf{A})(\det \mathbf{B}) = (2)(12) = \boxed{24}.$"
        ),
        "answer": "24",
    },
    {
        "id": "minerva/3",
        "question": (
            "Terrell usually lifts two 20-pound weights 12 times. If he uses two 15-pound weights instead, how many times "
            "must Terrell lift them in order to lift the same total weight?"
        ),
        "working": (
            r"If Terrell lifts two 20-pound weights 12 times, he lifts a total of $2\cdot 12\cdot20=480$ pounds of weight."
            r"  If he lifts two 15-pound weights instead for $n$ times, he will lift a total of $2\cdot15\cdot n=30n$ "
            "pounds of weight.  Equating this to 480 pounds, we can solve for $n$:\n\\begin{align*}\n30n&=480\\\\\n"
            "\\Rightarrow\\qquad n&=480/30=\\boxed{16}\n\\end{align*}"
        ),
        "answer": "16",
    },
    {
        "id": "minerva/4",
        "question": (
            "If the system of equations\n\n\\begin{align*}\n6x-4y&=a,\\\\\n6y-9x &=b.\n\\end{align*}has a solution "
            "$(x, y)$ where $x$ and $y$ are both nonzero,\nfind $\\frac{a}{b},$ assuming $b$ is nonzero."
        ),
        "working": (
            "If we multiply the first equation by $-\\frac{3}{2}$, we obtain\n\n$$6y-9x=-\\frac{3}{2}a.$$Since we also "
            "know that $6y-9x=b$, we have\n\n$$-\\frac{3}{2}a=b\\Rightarrow\\frac{a}{b}=\\boxed{-\\frac{2}{3}}.$$"
        ),
        "answer": r"-\frac{2}{3}",
    },
)

TASK = Task(
    name="math",
    title="MATH",
    parse=parse,
    base=Ask(query, answer, judge=judge, stop=("\n\n", "Problem:"), shots=EXAMPLES),
    chat=Ask(chat_query, chat_answer, judge=judge_chat),
    chance=constant_guess,
    harness=Ask(
        harness_query,
        harness_answer,
        judge=harness_judge,
        stop=("Problem:",),
        tokens=256,
        shots=EXAMPLES,
        modules=(("sympy", algebra.INSTALL), ("antlr4", algebra.INSTALL)),
    ),
)
