"""CMMLU: Chinese multiple choice, asked like C-Eval.

Report §A.2 (5-shot). The released script uses C-Eval's layout. The harness' header needs Chinese
names of subjects that the set does not carry.
"""

from __future__ import annotations

from dataclasses import replace

from openqwen.evals.tasks import ceval

TASK = replace(ceval.TASK, name="cmmlu", title="CMMLU", harness=None)
