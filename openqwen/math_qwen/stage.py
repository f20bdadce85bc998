"""Stage "math": instruction data of mathematics, each solution checked.

Ours; report §5.1 names the training and not the data. Three sources: problems of our own families, problems of a file in
GSM8K's form (its training part, for instance), and paths that a model sampled for these (`openqwen sample`), kept where
the answer is right, every equation holds and the path is new (rejection sampling, Yuan et al. 2023).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from openqwen.core.artifact import Artifact, find, open_inputs, read_jsonl, stage_run, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.errors import DataError
from openqwen.core.metrics import read_metrics
from openqwen.data.decontaminate import Index, decontaminate, read_benchmarks
from openqwen.data.documents import Bad, Document, is_text
from openqwen.data.sources.files import kind_of, unreadable_skipped
from openqwen.data.sources.formats import json_lines
from openqwen.math_qwen import check
from openqwen.math_qwen.config import MathConfig
from openqwen.math_qwen.problems import Problem, make

_CALCULATOR = re.compile(r"<<[^<>]{0,200}>>")  # GSM8K's notes for a calculator


def run(resolved: Resolved[MathConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """From "problems" (a file) and "replies" (an artefact), either or none, to a math artefact."""
    config = resolved.config
    opened = open_inputs(inputs, {"replies": "replies"})
    with stage_run(out, "math", resolved, opened) as stage:
        bad = Bad(config.max_bad_share)
        made = make(config.count, config.langs, config.seed, config.max_tries, config.largest)
        given = list(read_problems(inputs["problems"], bad)) if "problems" in inputs else []
        bad.check()
        if not made and not given:
            raise DataError("no problem at all", fix="--count N, or --problems FILE")
        problems, leaked = without_overlap([*unique(given), *made], config)
        held = round(config.heldout * len(made))
        heldout = [p for p in problems if p.source == "template"][-held:] if held else []
        kept = apart(problems, heldout)
        verdicts: Counter[str] = Counter()
        if "replies" in inputs:
            kept = with_paths(kept, inputs["replies"], config.max_paths, verdicts)
        train = [record for problem in kept for record in problem.records()]
        if not train:
            raise DataError("every problem was dropped", where=str(out), fix="see skipped.jsonl")
        write_jsonl(out / "train.jsonl", train)
        write_jsonl(out / "heldout.jsonl", [record for problem in heldout for record in problem.records()])
        write_jsonl(out / "skipped.jsonl", [*bad.records, *leaked])
        write_jsonl(out / "samples.jsonl", _samples(kept))
        stage.fact(
            problems=len(kept),
            solutions=len(train),
            heldout=len(heldout),
            by_source=dict(Counter(p.source for p in kept)),
            by_lang=dict(Counter(p.lang for p in kept)),
            overlap=len(leaked),
            like_heldout=len(problems) - len(kept) - len(heldout),
            skipped=bad.reasons,
            paths=dict(verdicts),
        )
    done = find(out)
    assert done is not None
    return done


def _samples(problems: Sequence[Problem]) -> list[dict[str, str]]:
    step = max(1, len(problems) // 12)
    return [
        {"label": p.source, "prompt": p.question, "text": solution}
        for p in problems[::step][:12]
        for solution in p.solutions[:2]
    ]


def read_problems(path: Path, bad: Bad) -> Iterable[Problem]:
    """Problems of JSON lines {"question", "answer"}, the answer a working that ends in "#### number" (GSM8K).

    The working's own equations are not checked: people write "= $5" and round.
    """
    with unreadable_skipped(path, bad):
        for line, record in json_lines(path, kind_of(path)[1], 1_000_000, bad):
            if (problem := _given(record, line, f"{path}:{line}", bad)) is not None:
                yield problem


def _given(record: Any, line: int, where: str, bad: Bad) -> Problem | None:
    """The problem of a record, or None; then `bad` knows why."""
    question, told = (
        (record.get("question"), record.get("answer")) if isinstance(record, dict) else (None, None)
    )
    if not isinstance(question, str) or not isinstance(told, str) or not question.strip():
        bad.skip(where, 'no "question" and "answer"')
        return None
    if not is_text(question + told):
        bad.skip(where, "a lone surrogate: no text")
        return None
    working = _CALCULATOR.sub("", told).strip()
    answer = check.answer_of(working)
    if answer is None:
        bad.skip(where, 'the answer does not end in "#### number"')
        return None
    bad.seen += 1
    lang = "zh" if re.search(r"[一-鿿]", question) else "en"
    return Problem(f"given-{line}", question.strip(), answer, (working,), lang, "given")


def unique(problems: Iterable[Problem]) -> list[Problem]:
    """The first of each question, with all different solutions of the others."""
    found: dict[str, Problem] = {}
    for problem in problems:
        first = found.setdefault(problem.question, problem)
        new = [s for s in problem.solutions if s not in first.solutions]
        if first is not problem and first.answer == problem.answer and new:
            found[problem.question] = replace(first, solutions=(*first.solutions, *new))
    return list(found.values())


def apart(problems: Sequence[Problem], heldout: Sequence[Problem]) -> list[Problem]:
    """Problems that are not held out, nor worked like one that is: the same numbers in another language, for instance."""
    names = {problem.id for problem in heldout}
    paths = {path for problem in heldout for text in problem.solutions if (path := check.path_of(text))}
    return [
        problem
        for problem in problems
        if problem.id not in names and not any(check.path_of(text) in paths for text in problem.solutions)
    ]


def without_overlap(
    problems: Sequence[Problem], config: MathConfig
) -> tuple[list[Problem], list[dict[str, str]]]:
    """Problems that no evaluation set holds, and what was dropped."""
    paths = config.decontaminate.paths()
    if not config.decontaminate.enabled or not paths:
        return list(problems), []
    index = Index(read_benchmarks(paths), config.decontaminate)
    documents = [Document(p.id, p.question, "instruction", p.lang) for p in problems]
    kept, dropped = decontaminate(documents, index, config.decontaminate)
    left = {document.id for document in kept}
    return (
        [p for p in problems if p.id in left],
        [{"where": d.document.id, "reason": f"{d.reason}, {d.kept}"} for d in dropped],
    )


def with_paths(
    problems: Sequence[Problem], replies: Path, most: int, verdicts: Counter[str]
) -> list[Problem]:
    """Problems with the sampled solutions that are right and new, the shortest first; counts what became of each."""
    questions = {
        record["id"]: record["messages"][-1]["content"] for record in read_jsonl(replies / "prompts.jsonl")
    }
    drawn: dict[str, list[str]] = {}
    for record in read_metrics(replies / "replies.jsonl"):
        if "text" in record:
            drawn.setdefault(questions[record["prompt"]], []).append(record["text"].strip())
    asked = {problem.question for problem in problems}
    verdicts["no such problem"] += sum(
        len(texts) for question, texts in drawn.items() if question not in asked
    )
    found = []
    for problem in problems:
        known = {check.path_of(solution) for solution in problem.solutions}
        new: list[str] = []
        for text in sorted(drawn.get(problem.question, []), key=lambda text: (len(text), text)):
            verdict = judge(text, problem.answer, known)
            if verdict == "kept" and len(new) == most:
                verdict = "enough"
            verdicts[verdict] += 1
            if verdict == "kept":
                known.add(check.path_of(text))
                new.append(text)
        found.append(replace(problem, solutions=(*problem.solutions, *new)))
    return found


def judge(text: str, answer: Fraction, known: set[tuple[str, ...]]) -> str:
    """What is to become of a sampled solution: "kept", or why not."""
    if not is_text(text):
        return "no text"
    if check.answer_of(text) is None:
        return "no answer"
    if check.answer_of(text) != answer:
        return "wrong answer"
    if not all(holds for _, holds in check.equations(text)):
        return "wrong equation"
    return "known path" if check.path_of(text) in known else "kept"
