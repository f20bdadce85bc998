"""Formulas in the normal forms of two scorers that lm-evaluation-harness has: the MATH set's own and Minerva's.

Ours: the report does not say how formulas are compared. Both forms are followed with their oddities, for a score is only
comparable under the same ones. What each takes for the answer of a reply is here too.
"""

from __future__ import annotations

import re

_CUT = ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$")
_RATIO = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")
_NUMBER = re.compile(r"(?:\$)?\d+(?:\.\d+)?(?![\w\d])")
_FINAL = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")
NO_ANSWER = "[invalidanswer]"  # what Minerva's scorer reads where nothing is said

# Minerva's lists (Lewkowycz et al. 2022, appendix D): rewritten, then removed, in this order.
_REWRITTEN = {
    "an ": "", "a ": "", ".$": "$", "\\$": "", "\\ ": "", " ": "", "mbox": "text", ",\\text{and}": ",",
    "\\text{and}": ",", "\\text{m}": "\\text{}",
}  # fmt: skip
_REMOVED = [
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "\\ldots", "sue", "points",
    "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students",
    "childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}",
    "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots",
]  # fmt: skip
_UNWRAPPED = (
    r"(\\text\{)(.*?)(\})",
    r"(\\textbf\{)(.*?)(\})",
    r"(\\overline\{)(.*?)(\})",
    r"(\\boxed\{)(.*)(\})",
)
_COMMAND = re.compile(r"(\\[a-zA-Z]+)")


# ------------------------------------------------------------------------------------------------ the MATH set
def agieval_equal(reply: str, gold: str) -> bool:
    """Whether AGIEval's scorer finds the same answer in both texts; what it cannot bring into form must be the same text."""
    said, right = agieval_answer(reply), agieval_answer(gold)
    if said is None or right is None:
        return said is right
    try:
        return math_form(said) == math_form(right)
    except (IndexError, ValueError):
        return said == right


def agieval_answer(text: str) -> str | None:
    """The last box, else what the last dollar signs hold, else what follows the last equals sign, else the last number."""
    if (start := text.rfind("\\boxed")) >= 0:
        inner = _braces(text[start:])
        return None if inner is None else inner.rpartition("=")[2].lstrip(" ") if "=" in inner else inner
    dollars = re.findall(r"\$(.*)\$", text)
    if dollars and (
        said := dollars[-1].rpartition("=")[2].lstrip(" ") if "=" in dollars[-1] else dollars[-1]
    ):
        return str(said)
    if "=" in text:
        return text.rpartition("=")[2].lstrip(" ").rstrip(".").split("\\n")[0]
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _braces(box: str) -> str | None:
    """What `\\boxed{...}` holds; None if it does not begin so or never closes."""
    depth = 0
    for i, letter in enumerate(box):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "}" and depth == 0:
            return box[len("\\boxed{") : i] if box.startswith("\\boxed{") else None
    return None


def math_form(text: str) -> str:
    """The normal form of the MATH set's scorer. ValueError or IndexError for what it gives up on."""
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    for part in _CUT:
        text = text.replace(part, "")
    if "\\text{ " in text:  # a unit at the right end
        text, _ = text.split("\\text{ ")
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = f"0{text}" if text[0] == "." else text
    if text.count("=") == 1 and text.index("=") <= 2:
        text = text.partition("=")[2]
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    text = "\\frac{1}{2}" if text == "0.5" else text
    ratio = _RATIO.fullmatch(text)
    return f"\\frac{{{ratio[1]}}}{{{ratio[2]}}}" if ratio else text


def _braced_roots(text: str) -> str:
    head, *parts = text.split("\\sqrt")
    braced = [part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}" for part in parts]
    return "\\sqrt".join([head, *braced])


def _braced_fractions(text: str) -> str:
    """`\\frac12` -> `\\frac{1}{2}`, `\\frac1{72}` -> `\\frac{1}{72}`; unchanged if one has a single letter after it."""
    head, *parts = text.split("\\frac")
    braced = []
    for part in parts:
        if part[0] == "{":
            braced.append(part)
        elif len(part) < 2:
            return text
        else:
            rest = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
            braced.append(f"{{{part[0]}}}{rest}")
    return "\\frac".join([head, *braced])


# ------------------------------------------------------------------------------------------------ Minerva
def minerva_answer(reply: str) -> str:
    """The normal form of what a reply says to be its final answer."""
    found = _FINAL.search(f"{reply}I hope it is correct.")
    return minerva_form(found[1].strip() if found else NO_ANSWER)


def minerva_form(text: str) -> str:
    """The normal form of Minerva's scorer, with the mends that lm-evaluation-harness has made to it."""
    text = text.split("=")[-1]
    for part in filter(str.isalpha, _REMOVED):
        text = re.sub(rf"(?<!\\)\b{part}\b", "", text)
    for old, new in _REWRITTEN.items():
        text = text.replace(old, new)
    for part in _REMOVED:
        text = _outside_commands(text, part) if part.isalpha() else text.replace(part, "")
    text = re.sub(r"(.*?)(\$)(.*?)(\$)(.*)", "$\\3$", text)
    for wrapped in _UNWRAPPED:
        text = re.sub(wrapped, "\\2", text)
    text = re.sub(r"(frac)([^{])(.)", "frac{\\2}{\\3}", text)
    text = re.sub(r"(sqrt)(\[[^\]]*\])(\w)", "\\1\\2{\\3}", text)
    text = re.sub(r"(sqrt)(?!\[)([^{])", "sqrt{\\2}", text).replace("$", "")
    return text.replace(",", "") if re.fullmatch(r"-?\d{1,3}(,\d{3})+", text) else text


def _outside_commands(text: str, word: str) -> str:
    """Without `word`, but not inside the name of a command: `\\left` keeps its `ft`."""
    parts = _COMMAND.split(text)
    parts[::2] = [part.replace(word, "") for part in parts[::2]]
    return "".join(parts)
