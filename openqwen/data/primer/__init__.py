"""The primer: a seeded generator of bilingual pages, questions and preferences whose truth is known. No torch.

Ours (the report's data are not public). `check(item, reply)` decides whether a reply answers an item,
`true_score(item, reply)` is the preference that reward models and PPO are measured against.
"""

from openqwen.data.primer.score import check, true_score

__all__ = ["check", "true_score"]
