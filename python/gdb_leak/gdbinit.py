"""Loads gdb-leak into the gdb that sources this file.

The one line of a ``~/.gdbinit``::

    source /path/to/site-packages/gdb_leak/gdbinit.py

The package is loaded from this file's own folder, and nothing is added to
``sys.path``: a virtual environment is full of packages that were chosen for
another Python than gdb's. When loading is not possible, gdb's error stream gets
one line with the cause, and the rest of the ``~/.gdbinit`` runs. Sourcing this
file twice is harmless.

Runs in gdb's ``__main__``, in which it leaves no name of its own, and must be readable to
a Python that is too old for the rest, so that it can say so.
"""

import importlib
import importlib.util
import os
import sys

_OLDEST_PYTHON = (3, 9)

# ELF header, e_machine (elf.h): the ones that gdb-leak may meet.
_MACHINES = {
    3: "i386",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86-64",
    183: "aarch64",
    243: "riscv",
    258: "loongarch",
}


class _NotLoadedError(Exception):
    """Carries the cause, as the line for the reader ends."""


def _machine(path):  # type: (str) -> str
    """Return what machine the ELF file at `path` is for, as ``x86-64, 64-bit``."""
    with open(path, "rb") as file:
        header = file.read(20)
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return "no ELF file"
    order = "little" if header[5] == 1 else "big"
    number = int.from_bytes(header[18:20], order)  # type: ignore[arg-type]
    bits = "64-bit" if header[4] == 2 else "32-bit"
    return "%s, %s" % (_MACHINES.get(number, "machine %d" % number), bits)


def _native_file(folder):  # type: (str) -> str
    for name in sorted(os.listdir(folder)):
        if name.startswith("_native.") and name.endswith(".so"):
            return os.path.join(folder, name)
    return ""


def _cause(error, folder):  # type: (BaseException, str) -> str
    """Return in one line why `error` was raised while the package was loaded."""
    text = str(error).strip()
    text = text.splitlines()[0] if text else "no message"
    if isinstance(error, _NotLoadedError):
        return text
    native = _native_file(folder)
    name = getattr(error, "name", None) or ""
    if isinstance(error, ImportError) and not native:
        return "the native module is missing from %s: install gdb-leak again" % folder
    if isinstance(error, ImportError) and native in text:
        # dlopen reports a file for another machine as "cannot open shared
        # object file: No such file or directory" (glibc 2.36, elf/dl-load.c,
        # open_verify): the headers tell more.
        built, here = _machine(native), _machine("/proc/self/exe")
        if built != here:
            return "%s is for another machine (%s; this gdb is %s)" % (native, built, here)
        if "GLIBC_" in text or "musl" in text:
            return "%s was built for another C library: %s" % (native, text)
        return "%s does not load: %s" % (native, text)
    if isinstance(error, ModuleNotFoundError) and name.startswith("gdb_leak."):
        return "%s is missing from %s: install gdb-leak again" % (name, folder)
    return "%s: %s" % (type(error).__name__, text)


def _import_package(folder):  # type: (str) -> None
    """Put the package of `folder` into ``sys.modules``, as an import would."""
    present = sys.modules.get("gdb_leak")
    if present is not None:
        other = next(iter(getattr(present, "__path__", ["?"])))
        if os.path.realpath(other) != os.path.realpath(folder):
            raise _NotLoadedError("another gdb-leak is already loaded, from %s" % other)
        return
    file = os.path.join(folder, "__init__.py")
    if not os.path.isfile(file):
        raise _NotLoadedError("%s is missing: install gdb-leak again" % file)
    spec = importlib.util.spec_from_file_location(
        "gdb_leak", file, submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise _NotLoadedError("%s is no Python package" % folder)
    package = importlib.util.module_from_spec(spec)
    sys.modules["gdb_leak"] = package
    spec.loader.exec_module(package)


def _load(folder):  # type: (str) -> None
    """Load the package in `folder` and register its commands, or say why not."""
    before = set(sys.modules)
    try:
        if sys.version_info < _OLDEST_PYTHON:
            raise _NotLoadedError(
                "the Python in this gdb is %d.%d, and 3.9 is the oldest that will do"
                % sys.version_info[:2]
            )
        if not folder:
            raise _NotLoadedError(
                "a text that is executed is in no folder: source the file gdb_leak/gdbinit.py"
            )
        _import_package(folder)
        if "gdb_leak.doors.gdb" not in sys.modules:
            importlib.import_module("gdb_leak.doors.gdb").register()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of the native module is no Exception
        # What was half loaded goes, so that the next `source` starts afresh.
        for name in set(sys.modules) - before:
            if name == "gdb_leak" or name.startswith("gdb_leak."):
                del sys.modules[name]
        sys.stderr.write("gdb-leak: not loaded: %s\n" % _cause(error, folder))


def _own_path():  # type: () -> str
    """Return the path of this file, empty where it is executed as a text.

    ``__file__`` is that of a Python script that sources this one: Python sets it
    only where ``__main__`` has none yet (CPython 3.11, Python/pythonrun.c,
    `_PyRun_SimpleFileObject`). What was compiled knows its own file.
    """
    for name in (_own_path.__code__.co_filename, str(globals().get("__file__", ""))):
        if os.path.basename(name) == "gdbinit.py" and os.path.isfile(name):
            return os.path.abspath(name)
    return ""


if __name__ == "__main__":
    _load(os.path.dirname(_own_path()))
    # gdb's __main__ is where a person's own `python` lines run.
    del _load, _import_package, _cause, _native_file, _machine, _own_path
    del _NotLoadedError, _MACHINES, _OLDEST_PYTHON
    # `importlib`, `os` and `sys` stay: the person may have imported them.
