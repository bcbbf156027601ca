"""What stands between a person and a leak hunt on this machine.

Each check asks the real thing: the gdb that would run is started and made to
load the package and to attach to a process. Nothing is changed.
"""

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import gdb_leak
from gdb_leak import recorder
from gdb_leak.errors import FileError
from gdb_leak.install.block import gdbinit_path, sourced

_OLDEST_PYTHON = (3, 9)
_PATIENCE = 60.0  # seconds for one start of gdb
_WITH_RECORDER = (
    "All else works without it. For `record` and `run`, install gdb-leak anew on x86-64 with "
    "Rust 1.88 or later."
)
_CAP_SYS_PTRACE = 19  # linux/capability.h


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, and what to do where it is not well."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class Gdb:
    """The gdb that would run. `python` is the version inside it, None where it has none."""

    path: str
    version: str
    python: Optional[str]

    @property
    def number(self) -> Optional[tuple[int, int]]:
        """Major and minor version; None where gdb's greeting does not tell."""
        return _numbers(self.version)


def doctor(environ: Optional[Mapping[str, str]] = None, proc: Path = Path("/proc")) -> list[Check]:
    """Return the checks in the order in which a person would mend things.

    ``GDB`` in `environ` names another gdb. Where there is no gdb, what would
    need it is left out.
    """
    environ = os.environ if environ is None else environ
    gdb, checks = _find_gdb(environ)
    if gdb is not None:
        checks.append(_check_python(gdb))
        if gdb.python is not None:
            checks.append(_check_module(gdb))
    checks.append(_check_gdbinit(gdb, environ))
    if gdb is not None:
        checks.append(_check_tracing(gdb, proc))
    checks.append(_check_core(proc))
    checks.append(_check_recorder(environ))
    return checks


def gdb_version(environ: Optional[Mapping[str, str]] = None) -> Optional[tuple[int, int]]:
    """Return major and minor version of the gdb that would run, None where there is none."""
    gdb, _ = _find_gdb(os.environ if environ is None else environ)
    return None if gdb is None else gdb.number


