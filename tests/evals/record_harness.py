"""Records what lm-evaluation-harness asks and how it scores scripted answers: recorded_harness.json beside this file.

    PYTHON tests/evals/record_harness.py AGIEVAL/src/dataset_loader.py BBH/cot_prompts.jsonl

PYTHON has lm-eval 0.4 with its extra `math`. The first file is AGIEval's own (its prompts are made by it; the harness'
copy of the data on the hub has them ready made), the second has BBH's prompts, of which only hashes are kept. All rows
are invented. Programs of the two code sets run in a process of their own: they are written below.
"""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Row = dict[str, Any]

CMMLU = [
    {
        "id": f"c{i}", "subject": "agronomy", "question": f" 第{i}种是什么？ ", "A": "水稻", "B": f"小麦{i}",
        "C": "玉米 ", "D": "大豆", "answer": "ABCD"[i % 4], "split": "dev" if i < 2 else "test",
    }
    for i in range(14)
]  # fmt: skip

LETTERED = ["(A)one", "(B)two times two", "(C)3", "(D)none of these"]
AGIEVAL: list[Row] = [
    {"task": "lsat-lr", "passage": "Ann is old. ", "question": "Who is old?", "options": LETTERED, "label": "B"},
    {"task": "aqua-rat", "passage": None, "question": "1 + 2 = ?", "options": [*LETTERED, "(E)5"], "label": "C"},
    {"task": "gaokao-english", "passage": "A text.", "question": "About?", "options": LETTERED, "label": "D"},
    {"task": "gaokao-history", "passage": None, "question": "何时？", "options": LETTERED[:3], "label": "A"},
    {"task": "jec-qa-kd", "passage": "", "question": "哪些？", "options": LETTERED, "label": ["A", "C"]},
    {"task": "jec-qa-ca", "passage": "甲。", "question": "哪项？", "options": LETTERED, "label": ["D"]},
]  # fmt: skip
CLOZE = {  # gold -> replies
    "\\frac{1}{2}": [" $\\frac12$.", " 0.5", " \\boxed{\\dfrac{1}{2}}", " 1/2", " x = 2", " of the 2", "", " two"],
    "x=\\sqrt{3}": [" $\\sqrt3$", " $y = \\sqrt{3}$", " \\boxed{x=\\sqrt{3}}", " = \\sqrt3.", " 3", " \\boxed{\\sqrt"],
    "$10\\%$": [" 10", " $10$", " 10\\%", " $10\\text{ m}$", " \\boxed 10", " $10\\text{ m}\\text{ s}$", " \\fbox{10}"],
    "$(1,2)$": [" $(1, 2)$", " (1,2)", " $\\left(1,2\\right)$ or $(1,3)$", " 1 and 2", " $a$ or\n$(1,2)$"],
    "\\pi": [" \\pi", " pi", " 3.14", " = \\pi", " $\\pi$"],
    "$\\frac{a}{b}$": [" $\\frac ab$", " $\\frac{a}b$", " $a/b$", " $\\frac a{b}$", " $\\frac{a}{b}$", " $\\frac a$"],
    "$.5$": [" $0.5$", " .5", " $\\frac{1}{2}$", " $ .5$", " 1/2", " = 1/2\\nand more", " $1/2$", " $2/4$", " $-1/02$"],
}  # fmt: skip

