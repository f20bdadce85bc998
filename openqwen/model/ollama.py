"""An Ollama Modelfile: the template, the stops and the sampling that belong to a GGUF file.

Ours; the form is Ollama's, its templates are Go's. Without a template of its own Ollama guesses one, and a chat
model then answers in a form it was never taught. The template below writes what chat/chatml.py renders; Ollama puts
the SYSTEM text in front of a conversation that has none, as we do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CHAT = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n"
    "{{ .Content }}<|im_end|>\n"
    "{{ end }}<|im_start|>assistant\n"
)
PLAIN = "{{ .Prompt }}"
# generation_config.json -> Ollama
_SAMPLING = {
    "max_new_tokens": "num_predict",
    "repetition_penalty": "repeat_penalty",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
}


def modelfile(
    weights: str, generation: Mapping[str, Any], *, system: str | None, stops: Sequence[str], max_length: int
) -> str:
    """The Modelfile's text. weights: name of the GGUF file beside it. system: of a chat model; None: a base model.

    generation: as in generation_config.json.
    """
    lines = [f"FROM ./{weights}", f'TEMPLATE """{PLAIN if system is None else CHAT}"""']
    if system is not None:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    lines.append(f"PARAMETER num_ctx {max_length}")
    values = {"temperature": 1.0, "repetition_penalty": 1.0, **generation}
    if values.get("do_sample") is False:
        values["temperature"] = 0
    lines += [f"PARAMETER {theirs} {values[ours]}" for ours, theirs in _SAMPLING.items() if ours in values]
    return "\n".join(lines) + "\n"
