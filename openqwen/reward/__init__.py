"""Preference-model pretraining and the reward model (report §3.2.1, Table 4)."""