MATH = {  # (solution) -> what is said to be the final answer; None: the phrase is missing
    "It is $\\boxed{\\frac{1}{2}}$.": [
        "$\\frac12$", "$0.5$", "$\\frac{2}{4}$", "1/2", "$x = \\frac{1}{2}$", "$\\frac{1}{3}$", None, "$\\frac{1}{2$",
        "0.50 cm", "", "$2^{-1}$", "a half",
    ],
    "So $\\boxed{10,\\!000}$ ways.": ["$10,000$", "10000", "10{,}000 dollars", "$10^4$", "10,00", "$\\$10000$"],
    "Thus $\\boxed{x^2 + 2x + 1}$.": ["$(x+1)^2$", "$x^2+2x+1$", "$1 + x(x+2)$", "$(x-1)^2$", "$y^2+2y+1$"],
    "Hence $\\boxed{\\left[2,5\\right)}$.": ["$[2,5)$", "$\\left[2,5\\right)$", "$[2,5]$", "$[ 2, 5)$"],
    "We get $\\boxed{2\\sqrt{3}}$": ["$\\sqrt{12}$", "$2\\sqrt3$", "$\\sqrt[3]8$", "$3.4641$", "2 \\sqrt 3 inches"],
    "The point $\\boxed{(0,1)}$": ["$(0,1)$", "0,1", "(0, 1)", "$\\boxed{(0,1)}$"],
    "By $\\boxed{\\text{east}}$.": ["east", "\\text{east}", "$\\textbf{east}$", "\\mbox{east}", "west"],
    "Or $\\boxed{30^\\circ}$": ["30", "$30^{\\circ}$", "30 degrees", "$30\\pi/\\pi$", "$\\frac{\\pi}{6}$"],
}  # fmt: skip

BBH_TOLD = "Say the last word.\n\nA word is what stands between blanks."
BBH_EXAMPLES = [
    ("a b\nOptions:\n- a\n- b", "We read.\nb is last. So the answer is b."),
    ("c d", "So the answer is (D)."),
]
BBH = {
    "(D)": ["d is last. So the answer is (D).", "the answer is D.", "The answer is (D).", "the answer is (D)", "(D)",
            "the answer is (D). Or the answer is (C).", "the answer is (C). No, the answer is (D).", ""],
    "b c": ["the answer is b c.", "the answer is b\nc.", "So the answer is  b c .", "the answer is b c", "answer is b c."],
}  # fmt: skip

HUMANEVAL_ROW = {
    "task_id": "h", "prompt": 'def twice(x):\n    """Doubles.\n    """\n', "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0\n",
}  # fmt: skip
HUMANEVAL = [
    "    return 2 * x", "    return x + x\n\n    # done", "    return 3 * x", "return 2 * x", "",
    "    y = x\n\n    return y + x", "    return 2 * x\n```", "    import math\n    return math.floor(2.0 * x)",
    "    return x +",
]  # fmt: skip
MBPP_ROWS = [
    {
        "task_id": i, "text": f"Write a function to add {i}.", "code": f"def add(x):\r\n  return x + {i} ",
        "test_list": [f"assert add({k}) == {k + i}" for k in range(3)], "test_setup_code": "", "challenge_test_list": [],
    }
    for i in (2, 3, 4, 11, 12)
]  # fmt: skip
MBPP = {
    11: ["def add(x):\r\n  return x + 11 ", "def add(x):\n    return x + 12\n", "\nimport os\nadd = lambda x: x + 11", ""],
    12: ["def add(x):\n    return x + 12\n\nprint(add(1))\n", "  def add(x):\n    return x + 12",
         "def plus(x): return x + 12", "def add(x):\n    return x + 12 if x != 2 else 0"],
}  # fmt: skip


def value(context: str, continuation: str) -> float:
    """The scripted model's log-probability."""
    return -0.5 - zlib.crc32((context + continuation).encode()) % 9973 / 100


def runs(program: str) -> bool:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30)
    return done.returncode == 0


class CodeEval:
    """In place of the metric `code_eval`, which `evaluate` fetches from the hub: one prediction, one reference each."""

    def compute(self, references: list[str], predictions: list[list[str]], k: list[int]) -> Any:
        rights = [runs(f"{p[0]}\n{r}") for p, r in zip(predictions, references, strict=True)]
        return {"pass@1": sum(rights) / len(rights)}, {}


def scripted() -> Any:
    from lm_eval.api.model import LM

    class Model(LM):
        """Says what the row's `said` has; notes what it was asked."""

        def __init__(self) -> None:
            super().__init__()
            self.asked: list[Row] = []

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return [(value(*request.args), False) for request in requests]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            raise NotImplementedError

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return [request.doc["said"] for request in requests]

    return Model()


