"""What commands print, with everything that differs from run to run named instead."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness import ROOT
from harness.truth import Mapping

FOLDER = ROOT / "tests" / "golden"
#: Sizes and counts that the machine decides: its libc, its kernel.
_OF_THE_MACHINE = ("rss", "dirty", "taken", "writable", "resident", "frames")


class Normal:
    """Names for the addresses and files of one process."""

    def __init__(
        self, mappings: list[Mapping], files: Iterable[tuple[Path, str]], pid: int
    ) -> None:
        """Take MAPPINGS, what to call which of FILES (longest first), and the PID."""
        self._mappings = mappings
        self._files = list(files)
        self._pid = pid

    def text(self, said: str) -> str:
        """Return SAID with addresses, files and the pid named, and runs of blanks as two."""
        for path, name in self._files:
            said = said.replace(str(path), name)
        said = re.sub(rf"\b{self._pid}\b", "PID", said)
        said = re.sub(r"^judged [\d.]+ of [\d.]+ KiB", "judged N of N KiB", said, flags=re.M)
        said = re.sub(r"\b0x[0-9a-f]{6,16}\b", self._address, said)
        lines = (re.sub(r"(?<=\S) {2,}", "  ", line).rstrip() for line in said.splitlines())
        return "\n".join(line for line in lines) + "\n"

    def json(self, answer: dict[str, Any], machine: bool) -> str:
        """Return ANSWER in lines; where the MACHINE decides sizes they are named too."""
        return self.text(json.dumps(_named(answer, machine), indent=1, ensure_ascii=False))

    def _address(self, match: "re.Match[str]") -> str:
        address = int(match[0], 16)
        for mapping in self._mappings:
            # The end of a mapping is named after the mapping.
            if mapping.start <= address <= mapping.end:
                return self._place(mapping, address)
        return match[0]

    def _place(self, mapping: Mapping, address: int) -> str:
        offset = address - mapping.start
        if mapping.name == "[heap]":
            return f"HEAP+{offset:#x}"
        if mapping.name == "[stack]":
            return "STACK+…"
        if mapping.name.startswith("/"):
            return f"{Path(mapping.name).name}+…"
        return "ANON+…"


def sizes_named(text: str) -> str:
    """Return TEXT with sizes for people, and counts of regions, named."""
    text = re.sub(r"\b\d+(\.\d+)? (bytes|[KMGT]iB)", "SIZE", text)
    return re.sub(r"\b\d+( regions?\b)", r"N\1", text)


def kinds_sorted(text: str) -> str:
    """Return the overview in TEXT: kinds by name, uncounted; of the largest regions the first.

    Which regions follow the heap depends on pages of the stack, and so on the environment.
    """
    parts = re.split(r"(KIND  REGIONS  SIZE(?:  [A-Z]+)*\n)((?:\S+  \d+(?:  SIZE)+\n)+)", text)
    before, heads, rows, after = parts
    kinds = sorted(re.sub(r"  \d+  ", "  N  ", row) for row in rows.splitlines(keepends=True))
    begin, largest, end = re.split(r"(?<=bytes:\n|holds:\n)((?:\S+  SIZE  .*\n)+)", after)
    first, *others = largest.splitlines(keepends=True)
    return "".join([before, heads, *kinds, begin, first, *("…\n" for _ in others), end])


def _named(value: Any, machine: bool) -> Any:
    if isinstance(value, dict):
        return {
            key: "…"
            if inner is not None
            and (key in _OF_THE_MACHINE or ((machine or key == "judged") and _is_count(inner)))
            else _named(inner, machine)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_named(inner, machine) for inner in value]
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
