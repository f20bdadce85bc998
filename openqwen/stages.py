"""The stages of the report by name: what each makes, from what, with which settings.

Ours. Everything is named by import path, so that looking at the list loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from openqwen.core.artifact import Artifact
from openqwen.core.config import Config, Resolved


@dataclass(frozen=True)
class Stage:
    """One stage: its recipe table is its name, `inputs` and `optional` are the directories or files it reads."""

    name: str
    kind: str
    section: str
    about: str
    config_path: str
    run_path: str
    inputs: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def config(self) -> type[Config]:
        """The class of its settings (torch-free)."""
        return _load(self.config_path)

    def run(self, resolved: Resolved[Any], inputs: Mapping[str, Path], out: Path) -> Artifact:
        """Runs the stage in this process; torch is loaded now if the stage needs it."""
        runner: Callable[..., Artifact] = _load(self.run_path)
        return runner(resolved, dict(inputs), out)


def _load(path: str) -> Any:
    module, name = path.split(":")
    return getattr(import_module(module), name)


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "primer",
            "primer",
            "§2.1",
            "write a small bilingual world with known truth",
            "openqwen.data.primer.config:PrimerConfig",
            "openqwen.data.primer.stage:run",
            (),
        ),
        Stage(
            "data",
            "corpus",
            "§2.1",
            "turn raw documents into a clean corpus, each drop with its reason",
            "openqwen.data.config:DataConfig",
            "openqwen.data.stage:run",
            (),
            ("input", "primer"),
        ),
        Stage(
            "code",
            "code",
            "§4.1",
            "turn repositories into documents of code",
            "openqwen.code_qwen.config:RepositoriesConfig",
            "openqwen.code_qwen.stage:run",
            ("input",),
        ),
        Stage(
            "math",
            "math",
            "§5.1",
            "make problems and keep solutions that are right and new",
            "openqwen.math_qwen.config:MathConfig",
            "openqwen.math_qwen.stage:run",
            (),
            ("problems", "replies"),
        ),
        Stage(
            "classifier",
            "classifier",
            "§2.1",
            "learn from examples to tell good text, spam or abuse",
            "openqwen.data.config:ClassifierConfig",
            "openqwen.data.classifier_stage:run",
            ("examples",),
        ),
        Stage(
            "score",
            "scores",
            "§2.1",
            "score a corpus's documents by one of our models",
            "openqwen.data.config:ScoreConfig",
            "openqwen.pretrain.score:run",
            ("corpus", "model"),
        ),
        Stage(
            "tokenizer",
            "tokenizer",
            "§2.2",
            "learn a byte-level BPE vocabulary",
            "openqwen.tokenizer.config:TokenizerConfig",
            "openqwen.tokenizer.stage:run",
            (),
            ("corpus", "text", "base"),
        ),
        Stage(
            "pack",
            "tokens",
            "§2.4",
            "turn the corpus into memory-mapped token shards",
            "openqwen.tokenizer.config:PackConfig",
            "openqwen.tokenizer.pack:run",
            ("corpus", "tokenizer"),
        ),
        Stage(
            "pretrain",
            "model",
            "§2.4",
            "train the base model on next-token prediction",
            "openqwen.pretrain.config:PretrainConfig",
            "openqwen.pretrain.loop:run",
            ("tokens", "tokenizer"),
            ("model",),
        ),
        Stage(
            "extend",
            "context",
            "§2.5",
            "measure perplexity against length with each context extension",
            "openqwen.model.config:ExtendConfig",
            "openqwen.model.extend:run",
            ("model", "tokens"),
        ),
        Stage(
            "long_code",
            "long_code",
            "§4",
            "measure perplexity of long files of code by position, with and without their repository",
            "openqwen.code_qwen.config:LongCodeConfig",
            "openqwen.evals.long_code:run",
            ("model", "input"),
        ),
        Stage(
            "sft",
            "model",
            "§3.1",
            "teach the base model to converse",
            "openqwen.sft.config:SFTConfig",
            "openqwen.sft.loop:run",
            ("model", "data"),
            ("tools", "safety"),
        ),
        Stage(
            "tags",
            "prompts",
            "§3.2.1",
            "tag prompts and choose those that cover most",
            "openqwen.annotate.config:TagsConfig",
            "openqwen.annotate.tag_stage:run",
            ("prompts",),
            ("model",),
        ),
        Stage(
            "sample",
            "replies",
            "§3.2.1",
            "draw replies to annotate from several models and settings",
            "openqwen.annotate.config:SampleConfig",
            "openqwen.annotate.sample:run",
            ("prompts",),
            ("model-1",),  # model-2, model-3, ... as many as there are
        ),
        Stage(
            "pairs",
            "pairs",
            "§3.2.1",
            "make comparison pairs of scored replies",
            "openqwen.annotate.config:PairsConfig",
            "openqwen.annotate.pairs:run",
            ("replies",),
            ("scores", "model"),
        ),
        Stage(
            "pmp",
            "reward",
            "§3.2.1",
            "pretrain a preference model on many rough comparisons",
            "openqwen.reward.config:RewardConfig",
            "openqwen.reward.loop:run",
            ("model", "pairs", "heldout"),
        ),
        Stage(
            "reward",
            "reward",
            "§3.2.1",
            "finetune it to a reward model on few clean ones",
            "openqwen.reward.config:RewardConfig",
            "openqwen.reward.loop:run",
            ("model", "pairs", "heldout"),
        ),
        Stage(
            "ppo",
            "model",
            "§3.2.2",
            "raise the reward of the chat model with PPO",
            "openqwen.rlhf.config:PPOConfig",
            "openqwen.rlhf.loop:run",
            ("policy", "reward", "prompts", "tokens"),
        ),
        Stage(
            "dpo",
            "model",
            "§6.2",
            "train the chat model on comparison pairs, without a reward model",
            "openqwen.rlhf.config:DPOConfig",
            "openqwen.rlhf.dpo:run",
            ("policy", "pairs", "heldout"),
        ),
        Stage(
            "rft",
            "model",
            "§6.2",
            "finetune the chat model on its own replies that the reward model likes best",
            "openqwen.rlhf.config:RFTConfig",
            "openqwen.rlhf.rft:run",
            ("policy", "reward", "prompts"),
        ),
        Stage(
            "rrhf",
            "model",
            "§6.2",
            "teach the chat model to find its replies the likelier the better the reward model likes them",
            "openqwen.rlhf.config:RRHFConfig",
            "openqwen.rlhf.rrhf:run",
            ("policy", "reward", "prompts"),
        ),
        Stage(
            "compare",
            "comparison",
            "§3.2.2, §6.2",
            "put policies side by side: rewards, wins, KL, alignment tax",
            "openqwen.rlhf.config:CompareConfig",
            "openqwen.rlhf.comparison:run",
            ("reward", "prompts", "tokens"),
            ("questions", "model-chat"),  # model-NAME, as many as there are
        ),
        Stage(
            "selfinstruct",
            "tool-data",
            "§3.4",
            "let a model make tool conversations from seeds, and keep the good ones",
            "openqwen.agent.config:SelfInstructConfig",
            "openqwen.agent.instruct:run",
            ("tools",),
            ("model", "heldout"),
        ),
        Stage(
            "agent",
            "agent-eval",
            "§3.4",
            "let the chat model use tools and score it (Table 6)",
            "openqwen.agent.config:AgentEvalConfig",
            "openqwen.agent.stage:run",
            (),
            ("model", "tools", "data"),
        ),
        Stage(
            "agentbench",
            "agent-bench",
            "§3.4",
            "let a model write Python: interpreter and Hugging Face agent (Tables 7 to 9)",
            "openqwen.agent.config:AgentBenchConfig",
            "openqwen.agent.bench:run",
            (),
            ("model", "problems"),
        ),
        Stage(
            "evals",
            "evals",
            "§2.6, §3.3",
            "fill the report's tables for our models",
            "openqwen.evals.config:EvalsConfig",
            "openqwen.evals.stage:run",
            ("base", "chat", "rlhf", "reward", "primer", "tokens"),
        ),
        Stage(
            "report",
            "report",
            "all",
            "put everything on one page",
            "openqwen.report.config:ReportConfig",
            "openqwen.report.stage:run",
            (),
        ),
    )
}
