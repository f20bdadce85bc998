"""Reinforcement learning from human feedback by PPO (report §3.2.2)."""