def simple_evaluate(
    home: str, rows: list[Row], examples: list[Row], shots: int, more: Row | None = None
) -> list[Row]:
    """The harness' samples in the rows' order; the task at `home` reads our rows in place of the hub's."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "test.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config: Row = {
            "include": str(Path(lm_eval.__file__).parent / "tasks" / f"{home}.yaml"), "task": "ours",
            "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {"test": str(file)}},
            "training_split": None, "fewshot_split": None, "validation_split": None, "test_split": "test", **(more or {}),
        }  # fmt: skip
        if examples:
            config["fewshot_config"] = {"sampler": "first_n", "samples": examples}
        (folder / "ours.yaml").write_text(json.dumps(config), encoding="utf-8")
        done = lm_eval.simple_evaluate(
            model=scripted(), tasks=["ours"], num_fewshot=shots, bootstrap_iters=0, log_samples=True,
            task_manager=TaskManager(include_path=str(folder), include_defaults=False), confirm_run_unsafe_code=True,
        )  # fmt: skip
    return sorted(done["samples"]["ours"], key=lambda sample: sample["doc_id"])


def record(
    ours: str, rows: list[Row], examples: list[Row], shots: int, samples: list[Row], metric: str
) -> Row:
    """What a test needs of one task: rows in our form, what was asked, answered, and whether it was right."""
    questions = []
    for row, sample in zip(rows, samples, strict=True):
        asked = sample["arguments"]
        first = asked[0] if isinstance(asked, list) else asked["gen_args_0"]
        args = list(asked) if isinstance(asked, list) else list(asked.values())
        found: Row = {"row": row, "right": float(sample[metric])}
        if isinstance(first, dict):
            args = [[a["arg_0"], a["arg_1"]] for a in args]
        if isinstance(args[0][1], dict):
            found |= {"context": args[0][0], "settings": args[0][1], "said": sample["resps"][0][0]}
        else:
            found |= {
                "pairs": [[*pair, resp[0][0]] for pair, resp in zip(args, sample["resps"], strict=True)]
            }
        questions.append(found)
    start = shared_start([q["context"] for q in questions if "context" in q])
    for question in questions:
        if "context" in question:
            question["context"] = question["context"].removeprefix(start)
    return {"task": ours, "examples": examples, "shots": shots, "start": start, "questions": questions}


def shared_start(texts: list[str]) -> str:
    first, last = min(texts, default=""), max(texts, default="")
    length = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return first[:length]


def cmmlu() -> Row:
    theirs = [{"Question": r["question"], **{k: r[k] for k in "ABCD"}, "Answer": r["answer"]} for r in CMMLU]
    samples = simple_evaluate("cmmlu/cmmlu_agronomy", theirs[2:], theirs[:2], 2)
    return record("cmmlu", CMMLU[2:], CMMLU[:2], 2, samples, "acc")


def agieval(loader: Path) -> list[Row]:
    space: Row = {}
    exec(compile(own_prompts(loader), str(loader), "exec"), space)
    found = []
    for i, line in enumerate(AGIEVAL):
        golds = ["ABCDE".index(letter) for letter in line["label"]]
        query = space["convert_zero_shot"](line, line["task"])
        samples = simple_evaluate(
            "agieval/aqua-rat", [{"query": query, "choices": line["options"], "gold": golds}], [], 0
        )
        found.append(record("agieval", [{"id": f"a{i}", **line}], [], 0, samples, "acc"))
    for task in ("math", "gaokao-mathcloze"):
        rows = [
            {"task": task, "passage": None, "question": f"Find it {i}.", "options": None, "label": None, "answer": gold,
             "id": f"{task}/{i}/{k}", "said": said}
            for i, (gold, replies) in enumerate(CLOZE.items()) for k, said in enumerate(replies)
        ]  # fmt: skip
        theirs = [
            {"query": space["convert_zero_shot"](row, task), "answer": row["answer"], "said": row["said"]}
            for row in rows
        ]
        found.append(record("agieval", rows, [], 0, simple_evaluate(f"agieval/{task}", theirs, [], 0), "acc"))
    return found


def own_prompts(loader: Path) -> ast.Module:
    """Of AGIEval's loader the lists of exams and the function that makes zero-shot prompts."""
    tree = ast.parse(loader.read_text(encoding="utf-8"))
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign)
        or (isinstance(node, ast.FunctionDef) and node.name == "convert_zero_shot")
    ]
    return tree


