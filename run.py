"""One file, standard library only: makes .venv, installs openqwen with the right torch, and hands over.

    python3 run.py tour [--size laptop|gpu] [...]     the whole report, from raw pages to a chat
    python3 run.py test [--long] [pytest arguments]   lint, types and tests
    python3 run.py setup                              only install

Options before the command's own: --torch cpu|cuda|skip|SPEC chooses the torch build by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
TORCH_FLOOR = (2, 11)  # as in pyproject.toml; a test compares
TORCH_PIN = "2.13.0"  # a range would fetch a newer build with several GB of CUDA where nobody asked for it
CPU_HOST = "download.pytorch.org"  # PyTorch's own index of CPU builds
CPU_INDEX = f"https://{CPU_HOST}/whl/cpu"
MOST_WORKERS = 4  # at once, of tests: each has its own torch
EXTRAS = {"tour": "[data]", "setup": "[data]", "test": "[test]"}


def main(argv: list[str]) -> int:
    """Runs one of the commands above; the return value is the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this line is for users of an older Python
        return fail(f"Python 3.11 or newer is needed, this is {platform.python_version()}", "use a newer one")
    torch, argv = take_torch(argv)
    command = argv[0] if argv else ""
    if command not in EXTRAS:
        print(__doc__)
        return 0 if command in ("-h", "--help") else 2
    try:
        prepare(EXTRAS[command], torch)
    except subprocess.CalledProcessError as error:
        command_line = " ".join(map(str, error.cmd[3:]))
        return fail(
            f"installation failed: {command_line}", "read pip's message above, then run the same again"
        )
    except OSError as error:
        return fail(
            f"cannot prepare {VENV}: {error}",
            "free some space or check the folder's permissions, then run again",
        )
    if command == "setup":
        activate = BIN / "activate"
        print(f"ready. Activate with: source {os.path.relpath(activate)}; then: openqwen --help")
        return 0
    return test(argv[1:]) if command == "test" else hand_over([str(PYTHON), "-m", "openqwen", *argv])


def fail(what: str, fix: str) -> int:
    print(f"error: {what}\n  fix:   {fix}", file=sys.stderr)
    return 1


def take_torch(argv: list[str]) -> tuple[str | None, list[str]]:
    """Splits `--torch X` off the front part of the command line."""
    rest = list(argv)
    for i, word in enumerate(rest):
        if word == "--torch" and i + 1 < len(rest):
            return rest[i + 1], rest[:i] + rest[i + 2 :]
        if word.startswith("--torch="):
            return word.split("=", 1)[1], rest[:i] + rest[i + 1 :]
    return None, rest


