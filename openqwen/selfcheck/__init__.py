"""Proof on the user's machine that how training is computed does not change what is learnt (`openqwen selfcheck`).

Ours. `checks` runs the shipped stages on a tiny model and compares them with `reference`, the same computed plainly.
"""
