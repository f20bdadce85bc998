"""Text as it is generated: pieces that never end inside a character.

Ours. Ids may cut a character anywhere; what is incomplete waits for the next id, what can no longer become a
character is shown as U+FFFD at once, so that the pieces joined equal `decode` of all ids.
"""

from __future__ import annotations

import codecs

from openqwen.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Feeds on ids one at a time. `push(id)` gives the text that became certain, `finish()` the rest."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The new text, possibly empty."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token_id], self._skip))

    def finish(self) -> str:
        """What is left: U+FFFD if the ids stopped inside a character. The decoder may then be used again."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
