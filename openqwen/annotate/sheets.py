"""Results of annotation as text and pictures: Figure 4, ratings, marks, agreement; and the folder that keeps them.

Report §3.3, Figure 4, A.2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openqwen.annotate.ballots import Ballots
from openqwen.annotate.config import ResultsConfig
from openqwen.core.artifact import Artifact, digest, load, stage_run, write_atomic, write_json
from openqwen.core.config import Resolved
from openqwen.report import exhibits, tables
from openqwen.report.tables import Sheet

KIND = "human-eval"


def sheets(found: Mapping[str, Any]) -> list[Sheet]:
    """What results.summarise says as tables: Figure 4 first, agreement last."""
    ratings = [[r["model"], *_rating(r, "bradley_terry"), *_rating(r, "elo")] for r in found["ratings"]]
    marks = [
        [m["model"], str(m["marks"]), str(m["broken"]), str(m["unsafe"]), _number(m["score"])]
        for m in found["models"]
    ]
    agreed = found["agreement"]
    pairs = [
        [" and ".join(p["annotators"]), str(p["comparisons"]), f"{p['same']:.1%}", _number(p["kappa"])]
        for p in agreed["pairs"]
    ]
    whole = f"Krippendorff's alpha {_number(agreed['alpha'])}, Cohen's kappa {_number(agreed['kappa'])}"
    return [
        exhibits.figure_4_sheet(found["shares"], found["baseline"], [about(found)]),
        Sheet("Ratings", ("model", "Bradley-Terry", "95 % interval", "Elo", "95 % interval"), ratings),
        Sheet("Marks", ("model", "replies ranked", "broken", "unsafe", "mean score"), marks),
        Sheet("Agreement", ("annotators", "comparisons", "the same", "Cohen's kappa"), pairs, [whole]),
    ]


def about(found: Mapping[str, Any]) -> str:
    """How much was said, and by whom."""
    counted = found["instructions"]
    people = ", ".join(f"{name} {count}" for name, count in found["annotators"].items())
    return f"{counted['answered']} of {counted['all']} instructions answered; answers: {people}"


def figure(found: Mapping[str, Any]) -> exhibits.Exhibit:
    """Figure 4. DataError if no model met the baseline."""
    return exhibits.figure_4(found["shares"], found["baseline"], [about(found)])


def keep(ballots: Ballots, found: Mapping[str, Any], seed: int, out: Path) -> Artifact:
    """Writes the artefact that `openqwen report` shows: results.json, all tables and Figure 4 in every form.

    found: what summarise said with this seed. DataError if no model met the baseline.
    """
    drawn, shown = figure(found), sheets(found)
    said = digest([ballots.study.content, [asdict(answer) for answer in ballots.answers()]])
    config = Resolved(ResultsConfig(baseline=found["baseline"], seed=seed), {})
    with stage_run(out, KIND, config, {"answers": ballots.path}) as run:
        write_json(
            run.path / "results.json", {**found, "manifest": said, "sheets": [asdict(one) for one in shown]}
        )
        write_atomic(run.path / "results.md", tables.markdown(*shown))
        write_atomic(run.path / "results.tex", tables.latex(*shown))
        drawn.write(run.path)
        run.fact(answers=found["answers"], annotators=len(found["annotators"]), said=said)
    return load(out, KIND)


def _rating(rating: Mapping[str, Any], kind: str) -> list[str]:
    low, high = rating[f"{kind}_interval"]
    return [f"{rating[kind]:.0f}", f"{low:.0f} to {high:.0f}"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
