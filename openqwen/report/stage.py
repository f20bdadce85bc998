"""The report page of a run: one self-contained HTML file, no network.

Figures 1 to 4 and Tables 2 to 17 of the report with our numbers beside the published ones, and the curves that a person
wants to see (ours). Beside the page stand the tables and Figures 2 and 4 as files: exhibits/NAME.md, .tex, .png, .svg.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openqwen.core.artifact import Artifact, find, open_inputs, read_jsonl, stage_run, write_atomic
from openqwen.core.config import Resolved
from openqwen.core.console import duration
from openqwen.core.errors import DataError
from openqwen.core.tables import Cell, by_chance
from openqwen.report import exhibits, training
from openqwen.report.config import ReportConfig
from openqwen.report.exhibits import Exhibit
from openqwen.report.figures import Series, bars, curves, lineage, svg_text, themed
from openqwen.report.summary import numbers
from openqwen.report.tables import Sheet, notes, read, sheet, shown
from openqwen.report.training import NORM, RATE, Curve, Unit

KIND = "report"
FOLDER = "exhibits"
FILLED = "filled:"  # begins the name of an input that is no artefact but a folder of tables
HALF = 6.0  # inches up to which a figure is not stretched over the whole width of the page
INCIDENTS = 12  # in the page's table
CAPTION = "The run over its steps. Lines: means of neighbouring records; bands: from the least to the greatest of them."


@dataclass
class Part:
    """One section of the page."""

    anchor: str
    title: str
    section: str
    text: str
    figures: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    exhibits: list[Exhibit] = field(default_factory=list)

    def figure(self, svg: str, caption: str, broad: bool = False) -> None:
        self.figures.append({"svg": themed(svg), "caption": caption, "broad": broad})

    def exhibit(self, made: Exhibit, caption: str) -> None:
        """A figure of the report."""
        self.exhibits.append(made)
        self.figure(svg_text(made.picture), caption, broad=made.picture.get_figwidth() > HALF)

    def table(self, path: Path, also: str = "") -> dict[str, Any]:
        """A table of the report from its file; returns what it holds. also: tells apart what has the same number."""
        data = read(path)
        self.exhibits.append(exhibits.of_table(data, also))
        self.tables.append(_report_table(data))
        return data

    @property
    def files(self) -> str:
        """Which files stand beside the page."""
        return ", ".join(f"{FOLDER}/{made.name}" for made in self.exhibits)

    def training(self, found: Artifact, config: ReportConfig, *units: Unit) -> None:
        """How the run went, and which steps did not go well."""
        if svg := training.figure(found, units, config.smooth):
            self.figure(svg, CAPTION, broad=True)
        bad = training.incidents(found)
        rows = [_incident(record) for record in bad[:INCIDENTS]]
        more = [f"{len(bad) - INCIDENTS} more stand in incidents.jsonl."] if len(bad) > INCIDENTS else []
        if rows:
            head = ["step", "what", "loss", "gradient norm", "documents in the batch"]
            self.tables.append({**_table("Steps that did not go well", head, rows), "notes": more})


def run(resolved: Resolved[ReportConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Writes report.html and exhibits/. inputs: any of a tour's artefacts by step name; a part is shown if what it needs
    is given; and "filled:NAME", folders of tables that `openqwen table --out` wrote.
    """
    opened = open_inputs(inputs, {})
    filled = {name: path for name, path in inputs.items() if name.startswith(FILLED)}
    found = {name: artifact for name, path in inputs.items() if (artifact := find(path))}
    if missing := sorted(set(inputs) - set(found) - set(filled)):
        raise DataError(f"not finished: {', '.join(missing)}", fix="run the stages that make them first")
    with stage_run(out, KIND, resolved, {**opened, **found}) as stage:
        parts = build(resolved.config, found, filled)
        page = render(resolved.config, found, parts)
        write_atomic(stage.path / "report.html", page)
        shown = [made for part in parts for made in part.exhibits]
        (stage.path / FOLDER).mkdir(exist_ok=True)
        for made in shown:
            made.write(stage.path / FOLDER)
        stage.fact(bytes=len(page.encode()), parts=len(parts), exhibits=[made.name for made in shown])
    done = find(out)
    assert done is not None
    return done


