"""Settings of the report page."""

from openqwen.core.config import Config, setting


class ReportConfig(Config):
    """What the page shows."""

    title: str = setting("openqwen: the Qwen Technical Report, small and real", source="ours")
    samples: int = setting(4, source="ours", doc="samples shown of each stage", ge=0)
    smooth: int = setting(
        9, source="ours", doc="training losses are drawn as means over this many records", ge=1
    )
