"""Our models under lm-evaluation-harness: any of its tasks, through its own model interface.

Ours, report §2.6 names public benchmarks only. Its results on the same weights are the oracle of our `harness` protocol.

    from lm_eval import simple_evaluate
    simple_evaluate(model=harness_model(subject), tasks=["arc_easy"], num_fewshot=0)

With apply_chat_template=True a chat model is asked in turns, as ChatML has them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from openqwen.chat import chatml
from openqwen.core.errors import MissingTool
from openqwen.engine.sampling import Sampling
from openqwen.evals.harness import Subject
from openqwen.tokenizer.tokenizer import IM_END, IM_START

MAX_TOKENS = 256  # of a reply whose task does not say, as in the harness' own backends


def harness_model(subject: Subject) -> Any:
    """An `lm_eval.api.model.LM` around the subject's engine. MissingTool without lm-evaluation-harness."""
    try:
        from lm_eval.api.model import TemplateLM
    except ImportError as error:
        raise MissingTool(
            f"lm-evaluation-harness is not installed: no module {error.name}", fix="pip install lm-eval"
        ) from error

    class Model(TemplateLM):
        """Scores and generates through the engine; prompts that are too long lose their beginning."""

        tokenizer_name = f"openqwen-{subject.tokenizer.content[:12]}"

        @property
        def eot_token_id(self) -> int:
            return int(subject.tokenizer.eos_id)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return encode(string)

        def chat_template(self, chat_template: bool | str = False) -> str:
            return "ChatML"  # a name for the harness' record: apply_chat_template does the work

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True, **_: Any
        ) -> str:
            rendered = chatml.render(
                chat_history,
                subject.tokenizer,
                add_generation_prompt,
                continue_last=not add_generation_prompt,
            )
            return str(subject.tokenizer.decode(rendered[0]))

        def _loglikelihood_tokens(
            self, requests: list[Any], disable_tqdm: bool = False, **_: Any
        ) -> list[tuple[float, bool]]:
            pairs = [(fit(before, len(after)), after) for _, before, after in requests]
            return list(subject.engine.loglikelihood(pairs))

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            """Log-probability of whole texts, each window of the model's length continuing the one before."""
            return [rolling(request.args[0]) for request in requests]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return [completion.text for completion in generate(requests)]

    def encode(text: str) -> list[int]:
        """A conversation's marks become control ids, for the harness hands it back as text."""
        marks = {IM_START, IM_END} if text.startswith(IM_START) else frozenset()
        return list(subject.tokenizer.encode(text, allowed_special=marks))

    def fit(before: list[int], after: int) -> list[int]:
        return before[-max(1, subject.max_prompt - after) :]

    def rolling(text: str) -> float:
        ids = subject.tokenizer.encode(text)
        size = subject.max_prompt - 1
        windows = [(ids[max(0, i - 1) : i] or [], ids[i : i + size]) for i in range(0, len(ids), size)]
        return sum(score for score, _ in subject.engine.loglikelihood(windows))

    def generate(requests: list[Any]) -> list[Any]:
        ends = tuple(sorted(chatml.stop_ids(subject.tokenizer)))
        prompts, settings = [], []
        for text, wanted in (request.args for request in requests):
            tokens = int(wanted.get("max_gen_toks", MAX_TOKENS))
            until = wanted.get("until") or []
            stop = tuple([until] if isinstance(until, str) else until)
            prompts.append(fit(encode(text), tokens))
            settings.append(replace(Sampling(temperature=0.0), max_tokens=tokens, stop=stop, stop_ids=ends))
        return list(subject.engine.generate(prompts, settings))

    return Model()
