"""Comparison pairs for the reward model: prompts chosen by tags, responses of several models, scores, pairs.

Report §3.2.1. Importing this package loads no torch.
"""
