"""Settings of the agent that the server runs. Torch-free.

Report §3.4 and §A.3 (ReAct, the code interpreter) give no limits; they are ours.
"""

from __future__ import annotations

from openqwen.agent.config import TalkConfig
from openqwen.core.config import setting


class AgentConfig(TalkConfig):
    """The conversations that may use the server's tools, each with processes of its own."""

    conversations: int = setting(16, source="ours", gt=0, doc="conversations that hold tools at once")
    idle_seconds: float = setting(
        900.0, source="ours", gt=0, doc="until what an idle conversation holds is ended"
    )
    busy_seconds: float = setting(
        5.0, source="ours", gt=0, doc="wait for the reply before in the same conversation to stop"
    )
    temperature: float = setting(
        0.0, source="ours", ge=0, doc="of replies whose request names none: calls are written greedily"
    )
