"""Runs in gdb: executes the commands of a plan, and writes down what each took.

The plan is JSON in the file that BENCH_PLAN names: a list of commands as typed
at the prompt. Their output goes into a string, or, where the command has
BENCH_PRINTED before it, to standard output, which is a file. The answers go, in
the same order, into the file that BENCH_TOOK names: seconds by the clock,
processor seconds of all of gdb's threads, growth of gdb's own memory in bytes,
and ``$numfound``.
"""

import json
import os
import re
import resource
import time
from pathlib import Path

import gdb


def _own_memory() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError("/proc/self/status has no RssAnon (Linux 4.5 or newer has)")
    return int(found[1]) * 1024


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _took(command: str) -> "dict[str, float]":
    printed = command.startswith("BENCH_PRINTED ")
    if printed:
        command = command[len("BENCH_PRINTED ") :]
    memory, used = _own_memory(), _processor_seconds()
    begun = time.perf_counter()
    gdb.execute(command, to_string=not printed)
    gdb.flush()
    seconds = time.perf_counter() - begun
    used = _processor_seconds() - used
    found = gdb.convenience_variable("numfound")
    return {
        "seconds": seconds,
        "processor": used,
        "memory": _own_memory() - memory,
        "found": -1 if found is None else int(found),
    }


# Where a person's `gdb -batch … > file` would print to.
_printed = os.environ["BENCH_TOOK"] + ".printed"
os.dup2(os.open(_printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
gdb.execute("set pagination off")
_plan = json.loads(Path(os.environ["BENCH_PLAN"]).read_text())
Path(os.environ["BENCH_TOOK"]).write_text(json.dumps([_took(command) for command in _plan]))