def _numbers(version: str) -> Optional[tuple[int, int]]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def _ask(program: str, arguments: Sequence[str]) -> tuple[str, str]:
    """Return what gdb prints on standard output and on standard error."""
    environ = dict(os.environ)
    # A check must not wait for symbols from the network; LC_ALL because the
    # answers are read.
    environ.pop("DEBUGINFOD_URLS", None)
    environ["LC_ALL"] = "C.UTF-8"
    try:
        done = subprocess.run(
            [program, "-nx", "-batch", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environ,
            timeout=_PATIENCE,
            check=False,
            encoding="utf-8",
            errors="backslashreplace",
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer within {_PATIENCE:.0f} s"
    except OSError as error:
        return "", f"{program}: {error.strerror}"
    return done.stdout, done.stderr


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no answer")


def _find_gdb(environ: Mapping[str, str]) -> tuple[Optional[Gdb], list[Check]]:
    wanted = environ.get("GDB") or "gdb"
    path = shutil.which(wanted, path=environ.get("PATH"))
    if path is None:
        named = f"GDB={wanted} is no program" if environ.get("GDB") else "no gdb in PATH"
        advice = "Install gdb (Debian, Ubuntu: apt install gdb) or name one with GDB=/path/to/gdb."
        return None, [Check("gdb", False, named, advice)]
    output, errors = _ask(path, ["--version"])
    greeting = re.match(r"GNU gdb\b.*?(\d+\.\d+\S*)\s*$", _first_line(output))
    if greeting is None:
        said = _first_line(output or errors)
        advice = "Name a GNU gdb with GDB=/path/to/gdb."
        return None, [Check("gdb", False, f"{path} does not answer as gdb does: {said}", advice)]
    answer, _ = _ask(
        path, ["-ex", "python import sys; print('python=%d.%d.%d' % sys.version_info[:3])"]
    )
    python = re.search(r"^python=(\S+)$", answer, re.MULTILINE)
    gdb = Gdb(path, greeting[1], python[1] if python else None)
    return gdb, [Check("gdb", True, f"{path}, version {gdb.version}")]


def _check_python(gdb: Gdb) -> Check:
    if gdb.python is None:
        advice = "Use a gdb built with Python; Debian's gdb has it, gdb-minimal has not."
        return Check("python", False, "this gdb has no Python inside", advice)
    if (_numbers(gdb.python) or _OLDEST_PYTHON) < _OLDEST_PYTHON:
        advice = "Use a gdb that was built with Python 3.9 or newer."
        return Check("python", False, f"Python {gdb.python} inside gdb is too old", advice)
    return Check("python", True, f"Python {gdb.python} inside gdb")


def _check_module(gdb: Gdb) -> Check:
    script = Path(__file__).absolute().parent.parent / "gdbinit.py"
    ask = "python import sys; print('native=%s' % ('gdb_leak._native' in sys.modules))"
    output, errors = _ask(gdb.path, ["-ex", f"source {script}", "-ex", ask])
    if re.search(r"^native=True$", output, re.MULTILINE):
        return Check("module", True, f"gdb loads {script.parent}")
    cause = next((line for line in errors.splitlines() if line.startswith("gdb-leak:")), None)
    advice = "Install gdb-leak again for this machine: pip install --force-reinstall gdb-leak."
    return Check("module", False, cause or _first_line(errors or output), advice)


def _check_gdbinit(gdb: Optional[Gdb], environ: Mapping[str, str]) -> Check:
    try:
        path = gdbinit_path(None if gdb is None else gdb.number, environ)
    except FileError as error:
        return Check("gdbinit", False, str(error), "Set HOME to your home folder.")
    own = Path(__file__).absolute().parent.parent / "gdbinit.py"
    write = "Run `gdb-leak gdbinit -install`."
    try:
        loaded = sourced(path)
    except FileError as error:
        return Check("gdbinit", False, str(error), "Make the file readable.")
    if not loaded:
        return Check("gdbinit", False, f"{path} does not load gdb-leak", write)
    gone = [file for file in loaded if not file.is_file()]
    if gone:
        return Check("gdbinit", False, f"{path} loads {gone[0]}, which is not there", write)
    if not any(file.samefile(own) for file in loaded):
        return Check("gdbinit", False, f"{path} loads another gdb-leak, {loaded[0]}", write)
    return Check("gdbinit", True, f"{path} loads {loaded[0]}")


def _check_tracing(gdb: Gdb, proc: Path) -> Check:
    # The process is a sibling of gdb, not its child: so stand the processes
    # that a person attaches to, and Yama's scope 1 allows children only.
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            output, errors = _ask(gdb.path, ["-p", str(process.pid), "-ex", "info inferiors"])
        finally:
            process.kill()
    facts = _tracing_facts(proc)
    if re.search(rf"^\*\s+1\s+process {process.pid}\b", output, re.MULTILINE):
        return Check("trace", True, ", ".join(["gdb attached to a process", *facts.said]))
    said = next((line for line in errors.splitlines() if "ptrace" in line), _first_line(errors))
    return Check(
        "trace", False, ", ".join([f"gdb may not attach ({said})", *facts.said]), facts.advice
    )


@dataclass(frozen=True)
class _TracingFacts:
    said: tuple[str, ...]
    advice: str


def _tracing_facts(proc: Path) -> _TracingFacts:
    """Return what this machine says about ptrace, and what to change where it refuses."""
    scope = _word(proc / "sys/kernel/yama/ptrace_scope")
    status = _status(proc / "self/status")
    capable = bool(int(status.get("CapEff", "0"), 16) >> _CAP_SYS_PTRACE & 1)
    filtered = status.get("Seccomp", "0") == "2"
    said = [f"Yama's ptrace_scope is {scope}" if scope else "no Yama"]
    said.append("with CAP_SYS_PTRACE" if capable else "without CAP_SYS_PTRACE")
    if filtered:
        said.append("under a seccomp filter")
    if scope == "3":
        advice = "ptrace_scope 3 lasts until the next boot: hunt in a core file instead."
    elif scope in ("1", "2") and not capable:
        advice = (
            "Run gdb as root, or allow it for your own processes: "
            "sysctl kernel.yama.ptrace_scope=0."
        )
    elif filtered or os.geteuid() == 0:
        advice = (
            "In a container, start it with --cap-add=SYS_PTRACE "
            "(and --security-opt seccomp=unconfined before Linux 4.8)."
        )
    else:
        advice = "Run gdb as the process's own user or as root, or hunt in a core file."
    return _TracingFacts(tuple(said), advice)


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _status(path: Path) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in _word(path).splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _check_core(proc: Path) -> Check:
    """Say where a core would go if a program that is started here crashed now."""
    pattern = _word(proc / "sys/kernel/core_pattern")
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft} bytes"
    if pattern.startswith("|"):
        program = pattern[1:].split()[0] if pattern[1:].split() else "nothing"
        detail = f"a core goes to {program}"
        if "systemd-coredump" in program:
            return Check("core", True, f"{detail}: coredumpctl dump -o FILE writes it out")
        if "apport" in program:
            return Check("core", True, f"{detail}: look in /var/lib/apport/coredump and /var/crash")
        return Check("core", True, detail)
    where = pattern if pattern.startswith("/") else f"{pattern or 'core'} in the program's folder"
    if soft == 0:
        raised = "`ulimit -c unlimited`" + (" as root" if hard == 0 else "")
        return Check(
            "core",
            False,
            f"no core is written: ulimit -c is 0 (it would be {where})",
            f"Run {raised} before the program, or take a core of it with `gcore PID`.",
        )
    return Check("core", True, f"a core is written to {where}, ulimit -c is {limit}")


def _check_recorder(environ: Mapping[str, str]) -> Check:
    """Say whether programs start with the recorder (`record`, `run`)."""
    found = recorder.installed()
    if found.missing:
        return Check("recorder", False, f"none: {found.missing}", _WITH_RECORDER)
    try:
        version = found.version
        # All of its names are looked up at once: a missing one does not wait for its first call.
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", ""],
            env={**environ, "LD_PRELOAD": str(found.path), "LD_BIND_NOW": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("recorder", False, str(error), _WITH_RECORDER)
    if done.returncode != 0 or done.stderr:
        said = _first_line(done.stderr.decode("utf-8", errors="backslashreplace"))
        detail = f"a program does not start with it (status {done.returncode}): {said}"
        return Check("recorder", False, detail, _WITH_RECORDER)
    if version != gdb_leak.__version__:
        detail = f"{found.path} is of version {version or 'unknown'}, not {gdb_leak.__version__}"
        return Check("recorder", False, detail, _WITH_RECORDER)
    return Check("recorder", True, f"programs start with {found.path}")
