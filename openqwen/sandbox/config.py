"""Limits of the code interpreter, as settings. Torch-free.

Report §3.4 and §A.3 name an interpreter and no limits; ours, of which `openqwen sandbox doctor` proves the effect.
"""

from __future__ import annotations

from openqwen.core.config import Config, setting


class Limits(Config):
    """Bounds of one conversation's interpreter."""

    seconds: float = setting(10.0, source="ours", gt=0, doc="wall clock of a cell")
    cpu: int = setting(600, source="ours", gt=0, doc="processor seconds of any one process")
    memory_mb: int = setting(1024, source="ours", ge=64, doc="data of any one process, MB")
    output: int = setting(1 << 16, source="ours", gt=0, doc="bytes of a cell's output that are kept")
    pictures: int = setting(8, source="ours", ge=0, doc="pictures of one cell")
    picture_bytes: int = setting(4 << 20, source="ours", gt=0, doc="bytes of a picture")
    file_bytes: int = setting(8 << 20, source="ours", gt=0, doc="bytes of a file that goes in or out")

    @property
    def answer(self) -> int:
        """Bytes of the longest honest answer: escapes of output take six bytes each, base64 four for three."""
        return 6 * self.output + 2 * max(self.pictures * self.picture_bytes, self.file_bytes) + (1 << 20)
