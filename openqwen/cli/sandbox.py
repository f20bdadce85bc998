"""`openqwen sandbox`: proves on this machine what the sandbox of generated code contains."""

from __future__ import annotations

import time

from cyclopts import App

from openqwen.core.console import console

app = App(name="sandbox", help="The sandbox in which generated code runs.")


@app.command
def doctor() -> int:
    """Runs every probe of the sandbox and times its interpreter; exit code 78 if generated code cannot be run."""
    from openqwen.sandbox.kernel import Kernel
    from openqwen.sandbox.run import PROBES, required

    began = time.monotonic()
    name = required()
    console.print(f"backend      {name}, proven in {time.monotonic() - began:.2f} s", markup=False)
    for probe in PROBES:
        console.print(f"never        {probe}", markup=False)
    began = time.monotonic()
    with Kernel() as kernel:
        kernel.run("1")
        console.print(f"interpreter  starts in {1000 * (time.monotonic() - began):.0f} ms", markup=False)
        cell = kernel.run("1")
        console.print(f"cell         takes {1000 * cell.seconds:.1f} ms when it does nothing", markup=False)
    return 0
