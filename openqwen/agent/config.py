"""Settings of the tool-use evaluation. Torch-free.

Report §3.4 (ReAct over unseen tools, greedy); the limits are ours.
"""

from __future__ import annotations

from openqwen.core.config import Config, Count, setting


class AgentEvalConfig(Config):
    """How many questions, and how far one conversation may go."""

    seed: int = setting(1, source="ours", doc="choice of items and bootstrap intervals")
    limit: Count | None = setting(None, source="ours", gt=0, doc="at most this many questions; None: all")
    max_steps: int = setting(4, source="ours", gt=0, doc="calls a conversation may make")
    max_tokens: Count = setting(96, source="ours", gt=0, doc="tokens the model may write in one step")
    max_observation: Count = setting(
        1000, source="ours", gt=0, doc="characters of a tool's result shown to it"
    )
    max_repeats: int = setting(
        2, source="ours", gt=0, doc="times one call may be made before it counts as a loop"
    )
    tool_seconds: float = setting(5.0, source="ours", gt=0, doc="time limit of one call of a tool")
    batch_size: int = setting(64, source="ours", gt=0, doc="conversations generated together")