def build(
    config: ReportConfig, found: Mapping[str, Artifact], filled: Mapping[str, Path] | None = None
) -> list[Part]:
    """The parts that what is given suffices for."""
    parts = [make(config, found) for needs, make in PARTS if found and needs <= found.keys()]
    return parts + [tables_of(name.removeprefix(FILLED), path) for name, path in (filled or {}).items()]


def render(config: ReportConfig, found: Mapping[str, Artifact], parts: Sequence[Part] | None = None) -> str:
    """The page as HTML text. Everything from artefacts is escaped; only our own SVG goes in as markup.

    parts: by default all that `found` suffices for.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html").render(
        title=config.title,
        subtitle=subtitle(found),
        numbers=list(numbers(found)),
        parts=build(config, found) if parts is None else parts,
    )


def subtitle(found: Mapping[str, Artifact]) -> str:
    manifests = [artifact.manifest for artifact in found.values()]
    if not manifests:
        return "Tables of the report with rows of ours."
    last = max(manifests, key=lambda m: m["finished"])
    machine = last["environment"]
    took = duration(sum(m["seconds"] for m in manifests))
    return (
        f"Made on {last['finished'][:10]} in {took} on {machine['processors']} processors ({machine['platform']}), "
        f"openqwen {machine['openqwen']}, Python {machine['python']}, torch {machine['versions'].get('torch', '-')}. "
        "Models of this size show that each step does what the report says; their scores say nothing about Qwen's."
    )


# ---- parts -----------------------------------------------------------------------------------------------------


def family(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Figure 1."""
    part = Part(
        "lineage", "Lineage", "Figure 1", "Each box is an artefact on disk; its digest names its content."
    )
    edges, nodes = set(), {}
    for name, artifact in found.items():
        nodes[name] = (artifact.kind, artifact.content[:8])
        for source in artifact.manifest["inputs"].values():
            parent = (artifact.path / source["path"]).resolve()
            edges |= {(other, name) for other, a in found.items() if _inside(parent, a.path.resolve())}
    part.figure(
        lineage(nodes, sorted(edges)), "From raw pages to the assistant. Arrows: was made from.", broad=True
    )
    return part