def math() -> Row:
    from lm_eval.tasks.minerva_math import utils

    rows = []
    for i, (solution, replies) in enumerate(MATH.items()):
        for k, said in enumerate(replies):
            final = f"\nFinal Answer: The final answer is {said}. I hope it is correct."
            rows.append(
                {"unique_id": f"m{i}/{k}", "problem": f"What is it, {i}?", "solution": solution,
                 "said": "No idea." if said is None else f"We think.{final}"}
            )  # fmt: skip
    samples = simple_evaluate("minerva_math/minerva_math500", rows, [], 4)
    made = record("math", rows, [], 4, samples, "exact_match")
    for question, sample in zip(made["questions"], samples, strict=True):
        said = utils.normalize_final_answer(utils.get_unnormalized_answer(question["said"]))
        question["forms"] = [said, sample["doc"]["answer"]]
    return made


def bbh() -> Row:
    examples = [{"input": question, "target": working} for question, working in BBH_EXAMPLES]
    more = {"description": f"{BBH_TOLD}\n\n"}
    rows = [
        {"id": f"b{i}/{k}", "task": "words", "input": f"q {i}", "target": gold, "said": said}
        for i, (gold, replies) in enumerate(BBH.items())
        for k, said in enumerate(replies)
    ]
    samples = simple_evaluate("bbh/cot_fewshot/boolean_expressions", rows, examples, 2, more)
    step = "A: Let's think step by step."
    blocks = [f"Q: {question}\n{step}\n{working}" for question, working in BBH_EXAMPLES]
    prompt = "\n\n".join([f"A word of warning.\n-----\n{BBH_TOLD}", *blocks])
    return record("bbh", rows, [{"task": "words", "prompt": prompt}], 2, samples, "exact_match")


def bbh_hashes(prompts: Path) -> dict[str, str]:
    """Task -> hash of the harness' prompt for the question "Q?", all three examples before it."""
    import lm_eval
    import yaml

    found = {}
    for line in prompts.read_text(encoding="utf-8").splitlines():
        task = json.loads(line)["task"]
        file = Path(lm_eval.__file__).parent / "tasks" / "bbh" / "cot_fewshot" / f"{task}.yaml"
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        examples, more = config["fewshot_config"]["samples"], {"description": config["description"]}
        home = f"bbh/cot_fewshot/{task}"
        rows = [{"id": "1", "input": "Q?", "target": "t", "said": "s"}]
        (sample,) = simple_evaluate(home, rows, [dict(e) for e in examples], 3, more)
        context = sample["arguments"][0][0]
        found[task] = hashlib.sha256(context.encode()).hexdigest()
    return found


def humaneval() -> Row:
    rows = [{**HUMANEVAL_ROW, "task_id": f"h{i}", "said": said} for i, said in enumerate(HUMANEVAL)]
    samples = simple_evaluate("humaneval/humaneval", rows, [], 0)
    made = record("humaneval", rows, [], 0, samples, "pass@1")
    return with_programs(made, samples)


def mbpp() -> Row:
    examples = [{**row, "is_fewshot": True} for row in MBPP_ROWS if row["task_id"] < 5]
    rows = [{**row, "said": said} for row in MBPP_ROWS if row["task_id"] > 5 for said in MBPP[row["task_id"]]]
    samples = simple_evaluate("mbpp/mbpp", rows, examples, 3)
    return with_programs(record("mbpp", rows, MBPP_ROWS[:3], 3, samples, "pass_at_1"), samples)


def with_programs(made: Row, samples: list[Row]) -> Row:
    for question, sample in zip(made["questions"], samples, strict=True):
        answer = sample["filtered_resps"][0]
        answer = answer[0] if isinstance(answer, list) else answer
        question["program"] = f"{answer}\n{sample['target']}"
    return made


def main(loader: Path, prompts: Path) -> None:
    import evaluate

    evaluate.load = lambda name, *a, **k: CodeEval()
    made = {
        "tasks": [cmmlu(), *agieval(loader), math(), bbh(), humaneval(), mbpp()],
        "bbh": bbh_hashes(prompts),
    }
    text = json.dumps(made, ensure_ascii=False, indent=1) + "\n"
    (HERE / "recorded_harness.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
