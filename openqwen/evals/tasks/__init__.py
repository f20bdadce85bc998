"""The benchmarks by name, one file each, and the tables' columns in terms of them.

Report Tables 2, 5, 10 and 12.
"""

from __future__ import annotations

from openqwen.evals.task import Task
from openqwen.evals.tasks import bbh, ceval, cmmlu, gsm8k, humaneval, math, mbpp, mmlu

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        mmlu.TASK,
        ceval.TASK,
        cmmlu.TASK,
        gsm8k.TASK,
        math.TASK,
        humaneval.TASK,
        mbpp.TASK,
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
    12: {"GSM8K": ("gsm8k", 0), "MATH": ("math", 0)},
}  # fmt: skip
