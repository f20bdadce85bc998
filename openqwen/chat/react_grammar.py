"""A grammar that holds a ReAct reply to its tools: names that exist, arguments that fulfil the tool's JSON schema.

Report §3.4 (the format, react.py). Ours: that decoding follows it. The grammar is written in llguidance's dialect of
Lark; what it allows is what `ReplyStream` reads as a call or an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# Characters of the one line that may stand before a call that has to come: so that it comes.
LONGEST_THOUGHT = 300
# JSON between whose parts there is no endless white space, as in other replies that are held to a schema.
_JSON_OPTIONS = {"whitespace_pattern": r"[ \n\t]{0,16}"}


def grammar(
    schemas: Mapping[str, Mapping[str, Any]],
    *,
    opened: bool = False,
    forced: bool = False,
    parallel: bool = True,
) -> str:
    """The grammar of one reply. schemas: that of each tool's arguments, by its name.

    opened: the reply goes on after "Thought:". forced: it has to be a call; otherwise it may be anything else too.
    parallel: a call may follow a call.
    """
    # A label counts where a line begins; the beginning of a reply that goes on is none.
    line = r"(.*\n)" if opened else r"(.*\n)?"
    end = r'"\nObservation:"' + (r' | "\nAction:" call' if parallel else "")
    rules = [f"end: {end}", r"ANY: /(?s:.+)/"]
    if forced:
        before = " " if opened else "Thought: "
        rules += ["start: CALL call", rf"CALL: /{before}[^\n]{{0,{LONGEST_THOUGHT}}}\nAction:/"]
    else:
        rules += [
            "start: PLAIN? | ANSWER ANY? | CALL call",
            rf"PLAIN: ANY & ~/(?s:{line}(Action|Final Answer):.*)/",
            rf"ANSWER: /(?s:{line}Final Answer:)/ & ~/(?s:{line}Action:.*)/ & ~/(?s:{line}Final Answer:.+)/",
            rf"CALL: /(?s:{line}Action:)/ & ~/(?s:{line}Final Answer:.*)/ & ~/(?s:{line}Action:.+)/",
        ]
    for number, (name, schema) in enumerate(schemas.items()):
        label = json.dumps(f" {name}\nAction Input: ")
        held = json.dumps({**schema, "x-guidance": _JSON_OPTIONS}, ensure_ascii=False)
        rules += [f"call{number}: {label} arguments{number} end?", f"arguments{number}: %json {held}"]
    rules.append(f"call: {' | '.join(f'call{number}' for number in range(len(schemas)))}")
    return "\n".join(rules)
