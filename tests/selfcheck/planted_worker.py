"""What selfcheck's background processes run in a test: the shipped program with bugs planted in it."""

from __future__ import annotations

import runpy

import plants

for name in plants.OF_PROCESSES:
    function, code = plants.plant(name)
    function.__code__ = code
runpy.run_module("openqwen.selfcheck.background", run_name="__main__", alter_sys=True)
