"""Wins, ratings, agreement, the figure, and pairs: against other ways of computing them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from itertools import combinations, permutations
from pathlib import Path

import annotate_study as study
import numpy as np
import pytest
import torch
from annotate_study import write_samples
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.annotate.agreement import agreement, cohen, krippendorff, ordinal
from openqwen.annotate.ballots import Answer, Ballots, Mark
from openqwen.annotate.contests import (
    CENTRE,
    PRIOR,
    STEP,
    Contest,
    bradley_terry,
    contests,
    elo,
    ratings,
    shares,
)
from openqwen.annotate.items import read_items
from openqwen.annotate.results import summarise
from openqwen.annotate.sheets import figure, keep, sheets
from openqwen.cli import main
from openqwen.cli.annotate import app
from openqwen.core.artifact import find
from openqwen.core.errors import DataError, UsageError
from openqwen.core.intervals import wilson
from openqwen.report.tables import latex, markdown
from openqwen.reward.data import problem


def answer(item: str, who: str, **places: int) -> Answer:
    return Answer(item, who, {f"{item}/{name}": Mark(place) for name, place in places.items()})


def met(said: list[Answer]) -> list[Contest]:
    """Contests of answers whose replies are called ITEM/MODEL."""
    return contests(said, {reply: reply.split("/")[1] for a in said for reply in a.marks})


# ---- contests and shares -------------------------------------------------------------------------------------------
def test_places_become_contests_of_models() -> None:
    """a has two replies, one before and one level with b's: half a win, half a tie."""
    found = contests([answer("q", "anna", a1=1, a2=2, b=2)], {"q/a1": "a", "q/a2": "a", "q/b": "b"})
    assert found == [Contest("q", "anna", "a", "b", 0.5, 0.5, 0.0)]


def test_shares_are_against_the_baseline_from_either_side() -> None:
    said = [
        answer("q1", "x", a=1, b=2, c=3),
        answer("q1", "y", a=2, b=1, c=2),
        answer("q2", "x", a=1, b=1, c=2),
    ]
    found = {s.model: s for s in shares(met(said), "b")}
    assert (found["a"].win, found["a"].tie, found["a"].loss) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert (found["c"].win, found["c"].tie, found["c"].loss) == (0, 0, 1)
    assert (found["a"].low, found["a"].high) == pytest.approx(wilson(1.0, 2))
    assert (found["a"].instructions, found["a"].answers) == (2, 3) and "b" not in found


# ---- ratings -------------------------------------------------------------------------------------------------------
def log_likelihood(points: list[list[float]], values: torch.Tensor) -> torch.Tensor:
    """Contest by contest; at the end each model's ties with the imagined one at 0."""
    total = torch.zeros((), dtype=torch.float64)
    for i, row in enumerate(points):
        for j, won in enumerate(row):
            total = total + won * torch.nn.functional.logsigmoid(values[i] - values[j])
    ends = torch.nn.functional.logsigmoid(values) + torch.nn.functional.logsigmoid(-values)
    return total + PRIOR / 2 * ends.sum()


