"""The benchmarks by name, one file each, and the tables' columns in terms of them.

Report Tables 2, 5, 10, 11 and 12; §A.2's Table 15 for those that no column here has.
"""

from __future__ import annotations

from openqwen.evals.task import Task
from openqwen.evals.tasks import (
    agieval,
    arc,
    bbh,
    boolq,
    ceval,
    cmmlu,
    commonsenseqa,
    gaokao,
    gsm8k,
    hellaswag,
    humaneval,
    humanevalpack,
    lambada,
    math,
    math23k,
    math401,
    mbpp,
    mmlu,
    nq,
    ocnli,
    piqa,
    siqa,
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        mmlu.TASK,
        ceval.TASK,
        cmmlu.TASK,
        agieval.TASK,
        gaokao.TASK,
        arc.EASY,
        arc.CHALLENGE,
        boolq.TASK,
        commonsenseqa.TASK,
        nq.TASK,
        lambada.TASK,
        hellaswag.TASK,
        piqa.TASK,
        siqa.TASK,
        ocnli.TASK,
        gsm8k.TASK,
        math.TASK,
        math401.TASK,
        math23k.TASK,
        humaneval.TASK,
        mbpp.TASK,
        *humanevalpack.TASKS.values(),
        bbh.TASK,
    )
}
# Column -> (task, shots), as the report's tables print them.
COLUMNS: dict[int, dict[str, tuple[str, int]]] = {
    2: {
        "MMLU": ("mmlu", 5), "C-Eval": ("ceval", 5), "GSM8K": ("gsm8k", 8), "MATH": ("math", 4),
        "HumanEval": ("humaneval", 0), "MBPP": ("mbpp", 3), "BBH": ("bbh", 3),
    },
    5: {
        "MMLU 0-shot": ("mmlu", 0), "MMLU 5-shot": ("mmlu", 5), "C-Eval 0-shot": ("ceval", 0),
        "C-Eval 5-shot": ("ceval", 5), "GSM8K 0-shot": ("gsm8k", 0), "GSM8K 8-shot": ("gsm8k", 8),
        "HumanEval": ("humaneval", 0), "BBH 0-shot": ("bbh", 0), "BBH 3-shot": ("bbh", 3),
    },
    10: {"HumanEval": ("humaneval", 0), "MBPP": ("mbpp", 3)},
    11: {form.name: (f"humanevalpack_{language}", 0) for language, form in humanevalpack.LANGUAGES.items()},
    12: {
        "GSM8K": ("gsm8k", 0), "MATH": ("math", 0), "Math401": ("math401", 0), "Math23K": ("math23k", 0),
    },
}  # fmt: skip
# Task -> shots, for the sets of the appendix that are no column above.
APPENDIX: dict[str, int] = {
    "cmmlu": 5, "agieval": 0, "gaokao": 0, "arc_easy": 0, "arc_challenge": 0, "boolq": 0, "commonsenseqa": 8,
    "nq": 0, "lambada": 0, "hellaswag": 0, "piqa": 0, "siqa": 0, "ocnli": 0,
}  # fmt: skip
