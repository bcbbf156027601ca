"""Files that commands write: what is not the tool's business stays what it is."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness.debuggers import DOOR, environment, shell
from harness.namespaces import own_dev, small_disk

LISTED = 'ls -l --time-style=+ /dev | grep -v "^total"'


def in_own_dev(folder: Path, script: str, *words: object, home: Path) -> "list[str]":
    """Return what SCRIPT prints with WORDS, between two lists of /dev that must be equal."""
    whole = f"{LISTED}; echo ===; {script}\necho ===; {LISTED}"
    done = subprocess.run(
        [*own_dev(folder / "dev"), "sh", "-c", whole, str(DOOR), *map(str, words)],
        env=environment(HOME=str(home)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
        check=False,
    )
    before, said, after = (done.stdout + b"").decode().split("===\n")
    assert before == after, done.stderr.decode()
    assert "stdout -> /proc/self/fd/1" in before
    return said.splitlines()


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full", "/dev/stdout", "/dev/fd/1"])
def test_a_gdbinit_that_leads_into_dev_is_refused(tmp_path: Path, device: str) -> None:
    (tmp_path / ".gdbinit").symlink_to(device)
    script = 'for do in -install -remove; do "$0" gdbinit $do 2>&1 | cat; done'
    said = in_own_dev(tmp_path, script, home=tmp_path)
    assert len(said) == 2
    assert all("not a regular file" in line for line in said), said


@pytest.mark.parametrize(
    "device", ["/dev/stdout", "/dev/fd/1", "/dev/stderr", "/dev/null", "/dev/full", "/dev/tty"]
)
def test_snapshots_and_dumps_are_never_written_into_dev(
    sample: Any, tmp_path: Path, device: str
) -> None:
    script = (
        f'"$0" snapshot "$1" {device} -force 2>&1 >"$3" | cat\n'
        f'"$0" dump "$1" "$2" +64 -out {device} -force 2>&1 >"$3" | cat'
    )
    words = (sample.after, hex(sample.heap.start), tmp_path / "log")
    said = in_own_dev(tmp_path, script, *words, home=tmp_path)
    assert len(said) == 2
    assert all("is not a regular file" in line for line in said), said


def test_nothing_new_is_made_in_dev(sample: Any, tmp_path: Path) -> None:
    script = '"$0" snapshot "$1" /dev/stdot 2>&1 | cat'
    (said,) = in_own_dev(tmp_path, script, sample.after, home=tmp_path)
    assert "/dev is for devices" in said


@pytest.mark.parametrize(
    ("log", "stream"),
    [
        ("/dev/stderr", "err"),
        ("/dev/fd/2", "err"),
        ("/proc/self/fd/2", "err"),
        ("/dev/stdout", "out"),
        ("/dev/fd/3", "three"),
        ("/dev/null", None),
    ],
)
def test_a_report_is_written_through_what_the_shell_opened(
    runs: Path, tmp_path: Path, log: str, stream: str
) -> None:
    script = (
        'cd "$2"; echo before >err; echo before >out; echo before >three\n'
        f'"$0" run -log-file {log} "$1" status 4 >>out 2>>err 3>>three || echo "ends with $?"\n'
        "echo after >>err"
    )
    assert in_own_dev(tmp_path, script, runs, tmp_path, home=tmp_path) == ["ends with 4"]
    for name in ("err", "out", "three"):
        content = (tmp_path / name).read_text()
        # What was there before is there still, and comes first.
        assert content.startswith("before\n")
        assert ("definitely lost" in content) == (name == stream), name


def test_a_report_goes_through_a_pipe_that_is_read_and_no_other(runs: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    answer = shell("run", "-log-file", pipe, runs, "arguments")
    assert (answer.status, answer.stdout) == (1, "")
    assert answer.error == f"gdb-leak: run: -log-file {pipe}: no process reads this pipe"
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        answer = shell("run", "-log-file", pipe, runs, "status", 4)
        assert reader.stdout is not None
        assert b"definitely lost" in reader.stdout.read()
    assert (answer.status, answer.stderr, pipe.is_fifo()) == (4, "", True)


def test_a_report_that_a_device_has_no_room_for_goes_to_standard_error(runs: Path) -> None:
    answer = shell("run", "-log-file", "/dev/full", runs, "status", 4)
    assert "definitely lost" in answer.stderr
    last = answer.stderr.splitlines()[-1]
    assert last.endswith("-log-file /dev/full: No space left on device")
    assert answer.stderr.count("No space left") == 1


def test_a_report_that_its_file_has_no_room_for_goes_to_standard_error(
    runs: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    words = ("-log-file", f"{disk}/log", runs, "status", 4)
    full = ("sh", "-c", f'head -c 8192 /dev/zero >{disk}/full; "$@"; r=$?; ls -A {disk}; exit $r')
    answer = shell("run", *words, wrapper=(*small_disk(disk, 4096), *full, "sh"))
    assert "definitely lost" in answer.stderr
    assert f"-log-file {disk}/log: No space left on device" in answer.stderr
    assert answer.stdout.splitlines()[-1:] == ["full"]


def test_a_disk_that_is_full_leaves_the_old_file(sample: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    start = hex(sample.heap.start)
    script = (
        f'echo old >{disk}/out; "$0" dump "$1" {start} +128K -out {disk}/out -force 2>&1\n'
        f"cat {disk}/out; ls -A {disk}"
    )
    done = subprocess.run(
        [*small_disk(disk, 65536), "sh", "-c", script, str(DOOR), str(sample.after)],
        env=environment(),
        capture_output=True,
        check=False,
    )
    said, old, *names = done.stdout.decode().splitlines()
    assert (f"{disk}/out: No space left on device" in said, old, names) == (True, "old", ["out"])