@pytest.mark.parametrize("num_models, sparse", [(2, False), (3, True), (5, False), (8, True)])
def test_bradley_terry_is_the_maximum_of_the_likelihood(num_models: int, sparse: bool) -> None:
    """As a general optimiser finds it, from derivatives of the sum of its terms."""
    rng = np.random.default_rng(num_models)
    points = rng.integers(0, 2 if sparse else 20, (num_models, num_models)) / 2
    np.fill_diagonal(points, 0)
    values = torch.zeros(num_models, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [values], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        found = -log_likelihood(points.tolist(), values)
        found.backward()
        return found

    optimiser.step(loss)
    best = values.detach().numpy()
    expected = CENTRE + 400 / math.log(10) * (best - best.mean())
    assert bradley_terry(points[None])[0] == pytest.approx(expected, abs=1e-3)


def test_ratings_stay_finite_when_one_wins_all() -> None:
    found = bradley_terry(np.array([[[0.0, 50.0], [0.0, 0.0]]]))[0]
    assert np.isfinite(found).all() and found[0] > found[1] + 400


def test_elo_is_the_formula_answer_by_answer() -> None:
    """Three models; an answer is about all of them, about two, or a half win."""
    games = [[(0, 1, 1.0), (0, 2, 0.5), (1, 2, 0.0)], [(1, 2, 0.5)], [(2, 0, 0.25)], [(0, 1, 0.0)]]
    rounds = np.zeros((4, 3, 3))
    for i, own in enumerate(games):
        for a, b, points in own:
            rounds[i, a, b], rounds[i, b, a] = points, 1 - points
    orders = np.array([[0, 1, 2, 3], [3, 1, 0, 2], [2, 0, -1, -1]])
    found = elo(rounds, orders)
    for row, order in zip(found, orders):
        slow = [CENTRE] * 3
        for k in order[order >= 0]:
            before = list(slow)
            for a, b, points in games[k]:
                gain = STEP * (points - 1 / (1 + 10 ** ((before[b] - before[a]) / 400)))
                slow[a] += gain
                slow[b] -= gain
        assert row == pytest.approx(slow)
    assert found.sum(1) == pytest.approx([3 * CENTRE] * 3)


def tournament(strengths: dict[str, float], items: int, people: int, seed: int) -> list[Answer]:
    """Answers of people who rank by strength and chance (Plackett-Luce)."""
    rng = random.Random(seed)
    said = []
    for i in range(items):
        for p in range(people):
            worth = {name: s - math.log(-math.log(rng.random())) for name, s in strengths.items()}
            order = sorted(worth, key=lambda name: -worth[name])
            said.append(answer(f"q{i}", f"p{p}", **{name: n for n, name in enumerate(order, 1)}))
    return said


def test_known_strengths_are_found_whatever_the_order() -> None:
    strengths = {"a": 1.0, "b": 0.4, "c": 0.0, "d": -0.8}
    found = met(tournament(strengths, 300, 2, 1))
    rated = ratings(found, 0)
    scale = 400 / math.log(10)
    mean = sum(strengths.values()) / 4
    assert [r.model for r in rated] == list("abcd")
    for r in rated:
        truth = CENTRE + scale * (strengths[r.model] - mean)
        assert r.bradley_terry == pytest.approx(truth, abs=35)
        low, high = r.bradley_terry_interval
        assert low < r.bradley_terry < high and 10 < high - low < 80
        assert r.elo_interval[0] < r.elo < r.elo_interval[1]
        assert r.elo == pytest.approx(truth, abs=40)
    assert sum(r.elo for r in rated) == pytest.approx(4 * CENTRE)
    shuffled = random.Random(0).sample(found, len(found))
    for one, other in zip(rated, ratings(shuffled, 0)):
        assert other.bradley_terry == pytest.approx(one.bradley_terry, abs=1e-4)
        assert other.elo == pytest.approx(one.elo, abs=5)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    strengths = {"a": 0.5, "b": 0.0, "c": -0.5}
    held = 0
    for seed in range(40):
        found = met(tournament(strengths, 40, 2, seed))
        for r in ratings(found, seed):
            low, high = r.bradley_terry_interval
            held += low <= CENTRE + 400 / math.log(10) * strengths[r.model] <= high
    assert held / 120 >= 0.88


# ---- agreement -----------------------------------------------------------------------------------------------------
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve units.
OBSERVERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def nominal(_: object) -> Callable[[int, int], float]:
    return lambda a, b: float(a != b)


def interval(_: object) -> Callable[[int, int], float]:
    return lambda a, b: float(a - b) ** 2


@pytest.mark.parametrize("metric, published", [(nominal, 0.743), (ordinal, 0.815), (interval, 0.849)])
def test_alpha_is_as_published(metric: object, published: float) -> None:
    columns = zip(*(row.split() for row in OBSERVERS))
    found = krippendorff([[int(v) for v in column if v != "."] for column in columns], metric)  # type: ignore[arg-type]
    assert found == pytest.approx(published, abs=5e-4)


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_alpha_is_that_of_a_slow_twin(units: list[list[int]]) -> None:
    """Observed and expected disagreement, each pair of values by itself."""
    several = [unit for unit in units if len(unit) > 1]
    values = [v for unit in several for v in unit]

    def gap(a: int, b: int) -> float:
        low, high = min(a, b), max(a, b)
        between = sum(low <= v <= high for v in values) - (values.count(a) + values.count(b)) / 2
        return between**2 if a != b else 0.0

    seen = [gap(a, b) / (len(unit) - 1) for unit in several for a, b in permutations(unit, 2)]
    expected = [gap(a, b) / (len(values) - 1) for a, b in permutations(values, 2)]
    found = krippendorff(units, ordinal)
    if not sum(expected):
        assert found is None
    else:
        assert found == pytest.approx(1 - sum(seen) / sum(expected))


def test_kappa_is_that_of_a_textbook_example() -> None:
    """Two readers of 50 proposals: both yes 20, both no 15, 5 and 10 mixed: seen 0.7, by chance 0.5."""
    said = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen(said) == pytest.approx(0.4)
    assert cohen([("y", "y")] * 3) is None


def test_agreement_of_annotators() -> None:
    one = [answer(f"q{i}", "anna", a=1, b=2, c=3) for i in range(20)]
    same = agreement([*one, *(answer(f"q{i}", "bo", a=2, b=4, c=5) for i in range(20))])
    assert same["alpha"] == same["kappa"] == 1.0 and same["pairs"][0]["comparisons"] == 60
    against = agreement([*one, *(answer(f"q{i}", "bo", a=3, b=2, c=1) for i in range(20))])
    assert against["kappa"] == -1.0 and against["alpha"] < 0 and against["pairs"][0]["same"] == 0
    rng = random.Random(3)
    orders = [rng.sample((1, 2, 3), 3) for _ in range(1200)]
    said = [answer(f"q{i // 2}", "ab"[i % 2], x=o[0], y=o[1], z=o[2]) for i, o in enumerate(orders)]
    chance = agreement(said)
    assert abs(chance["kappa"]) < 0.1 and abs(chance["alpha"]) < 0.1
    alone = agreement(one)
    assert alone == {"alpha": None, "kappa": None, "pairs": []}


# ---- a file of answers ---------------------------------------------------------------------------------------------
@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Three people, four instructions; large is best, small and middle are level; anna finds q0's large unsafe."""
    ballots = Ballots.start(tmp_path / "said.sqlite", read_items(write_samples(tmp_path / "in.jsonl")), 0)
    for who in ("anna", "bo", "cem"):
        for i in range(4):
            place = {"small": 2, "middle": 2, "large": 1}
            marks = {
                f"q{i}/{m}": Mark(n, 11 - 3 * n, unsafe=(who, i, m) == ("anna", 0, "large"))
                for m, n in place.items()
            }
            ballots.add(f"{who}-{i}", Answer(f"q{i}", who, marks, "odd" if (who, i) == ("bo", 1) else ""))
    return ballots.path


def test_a_summary_has_figure_4_overall_and_by_topic(db: Path) -> None:
    found = summarise(Ballots(db), "small")
    assert list(found["shares"]) == ["all", "coding", "knowledge"]
    assert [(s["model"], s["win"], s["tie"], s["loss"]) for s in found["shares"]["all"]] == [
        ("large", 1, 0, 0), ("middle", 0, 1, 0),
    ]  # fmt: skip
    assert found["ratings"][0]["model"] == "large"
    assert found["agreement"]["alpha"] == 1.0 and found["annotators"] == {"anna": 4, "bo": 4, "cem": 4}
    large = next(m for m in found["models"] if m["model"] == "large")
    assert (large["unsafe"], large["broken"], large["score"]) == (1, 0, 8.0)
    assert found["comments"] == [{"item": "q1", "annotator": "bo", "comment": "odd"}]
    with pytest.raises(UsageError, match="no model is called"):
        summarise(Ballots(db), "smal")


def test_equal_texts_are_ties_of_models_but_no_agreement_of_people(tmp_path: Path) -> None:
    """Nobody judged whether equal texts are equal."""
    texts = {"small": "the same", "middle": "the same", "large": "another"}
    found = read_items(write_samples(tmp_path / "in.jsonl", 2, texts))
    ballots = Ballots.start(tmp_path / "said.sqlite", found, 0)
    for who, first in (("anna", 1), ("bo", 2)):
        for i in range(2):
            marks = {f"q{i}/small": Mark(first), f"q{i}/middle": Mark(first), f"q{i}/large": Mark(3 - first)}
            ballots.add(f"{who}{i}", Answer(f"q{i}", who, marks))
    result = summarise(ballots, "small")
    assert next(s for s in result["shares"]["all"] if s["model"] == "middle")["tie"] == 1
    (pair,) = result["agreement"]["pairs"]
    assert (pair["same"], pair["comparisons"], pair["kappa"]) == (0, 2, -1.0)


def command(*words: object) -> int:
    return app([str(word) for word in words], result_action="return_value")


def test_results_on_the_command_line(db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / name for name in ("figure.png", "pairs.jsonl", "scores.jsonl")}
    words = [
        "--figure",
        files["figure.png"],
        "--pairs",
        files["pairs.jsonl"],
        "--scores",
        files["scores.jsonl"],
    ]
    assert command("results", db, "--baseline", "small", *words) == 0
    out = capsys.readouterr().out
    assert "large" in out and "100.0%" in out and "alpha 1.00" in out and "kappa 1.00" in out
    assert files["figure.png"].read_bytes().startswith(b"\x89PNG")
    assert command("results", db, "--json") == 0
    assert json.loads(capsys.readouterr().out)["baseline"] == "large"
    scores = [json.loads(line) for line in files["scores.jsonl"].read_text().splitlines()]
    assert len(scores) == 36 and {"reply": "q0/large", "annotator": "anna", "score": 8} in scores


def test_results_in_every_form_on_the_command_line(
    db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Markdown and LaTeX have what the terminal has, and nothing else stands on a stream that is piped."""
    found = summarise(Ballots(db), "small")
    shown = sheets(found)
    assert command("results", db, "--baseline", "small") == 0
    printed = capsys.readouterr().out
    for form, write in (("markdown", markdown), ("latex", latex)):
        assert (
            command("results", db, "--baseline", "small", "--form", form, "--figure", tmp_path / "f.svg") == 0
        )
        piped = capsys.readouterr().out
        assert piped == write(*shown)
        assert command("results", db, "--baseline", "small", "--form", form, "--to", tmp_path / form) == 0
        assert (tmp_path / form).read_text(encoding="utf-8") == piped and form in capsys.readouterr().out
    for one in shown:
        assert all(cell in printed for cell in (one.heading, *one.head, *one.notes))
        assert all(cell in printed for row in one.rows for cell in row)
    all_of_large, all_of_middle = shown[0].rows[:2]
    assert list(all_of_large[:6]) == ["all", "large", "4", "100.0%", "0.0%", "0.0%"]
    assert list(all_of_middle[3:7]) == ["0.0%", "100.0%", "0.0%", "~50.0%"]
    low, high = wilson(4, 4)
    assert all_of_large[7] == f"{low:.1%} to {high:.1%}"
    assert shown[0].notes[-1] == "4 of 4 instructions answered; answers: anna 4, bo 4, cem 4"
    with pytest.raises(UsageError, match="no file"):
        command("results", db, "--to", tmp_path / "x")
    with pytest.raises(UsageError, match="png"):
        command("results", db, "--figure", tmp_path / "figure.gif")


def test_results_that_are_kept_stand_on_the_report_page(db: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "human", tmp_path / "page"
    assert command("results", db, "--baseline", "small", "--out", out) == 0
    kept = json.loads((out / "results.json").read_text())
    assert kept["baseline"] == "small" and kept["shares"] == summarise(Ballots(db), "small")["shares"]
    made = find(out)
    assert made is not None and made.manifest["facts"]["said"] == kept["manifest"]
    assert {path.name for path in out.glob("*.*")} >= {
        "results.md", "results.tex", *(f"figure_04.{form}" for form in ("md", "tex", "png", "svg")),
    }  # fmt: skip
    assert main(["report", str(out), "--out", str(page)]) == 0
    html = (page / "report.html").read_text(encoding="utf-8")
    assert 'id="people"' in html and "100.0%" in html and "Krippendorff&#39;s alpha 1.00" in html
    assert "against small" in html and "wins + ties/2, 95 %" in html  # words of the picture
    text = (page / "exhibits" / "figure_04_people.md").read_text(encoding="utf-8")
    assert text == (out / "results.md").read_text(encoding="utf-8")
    ballots = Ballots(db)
    ballots.add("late", Answer("q0", "dan", {f"q0/{name}": Mark(1) for name in study.MODELS}))
    again = keep(ballots, summarise(ballots, "small"), 0, out)
    assert again.manifest["facts"]["said"] != kept["manifest"]


def test_a_baseline_that_met_nobody(db: Path) -> None:
    found = {**summarise(Ballots(db), "small"), "shares": {"all": []}}
    with pytest.raises(DataError, match="no model was compared with small"):
        figure(found)


def test_pairs_train_a_reward_model_and_say_where_they_are_from(db: Path, tmp_path: Path) -> None:
    assert command("results", db, "--pairs", tmp_path / "pairs.jsonl") == 0
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert all(problem(pair) is None for pair in pairs)
    won = [(p["chosen_from"]["model"], p["rejected_from"]["model"]) for p in pairs]
    # q1 to q3: large before both others, which are level; q0: what somebody found unsafe is never the better side
    assert sorted(won) == [("large", "middle")] * 3 + [("large", "small")] * 3 + [
        ("middle", "large"), ("small", "large"),
    ]  # fmt: skip
    first = next(p for p in pairs if p["chosen"] == "Reply of quality 2 to 1.")
    assert first["judge"] == {"kind": "people", "who": ["anna", "bo", "cem"]} and first["task"] == "knowledge"
    assert first["messages"][-1] == {"role": "user", "content": "Question 1?"}
    assert first["gap"] == pytest.approx(0.75) and first["chosen_from"]["score"] == 1.0


def test_pairs_reads_the_file_itself(db: Path) -> None:
    """The view of scores: the share of the other replies that a reply was put before."""
    from openqwen.annotate.judge import by_people

    replies = [reply for item in Ballots(db).study.items for reply in item.replies]
    found = by_people(db, replies)
    assert found.num_skipped == 0 and len(found.of) == 12
    assert {r["id"].split("/")[1]: found.of[r["id"]] for r in replies} == {
        "large": 1.0, "middle": 0.25, "small": 0.25,
    }  # fmt: skip


def test_a_file_without_answers(tmp_path: Path) -> None:
    path = tmp_path / "said.sqlite"
    Ballots.start(path, read_items(write_samples(tmp_path / "in.jsonl")), 0)
    with pytest.raises(DataError, match="nobody has answered"):
        command("results", path)
    with pytest.raises(DataError, match="no file of answers"):
        command("results", tmp_path / "nothing")


def test_instructions_are_written(tmp_path: Path) -> None:
    assert command("instructions", "--out", tmp_path / "own.jsonl", "--lang", "zh", "--topic", "coding") == 0
    rows = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 15 and {(r["lang"], r["task"]) for r in rows} == {("zh", "coding")}


def test_every_pair_of_models_meets() -> None:
    said = tournament(dict.fromkeys(study.MODELS, 0.0), 3, 2, 0)
    found = met(said)
    assert {(c.one, c.other) for c in found} == set(combinations(sorted(study.MODELS), 2)) and len(
        found
    ) == 18
