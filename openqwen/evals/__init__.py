"""Evaluation: tasks, scorers, tables, preference (report §2.6, §3.3, Tables 2, 5, 10, 12, Figure 4). Light: no torch."""
