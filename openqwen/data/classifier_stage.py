"""`openqwen data classifier train`: a classifier from a user's examples, with what it is worth.

Report §2.1 (models that score quality and find offensive content); the procedure is ours. Each example is judged by a
model that has not seen it. On half of the folds a threshold is chosen, on the other half its precision and recall are
counted, so that neither the model nor the threshold knows the examples it is measured on. The model that is kept is
trained on all of them.

    out/NAME/  model.safetensors  classifier.json  config.toml  manifest.json  DONE
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openqwen.core import artifact
from openqwen.core.artifact import Artifact, sha256_file, stage_run, write_atomic, write_json
from openqwen.core.config import Resolved
from openqwen.core.errors import DataError, did_you_mean
from openqwen.core.intervals import wilson
from openqwen.data import classifier
from openqwen.data.config import ClassifierConfig

KIND = "classifier"
Example = tuple[str, str]


def run(resolved: Resolved[ClassifierConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Trains on {"examples": JSONL of {"text", "label"}}. DataError for fewer than two examples a fold of a kind."""
    config, path = resolved.config, inputs["examples"]
    examples = classifier.read_examples(path)
    _check(examples, config, path)
    with stage_run(out, KIND, resolved, {"examples": path}) as stage:
        model = classifier.train(examples, config.label, config.training)
        write_atomic(stage.path / "model.safetensors", model.to_bytes())
        found = {
            "label": config.label,
            "examples": {
                "sha256": sha256_file(path),
                "count": dict(sorted(Counter(label for _, label in examples).items())),
            },
            "settings": config.model_dump(mode="json"),
            **held_out(examples, config),
        }
        write_json(stage.path / "classifier.json", found)
        stage.fact(
            label=config.label,
            examples=len(examples),
            threshold=found["threshold"],
            held_out=found["held_out"],
        )
    made = artifact.find(out)
    assert made is not None  # stage_run has just written DONE
    return made


def model_of(folder: Path, label: str) -> Path:
    """The model file of a trained classifier. DataError if it is none, or knows another label."""
    found = artifact.load(folder, KIND)
    known = json.loads(found.file("classifier.json").read_text(encoding="utf-8"))["label"]
    if known != label:
        raise DataError(
            f"this classifier finds {known!r}, not {label!r}",
            where=str(folder),
            fix=f"train one with --label {label}",
        )
    return found.file("model.safetensors")


def _check(examples: Sequence[Example], config: ClassifierConfig, path: Path) -> None:
    count = Counter(label for _, label in examples)
    if config.label not in count:
        raise DataError(
            f"no example of label {config.label!r}.{did_you_mean(config.label, list(count))}",
            where=str(path),
            fix=f"labels there: {', '.join(sorted(count)) or 'none'}",
        )
    texts: dict[str, str] = {}
    for text, label in examples:
        if (texts.setdefault(text, label) == config.label) != (label == config.label):
            raise DataError(
                f"the same text has the labels {texts[text]!r} and {label!r}",
                where=f"{path}: {text[:60]!r}",
                fix="keep one of them",
            )
    least = min(count[config.label], len(examples) - count[config.label])
    if least < 2 * config.folds:
        raise DataError(
            f"{count[config.label]} examples of {config.label!r} and {len(examples) - count[config.label]} others "
            f"are too few for {config.folds} folds",
            where=str(path),
            fix=f"give {2 * config.folds} of each kind, or fewer --folds",
        )


def fold_of(text: str, folds: int) -> int:
    """The fold of an example: by its text, so that copies are never on both sides."""
    return (
        int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) % folds
    )


def held_out(examples: Sequence[Example], config: ClassifierConfig) -> dict[str, Any]:
    """The threshold chosen on even folds, and what it is worth on odd ones: {"threshold", "held_out"}."""
    folds = np.array([fold_of(text, config.folds) for text, _ in examples])
    truth = np.array([label == config.label for _, label in examples])
    probability = np.zeros(len(examples))
    for fold in np.unique(folds):
        rest = [example for example, own in zip(examples, folds.tolist()) if own != fold]
        model = classifier.train(rest, config.label, config.training)
        own = np.flatnonzero(folds == fold)
        probability[own] = model.probability([examples[i][0] for i in own.tolist()])
    chooses = folds % 2 == 0
    threshold, reached = choose(probability[chooses], truth[chooses], config.precision)
    worth = measured(probability[~chooses], truth[~chooses], threshold)
    return {"threshold": threshold, "held_out": {"precision_reached": reached, **worth}}


def choose(probability: np.ndarray, truth: np.ndarray, precision: float) -> tuple[float, bool]:
    """The threshold of most recall among those of at least `precision`; if there is none, the most precise one.

    Thresholds lie half way between neighbouring probabilities, (examples,) float64 beside (examples,) bool.
    """
    order = np.argsort(-probability, kind="stable")
    p, hits = probability[order], np.cumsum(truth[order])
    precise = hits / np.arange(1, len(p) + 1)
    cuts = np.flatnonzero(np.append(p[1:] < p[:-1], True))  # equal probabilities stand or fall together
    good = cuts[precise[cuts] >= precision]
    reached = bool(len(good)) and bool(hits[good[-1]])
    # Of several cuts with the most hits the first has the fewest mistakes.
    best = int(good[np.argmax(hits[good])]) if reached else int(cuts[np.argmax(precise[cuts])])
    below = p[best + 1] if best + 1 < len(p) else 0.0
    return round(float((p[best] + below) / 2), 4), reached


def measured(probability: np.ndarray, truth: np.ndarray, threshold: float) -> dict[str, Any]:
    """Precision and recall at a threshold with their 95 % intervals, and the area under the ROC curve."""
    said = probability >= threshold
    right = int((said & truth).sum())
    out: dict[str, Any] = {"examples": len(truth), "positive": int(truth.sum()), "found": int(said.sum())}
    for name, total in (("precision", int(said.sum())), ("recall", int(truth.sum()))):
        out[name] = round(right / total, 4) if total else None
        out[f"{name}_interval"] = [round(bound, 4) for bound in wilson(right, total)]
    pairs = probability[truth][:, None] - probability[~truth][None]
    out["auc"] = round(float(((pairs > 0) + (pairs == 0) / 2).mean()), 4) if pairs.size else None
    return out
