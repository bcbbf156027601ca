"""What gdb's own answers say: pure text in, plain data out.

Where a Python member of gdb's is missing (test for the member, never for the
version), the text of a command that has not changed from gdb 10.1 to 18.1 is
read instead.
"""

import re
from typing import Optional

from gdb_leak import units
from gdb_leak.errors import UsageError

__all__ = [
    "architecture",
    "charset",
    "charset_setting",
    "connection",
    "core_path",
    "mappings",
    "plain_number",
    "sections",
    "symbol",
    "symbol_name",
    "sysroot",
    "target_stack",
]

_CORE = re.compile(r"Local core dump file:\n\t`(.*)', file type [^']*\n", re.DOTALL)
_FILE = re.compile(r"`(.*)', file type |Object file: (/.*)")
_SECTION = re.compile(r"^\s*\[\s*\d+\]\s+(0x[0-9a-f]+)->(0x[0-9a-f]+) at 0x[0-9a-f]+: (\S+)(.*)$")
_STACKED = re.compile(r"^\s*- (\S+) \(", re.MULTILINE)


def core_path(info_files: str) -> Optional[str]:
    """Return the path of the loaded core from ``info files``, None without one."""
    start = info_files.find("Local core dump file:\n")
    if start < 0:
        return None
    # A path may hold quotes and line ends; the sections that follow may not.
    end = info_files.find("', file type ", start)
    match = _CORE.match(info_files[start : info_files.find("\n", end) + 1]) if end > 0 else None
    return match.group(1) if match else None


def target_stack(maint_print_target_stack: str) -> list[str]:
    """Return the short names of the targets, topmost first: ``["native", "exec"]``."""
    return _STACKED.findall(maint_print_target_stack)


def connection(stack: list[str], kind: Optional[str]) -> Optional[str]:
    """Return how gdb reaches a target with this STACK of targets, None where it reaches none.

    :param kind: what gdb itself says, where it does.
    """
    # A recording on top may show another time than the process is at.
    recordings = [name for name in stack if name.startswith("record")]
    others = [name for name in stack if name not in ("exec", "None", "multi-thread")]
    named = [kind] if kind is not None else []
    return next(iter([*recordings, *named, *others]), None)


def sections(maint_info_sections: str) -> list[tuple[int, int, str, str]]:
    """Return ``(start, end, permissions, name)`` for each section in memory.

    The name is that of the file. Left out are sections of
    no bytes and ``.tbss``, which has an address but no memory there.

    :param maint_info_sections: of all object files.
    """
    found: list[tuple[int, int, str, str]] = []
    file = ""
    for line in maint_info_sections.splitlines():
        match = _SECTION.match(line)
        if match is None:
            header = _FILE.search(line)
            file = (header.group(1) or header.group(2)) if header else file
            continue
        start, end, name, flags = int(match[1], 16), int(match[2], 16), match[3], match[4].split()
        if "ALLOC" not in flags or name == ".tbss" or start >= end:
            continue
        permissions = "r-x" if "CODE" in flags else "r--" if "READONLY" in flags else "rw-"
        found.append((start, end, permissions, file))
    return found


def mappings(info_proc_mappings: str) -> Optional[str]:
    """Return ``info proc mappings`` where it lists any mapping, else None."""
    return (
        info_proc_mappings
        if re.search(r"^\s*0x[0-9a-f]+\s+0x", info_proc_mappings, re.MULTILINE)
        else None
    )


def architecture(name: str) -> str:
    """Return gdb's NAME of an architecture as the other sources call it."""
    return {"i386:x86-64": "x86_64", "i386:x64-32": "x86_64"}.get(name, name.partition(":")[0])


def charset(show_host_charset: str) -> str:
    """Return the name of the character set from ``show host-charset``."""
    match = re.search(r'"(?:auto; currently )?([^"]+)"', show_host_charset)
    return match.group(1) if match else "ascii"


def charset_setting(show_host_charset: str) -> str:
    """Return what ``set host-charset`` takes for what it is set to now."""
    return "auto" if '"auto;' in show_host_charset else charset(show_host_charset)


def symbol(said: str) -> Optional[str]:
    r"""Return the symbol in what ``info symbol`` SAID, None where it found none.

    >>> symbol("main_arena + 96 in section .data of /lib/libc.so.6\n")
    'main_arena + 96 in section .data of /lib/libc.so.6'
    """
    first = said.strip().split("\n")[0]
    return None if not first or first.startswith("No symbol matches") else first


def symbol_name(said: str) -> Optional[str]:
    r"""Return the name alone in what ``info symbol`` SAID, None where it found none.

    >>> symbol_name("operator new(unsigned long) + 28 in section .text of /lib/libstdc++.so.6\n")
    'operator new(unsigned long)'
    """
    found = symbol(said)
    if found is None:
        return None
    match = re.match(r"(.*?)(?: \+ \d+)?(?: in section \S+(?: of .*)?| of .*)?$", found)
    return match[1] if match is not None else None


def plain_number(expression: str, input_radix: object) -> Optional[int]:
    """Return the number that EXPRESSION spells in every language that gdb knows.

    None where it is anything else, or a number that means another one under INPUT_RADIX.
    """
    leading_zero = expression.startswith("0") and expression[1:2].isdigit()
    if leading_zero or (input_radix != 10 and not expression.startswith("0x")):
        return None
    try:
        return units.parse_number(expression)
    except UsageError:
        return None


def sysroot(parameter: object) -> Optional[str]:
    """Return the directory that gdb's parameter ``sysroot`` names, None where it names none."""
    if not isinstance(parameter, str) or parameter in ("", "/"):
        return None
    return None if parameter.startswith("target:") else parameter