def stamp(extras: str) -> str:
    """Identity of an installation: pyproject, Python, extras."""
    project = (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(project + platform.python_version().encode() + extras.encode()).hexdigest()


def prepare(extras: str, torch: str | None) -> None:
    """Makes the environment unless its stamp says that it is already there."""
    wanted = {stamp(extras), stamp(EXTRAS["test"])}  # what the tests need includes what everything needs
    if (
        torch is None
        and PYTHON.exists()
        and any(m.read_text().strip() in wanted for m in VENV.glob(".installed-*"))
    ):
        return
    if not PYTHON.exists():
        say(f"making {VENV.name} with Python {platform.python_version()}")
        venv.create(VENV, with_pip=True, clear=VENV.exists())
    install_torch(torch)
    say(f"installing openqwen{extras} and its libraries")
    pip("install", "--quiet", "--editable", f".{extras}")
    (VENV / f".installed-{extras.strip('[]') or 'base'}").write_text(stamp(extras) + "\n")


def install_torch(choice: str | None) -> None:
    """The one hard step: never several GB of CUDA on a machine that cannot use them."""
    have = installed_torch()
    if choice == "skip" or (choice is None and have and have >= TORCH_FLOOR):
        say("torch: keeping the one that is installed" if have else "torch: skipped as asked")
        return
    spec, options, why = choose_torch(choice)
    say(f"torch: {spec} ({why})")
    pip("install", spec, *options)


def choose_torch(choice: str | None) -> tuple[str, list[str], str]:
    """Requirement, extra pip options, and the reason in words."""
    pin = f"torch=={TORCH_PIN}"
    cpu = ["--extra-index-url", CPU_INDEX]
    if choice == "cpu":
        return pin, cpu, "CPU build, as asked"
    if choice == "cuda":
        return pin, [], "default build, as asked"
    if choice is not None:
        return choice, [], "as asked"
    if sys.platform != "linux" or has_nvidia():
        return pin, [], "default build for this machine"
    if "+cpu" in offered(pin):
        return pin, [], "CPU build offered by this site's pip configuration, about 200 MB"
    if reachable(CPU_HOST):
        return pin, cpu, "no NVIDIA driver here: CPU build, about 200 MB"
    return pin, [], "PyTorch's CPU index does not answer: default build, several GB with CUDA"


def offered(spec: str) -> str:
    """The file name that pip would install for a requirement, or an empty string."""
    command = ["install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-", spec]
    done = subprocess.run([PYTHON, "-m", "pip", *command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        return ""
    # pip may print warnings about the index before the report.
    report = json.loads(done.stdout[done.stdout.index("{") :])
    return "".join(item["download_info"]["url"].replace("%2B", "+") for item in report["install"])


def installed_torch() -> tuple[int, int] | None:
    """(major, minor) of the torch in .venv."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True)
    if done.returncode:
        return None
    major, minor = done.stdout.strip().split("+")[0].split(".")[:2]
    return int(major), int(minor)


def has_nvidia() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def reachable(host: str) -> bool:
    try:
        socket.create_connection((host, 443), timeout=4).close()
    except OSError:
        return False
    return True


def pip(*arguments: str) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    subprocess.run([str(PYTHON), "-m", "pip", *arguments], check=True, cwd=ROOT, env=environment)


def hand_over(command: list[str]) -> int:
    """Becomes the command (on POSIX), so that signals and the terminal belong to it."""
    sys.stdout.flush()
    if os.name == "nt":
        return subprocess.run(command).returncode
    return os.execv(command[0], command)


def test(arguments: list[str]) -> int:
    """Lint, format, types, tests, known holes in libraries. The first failure is the result; all are shown."""
    rest = [a for a in arguments if a != "--long"]
    checks = [["ruff", "check", "."], ["ruff", "format", "--check", "--quiet", "."], ["mypy"]]
    if "--long" in arguments:
        checks += [["pytest", *rest]]
    elif rest:
        checks += [["pytest", "-m", "not long", *rest]]
    else:  # all of them: files side by side, then what wants the machine for itself
        # One more than cores, as one of them waits for a process most of the time.
        workers = min(MOST_WORKERS, (os.cpu_count() or 1) + 1)
        beside = ["-n", str(workers), "--dist", "loadfile"]
        checks += [
            ["pytest", *beside, "-m", "not long and not alone"],
            ["pytest", "-m", "alone and not long"],
        ]
    worst = 0
    for check in checks:
        say(" ".join(check))
        code = subprocess.run([str(PYTHON), "-m", *check], cwd=ROOT).returncode
        worst = worst or code
    return worst if rest else worst or audit()


def audit() -> int:
    """Asks pip-audit whether holes are known in what is installed; 0 where its data cannot be reached, and says so."""
    command = ["pip_audit", "--local", "--skip-editable", "--format", "json", "--progress-spinner", "off"]
    say(" ".join(command))
    try:
        done = subprocess.run(
            [str(PYTHON), "-m", *command, "--timeout", "15"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        found = json.loads(done.stdout)["dependencies"]
    except (
        subprocess.TimeoutExpired,
        ValueError,
    ):  # without a network it ends with a traceback and no report
        found = []
    known = [item for item in found if "vulns" in item]
    if not known:
        say("pip-audit cannot reach its data from here: known holes in libraries were not looked for")
        return 0
    holes = [(item, hole) for item in known for hole in item["vulns"]]
    for item, hole in holes:
        say(
            f"{item['name']} {item['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'none'}"
        )
    say(f"{len(known)} of {len(found)} libraries looked up, {len(holes)} known holes")
    return 1 if holes else 0


def say(text: str) -> None:
    print(f"run.py: {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
