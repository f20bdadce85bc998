"""Pretraining data: from raw documents to a corpus one can answer for (report §2.1). No torch.

The report names the steps (extraction, language identification, exact and fuzzy deduplication, rules and
models for quality, up-sampling, 13-gram decontamination); how each is done here is ours.
"""