def _inside(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def corpus(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """The funnel of documents and, where truth is known, how right each step was."""
    part = Part(
        "corpus", "Corpus", "§2.1", "What every step took in and let through, and why the rest was dropped."
    )
    stats = _json(found["corpus"], "stats.json")
    funnel = stats["funnel"]
    part.figure(
        bars([s["step"] for s in funnel], {"documents left": [s["out"] for s in funnel]}, "documents"),
        "The funnel.",
    )
    rows = []
    for step in funnel:
        reasons = ", ".join(
            f"{reason} {count:,}" for reason, count in sorted(step["dropped"].items(), key=lambda r: -r[1])
        )
        rows.append(_plain([step["step"], f"{step['in']:,}", f"{step['out']:,}", reasons or "-"]))
    part.tables.append(_table("Documents by step", ["step", "in", "out", "dropped because"], rows))
    truth = stats.get("truth") or {}
    scored = [(step, values) for step, values in truth.items() if isinstance(values, dict)]
    if scored:
        names = sorted(
            {
                name
                for _, values in scored
                for name, value in values.items()
                if isinstance(value, (int, float))
            }
        )
        rows = [_plain([step, *(_number(values.get(name)) for name in names)]) for step, values in scored]
        part.tables.append(_table("Against the primer's known truth", ["step", *names], rows))
    part.samples = _samples(found["corpus"], config.samples)
    return part


def vocabulary(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Figure 3."""
    part = Part(
        "vocabulary",
        "Vocabulary",
        "§2.2, Figure 3",
        "Bytes of held-out text that one token carries; longer is tighter.",
    )
    groups = [
        g for g in _json(found["tokenizer"], "compression.json")["groups"] if g["by"] in ("lang", "source")
    ]
    for kind, caption in (("lang", "by language"), ("source", "by source")):
        rows = [g for g in groups if g["by"] == kind and g["bytes_per_token"]]
        if rows:
            names = sorted({name for g in rows for name in g["bytes_per_token"]})
            values = {name: [g["bytes_per_token"].get(name, 0.0) for g in rows] for name in names}
            part.figure(bars([g["name"] for g in rows], values, "bytes per token"), caption)
    part.samples = _samples(found["tokenizer"], config.samples)
    return part


def base(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Pretraining curves."""
    facts = found["base"].manifest["facts"]
    text = f"{facts['parameters']:,} parameters, {facts['tokens_seen']:,} tokens seen."
    part = Part("base", "Base model", "§2.3, §2.4", text)
    bits, ngram = "bits per byte", facts.get("ngram_bits_per_byte")
    level = None if ngram is None else ("5-gram on the same text", ngram)
    part.training(
        found["base"],
        config,
        Unit("loss, nats per token", (Curve("loss", "training"),), log=True),
        Unit(bits, (Curve("valid_bits_per_byte", "held-out text"),), level=level),
        RATE,
        NORM,
    )
    part.samples = _samples(found["base"], config.samples * 2)
    return part


def context(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Table 3 and its picture."""
    part = Part(
        "context",
        "Longer than trained",
        "§2.5, Table 3",
        "Perplexity of held-out text against its length, no new training.",
    )
    table = part.table(found["context"].file("table_03.json"))
    series = []
    for row in (r for r in table["rows"] if r["origin"] == "ours"):
        cells = [(_length(c["name"]), row["cells"].get(c["name"])) for c in table["columns"]]
        known = [(x, cell) for x, cell in cells if cell and cell.get("value") is not None]
        x, y = [x for x, _ in known], [c["value"] for _, c in known]
        bounds = [[c.get(end, c["value"]) for _, c in known] for end in ("low", "high")]
        series.append(Series(row["model"], x, y, bounds[0], bounds[1]))
    part.figure(
        curves(series, "tokens", "perplexity", log_x=True, log_y=True), "Shaded: confidence intervals."
    )
    return part


def _length(name: str) -> float:
    """`"1024"`, `"4x (1024)"` -> 1024.0."""
    digits = [
        int(word)
        for word in name.replace("(", " ").replace(")", " ").replace(",", "").split()
        if word.isdigit()
    ]
    return float(digits[-1])


def chat(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Supervised finetuning."""
    part = Part("chat", "Chat model", "§3.1", "Finetuned on conversations; the loss counts the replies only.")
    loss = Curve("loss", "training"), Curve("heldout_loss", "held out")
    part.training(found["chat"], config, Unit("loss, nats per reply token", loss, log=True), RATE, NORM)
    part.samples = _samples(found["chat"], config.samples * 2)
    return part


PAIRWISE = (
    Unit("pairwise loss, nats", (Curve("loss", "training"),)),
    Unit("right pairs, share", (Curve("accuracy", "training"),)),
    Unit("margin of rewards", (Curve("margin", "training"),)),
    NORM,
    RATE,
)


def preference(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Preference-model pretraining."""
    text = "Pretrained on many rough comparisons; the reward model begins from it."
    part = Part("pmp", "Preference model", "§3.2.1", text)
    part.training(found["preference"], config, *PAIRWISE)
    part.table(found["preference"].file("table_04.json"), "_pmp")
    return part


def reward(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Table 4."""
    part = Part(
        "reward",
        "Reward model",
        "§3.2.1, Table 4",
        "How often the model prefers what is known to be better, on pairs it never saw.",
    )
    part.training(found["reward"], config, *PAIRWISE)
    part.table(found["reward"].file("table_04.json"))
    part.samples = _samples(found["reward"], config.samples)
    return part


def rlhf(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """The curves of PPO."""
    part = Part(
        "rlhf",
        "PPO",
        "§3.2.2",
        "What the reward model says, what is true, and how far the policy has moved (KL) from the chat model.",
    )
    rewards = Curve("reward", "reward model"), Curve("true_reward", "true preference")
    distances = Curve("kl", "k1"), Curve("kl_k3", "k3"), Curve("kl_exact", "whole distributions")
    clipped = Curve("policy_clip_fraction", "policy"), Curve("value_clip_fraction", "value")
    ratios = Curve("ratio_max", "largest"), Curve("ratio_min", "smallest")
    flaws = Curve("cut_off", "cut off"), Curve("repetition", "repeated 4-grams")
    norms = Curve("policy_grad_norm", "policy"), Curve("value_grad_norm", "value")
    seconds = [Curve(f"seconds_{name}", name) for name in ("rollout", "score", "update")]
    part.training(
        found["rlhf"],
        config,
        Unit("mean reward of replies", rewards),
        Unit("KL, nats per reply", distances),
        Unit("entropy, nats per token", (Curve("entropy", "entropy"),)),
        Unit("ratio to the old policy", ratios),
        Unit("clipped tokens, share", clipped),
        Unit("explained variance of values", (Curve("explained_variance", "value model"),)),
        Unit("policy loss", (Curve("policy_loss", "policy"),)),
        Unit("value loss", (Curve("value_loss", "value"),), log=True),
        Unit("gradient norm", norms, log=True),
        Unit("length of replies, tokens", (Curve("length", "length"),)),
        Unit("share of replies", flaws),
        Unit("seconds a step", seconds),
    )
    part.tables.append(_before_after(found["rlhf"]))
    part.samples = _samples(found["rlhf"], config.samples * 2)
    return part


# Fact of PPO, without _before and _after -> what a person calls it.
BEFORE_AFTER = {
    "true": "true preference of held-out replies",
    "reward": "modelled reward of held-out replies",
    "length": "their length, tokens",
    "stopped": "share that ends by itself",
    "text_loss": "loss on held-out text, nats a token (the alignment tax is its rise)",
}


def _before_after(ppo: Artifact) -> dict[str, Any]:
    """What PPO changed, and what the watchdog named."""
    facts = ppo.manifest["facts"]
    rows = [
        _plain([label, *(_number(facts.get(f"{key}_{side}")) for side in ("before", "after"))])
        for key, label in BEFORE_AFTER.items()
        if f"{key}_after" in facts
    ]
    named = ", ".join(facts["watchdog"]) or "nothing"
    table = _table("Before and after", ["", "before", "after"], rows)
    return {**table, "notes": [f"The watchdog named: {named}."]}


def preferences(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Direct preference optimisation."""
    text = "The policy learns from comparison pairs; its log-ratio to the chat model stands for the reward."
    part = Part("dpo", "Direct preference optimisation", "§6.2", text)
    loss = Curve("loss", "training"), Curve("heldout_loss", "held out")
    right = Curve("accuracy", "training"), Curve("heldout_accuracy", "held out")
    margin = Curve("margin", "training"), Curve("heldout_margin", "held out")
    part.training(
        found["dpo"],
        config,
        Unit("pairwise loss, nats", loss),
        Unit("right pairs, share", right),
        Unit("margin of implicit rewards", margin),
        Unit("implicit reward of the preferred reply", (Curve("chosen_reward", "training"),)),
        RATE,
        NORM,
    )
    part.samples = _samples(found["dpo"], config.samples * 2)
    return part


def rejection(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Rejection sampling finetuning."""
    text = "Finetuned on those of its own replies that the reward model likes best."
    part = Part("rft", "Rejection sampling", "§6.2", text)
    loss = Curve("loss", "training"), Curve("heldout_loss", "held out")
    part.training(found["rft"], config, Unit("loss, nats per reply token", loss), RATE, NORM)
    part.samples = _samples(found["rft"], config.samples * 2)
    return part


def ranking(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """RRHF."""
    text = "The policy learns to find those of its replies more likely that the reward model likes better."
    part = Part("rrhf", "Ranked replies", "§6.2", text)
    pairs, best = (
        (Curve(name, "training"), Curve(f"heldout_{name}", "held out")) for name in ("accuracy", "best_loss")
    )
    part.training(
        found["rrhf"],
        config,
        Unit("pairs of replies in the right order, share", pairs),
        Unit("loss of the best reply, nats a token", best),
        Unit("ranking loss", (Curve("rank_loss", "training"), Curve("heldout_rank_loss", "held out"))),
        RATE,
        NORM,
    )
    part.samples = _samples(found["rrhf"], config.samples * 2)
    return part


def policies(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """PPO and its alternatives on one table."""
    text = "Replies to the same held-out prompts with the same seeds, judged by the same models."
    part = Part("policies", "Policies side by side", "§3.2.2, §6.2", text)
    part.tables.append(_report_table(read(found["comparison"].file("policies.json"))))
    part.samples = _samples(found["comparison"], config.samples * 2)
    return part


def human(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Figure 4 with the known true preference as the judge."""
    part = Part(
        "preference",
        "Win, tie, loss",
        "§3.3, Figure 4",
        "Replies to held-out prompts compared by the primer's true preference.",
    )
    data = _json(found["evals"], "figure_04.json")
    first = data["rows"][0]
    groups = {f"judge: {bar['judge']}": [exhibits.judged(bar)] for bar in data["rows"]}
    made = exhibits.figure_4(groups, first["against"], data["notes"])
    part.exhibit(made, f"{first['model']} against {first['against']}, {first['n']} held-out prompts.")
    return part


def people(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Figure 4 with people as judges, ratings and agreement."""
    part = Part(
        "people", "Human evaluation", "§3.3, Figure 4, §A.2.2", "Replies ranked by people who saw no names."
    )
    data = _json(found["people"], "results.json")
    sheets = [Sheet(**one) for one in data["sheets"]]
    made = exhibits.figure_4(data["shares"], data["baseline"])
    part.exhibit(
        Exhibit(f"{made.name}_people", sheets, made.picture), "Of all instructions, and of each topic."
    )
    part.tables += [_sheet_table(one) for one in sheets if one.rows]
    return part


def tools(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Table 6."""
    part = Part(
        "tools", "Tool use", "§3.4, Table 6", "ReAct prompts with tools the question may or may not need."
    )
    part.table(found["agent"].file("table_06.json"))
    part.samples = _samples(found["agent"], config.samples)
    return part


def interpreter(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Tables 7 to 9."""
    text = "Questions that are answered by a program, and tools called as Python functions."
    part = Part("interpreter", "Code interpreter and agent", "§3.4, Tables 7 to 9", text)
    for number in (7, 8, 9):
        part.table(found["agentbench"].file(f"table_{number:02d}.json"))
    part.samples = _samples(found["agentbench"], config.samples)
    return part


def tables(config: ReportConfig, found: Mapping[str, Artifact]) -> Part:
    """Figure 2 and Tables 2, 5 and 10 to 17."""
    part = Part(
        "tables",
        "Benchmarks",
        "Figure 2, Tables 2, 5, 10 to 17",
        "Our rows: the primer's items in the benchmarks' form, with 95 % intervals.",
    )
    _fill(part, found["evals"].path)
    return part


def tables_of(name: str, folder: Path) -> Part:
    """Tables that `openqwen table` filled for models of the user's."""
    text = "Our rows: the items that the notes below name, with 95 % intervals."
    part = Part(f"filled-{name}", f"Filled tables: {name}", "", text)
    _fill(part, folder, f"_{name}")
    return part


def _fill(part: Part, folder: Path, also: str = "") -> None:
    """All tables of a folder and, where ours have scores on its sets, Figure 2."""
    files = sorted(folder.glob("table_*.json"))
    found = {data["table"]: data for data in (part.table(path, also) for path in files)}
    if (made := exhibits.figure_2(found)) is not None:
        made = Exhibit(made.name + also, made.sheets, made.picture)
        part.exhibit(made, " ".join(exhibits.CHOICE))


PARTS: Sequence[tuple[set[str], Callable[[ReportConfig, Mapping[str, Artifact]], Part]]] = (
    (set(), family),
    ({"corpus"}, corpus),
    ({"tokenizer"}, vocabulary),
    ({"base"}, base),
    ({"context"}, context),
    ({"chat"}, chat),
    ({"preference"}, preference),
    ({"reward"}, reward),
    ({"rlhf"}, rlhf),
    ({"dpo"}, preferences),
    ({"rft"}, rejection),
    ({"rrhf"}, ranking),
    ({"comparison"}, policies),
    ({"evals"}, human),
    ({"people"}, people),
    ({"agent"}, tools),
    ({"agentbench"}, interpreter),
    ({"evals"}, tables),
)


# ---- helpers ---------------------------------------------------------------------------------------------------


def _json(artifact: Artifact, name: str) -> Any:
    return json.loads(artifact.file(name).read_text(encoding="utf-8"))


def _samples(artifact: Artifact, limit: int) -> list[dict[str, Any]]:
    """The first and the last samples of a run: what was before, and what came of it."""
    path = artifact.path / "samples.jsonl"
    found: list[dict[str, Any]] = list(read_jsonl(path)) if path.is_file() else []
    if len(found) > limit:
        found = found[: limit // 2] + found[len(found) - (limit - limit // 2) :]
    return [
        {"label": record["label"], "prompt": _cut(record.get("prompt") or ""), "text": _cut(record["text"])}
        for record in found
    ]


def _cut(text: str, limit: int = 280) -> str:
    """A long text's beginning; the whole stands in the artefact."""
    return text if len(text) <= limit else text[:limit] + " …"


def _incident(record: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table of incidents. Documents are named up to five."""
    documents = [str(name) for name in record.get("documents") or ()]
    names = ", ".join(documents[:5]) + (f" and {len(documents) - 5} more" if len(documents) > 5 else "")
    values = [_number(record.get(key)) for key in ("loss", "grad_norm")]
    return _plain([f"{record['step']:,}", record["kind"], *values, names or "-"])


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _plain(cells: Sequence[str]) -> dict[str, Any]:
    return {"ours": False, "cells": [(cell, "") for cell in cells]}


def _table(title: str, head: Sequence[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"title": title, "head": [(name, "") for name in head], "rows": rows, "notes": [], "words": 1}


def _sheet_table(made: Sheet) -> dict[str, Any]:
    """A table of text for the template."""
    table = _table(made.heading, made.head, [_plain(row) for row in made.rows])
    return {**table, "notes": made.notes, "words": made.words}


def _report_table(data: Mapping[str, Any]) -> dict[str, Any]:
    """A table artefact for the template: our rows marked, intervals under the values, absent cells as dashes."""
    head = [("model", "")]
    for column in data["columns"]:
        shots = f"{column['shots']}-shot" if column.get("shots") is not None else ""
        head.append((column["name"], ", ".join(word for word in (shots, column.get("metric") or "") if word)))
    rows = []
    for row in data["rows"]:
        cells = [(row["model"], row["origin"]), *(_cell(shown(row, c["name"])) for c in data["columns"])]
        rows.append({"ours": row["origin"] == "ours", "cells": cells})
    return {"title": sheet(data).heading, "head": head, "rows": rows, "notes": notes(data), "words": 1}


def _cell(cell: Cell | None) -> tuple[str, str]:
    if cell is None:
        return "-", ""
    details = [f"{cell['low']:.4g} to {cell['high']:.4g}"] if cell.get("low") is not None else []
    if cell.get("n"):
        details.append(f"n {cell['n']}")
    if cell.get("chance") is not None:
        details.append(f"chance {cell['chance']:.3g}")
    return ("~" if by_chance(cell) else "") + _number(cell["value"]), ", ".join(details)
