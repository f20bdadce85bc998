"""The training core every stage shares: a box of functions, no trainer class.

Report §2.4 (and §3.1.2, §3.2 for the stages that reuse it). Submodules: config (no torch), optimizer, schedule,
loss, loader, checkpoint, step, precision, flops, signals. Import them by name; this package imports nothing.
"""
