"""What is wrong is said in one clear line, with the right status, and loses nothing."""

import bz2
import gzip
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import cores
from harness.debuggers import DOOR, Answer, gdb, shell
from harness.processes import compile_fixture

REFUSED, WRONG_USAGE = 1, 2


def in_gdb(sample: Any, *commands: str) -> Answer:
    return gdb(*commands, program=sample.path, core=sample.after)


def refused(answer: Answer, *parts: str, status: int = REFUSED) -> None:
    """Check that ANSWER is one line of error with PARTS, and no traceback."""
    assert answer.status == status, answer
    for part in parts:
        assert part in answer.error
    assert "Traceback" not in answer.stderr
    assert "panicked" not in answer.stderr


class TestFiles:
    """TARGETs that are no cores."""

    def test_a_text_file_is_no_core(self, tmp_path: Path) -> None:
        file = tmp_path / "text"
        file.write_text("these are not the bytes of a core\n" * 100)
        refused(shell("find", file, "x"), str(file))

    def test_a_program_is_no_core(self, sample: Any) -> None:
        refused(shell("regions", sample.path), str(sample.path), "core")

    def test_an_empty_file_is_no_core(self, tmp_path: Path) -> None:
        file = tmp_path / "empty"
        file.touch()
        refused(shell("find", file, "x"), str(file), "empty")

    def test_a_directory_is_no_core(self, tmp_path: Path) -> None:
        refused(shell("find", tmp_path, "x"), str(tmp_path), "directory")

    def test_a_file_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        refused(shell("find", tmp_path / "none", "x"), "No such file or directory")

    def test_a_pipe_does_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        refused(shell("find", tmp_path / "pipe", "x"), str(tmp_path / "pipe"))

    @pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst", "lz4"])
    def test_a_compressed_core_gets_the_command_that_unpacks_it(
        self, sample: Any, tmp_path: Path, ending: str
    ) -> None:
        head = sample.after.read_bytes()[:65536]
        packed = tmp_path / f"core.{ending}"
        made = {
            "gz": lambda: gzip.compress(head),
            "bz2": lambda: bz2.compress(head),
            # Magic numbers are enough to be told apart.
            "xz": lambda: b"\xfd7zXZ\0" + bytes(64),
            "zst": lambda: b"\x28\xb5\x2f\xfd" + bytes(64),
            "lz4": lambda: b"\x04\x22\x4d\x18" + bytes(64),
        }[ending]()
        packed.write_bytes(made)
        tool = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd", "lz4": "lz4"}[ending]
        refused(shell("find", packed, "leaked"), tool, "-d")

    def test_the_same_in_gdb_for_a_file_to_compare_with(self, sample: Any, tmp_path: Path) -> None:
        packed = tmp_path / "core.gz"
        packed.write_bytes(gzip.compress(sample.before.read_bytes()[:65536]))
        refused(in_gdb(sample, f"leak-diff-region {packed}"), "gzip", "-d")

    def test_a_file_to_compare_with_that_is_neither_core_nor_map_is_refused(
        self, sample: Any, tmp_path: Path
    ) -> None:
        file = tmp_path / "text"
        file.write_text("nothing that pmap printed\n")
        refused(in_gdb(sample, f"leak-diff-region {file}"), str(file))


@pytest.fixture(params=["gcore", "kernel core"])
def core(request: pytest.FixtureRequest) -> Path:
    if request.param == "gcore":
        core: Path = request.getfixturevalue("sample").after
        return core
    kernel: Path = request.getfixturevalue("sample_kernel_core")[0]
    return kernel


class TestCutCores:
    """A core cut at any byte: its memory up to there, or a clear error."""

    def test_every_cut_is_answered_or_refused(self, core: Path, tmp_path: Path) -> None:
        data = core.read_bytes()
        segments = cores.loads(core)
        saved = [(offset, offset + size, how) for _, _, size, offset, how in segments if size]
        first, last = min(saved)[0], max(end for _, end, _ in saved)
        last_writable = max(end for _, end, how in saved if "w" in how)
        table_end = 64 + 56 * (len(segments) + 1)
        cuts = [1, 4, 16, 40, 63, 64, 100, table_end - 1, table_end, first, first + 1]
        cuts += [len(data) // 2, len(data) - 4097, len(data) - 100, len(data) - 1]
        cut = tmp_path / "core.cut"
        for length in cuts:
            cut.write_bytes(data[:length])
            answer = shell("find", cut, "leaked", "-json")
            if answer.status != 0:
                refused(answer, "core.cut")
                continue
            # Complete means: all writable memory is there.
            found = answer.json()
            assert length >= last_writable or not found["target"]["complete"], length
            assert length >= last or found["notes"], length

    def test_memory_before_the_cut_is_found_and_the_rest_said(
        self, core: Path, tmp_path: Path
    ) -> None:
        data = core.read_bytes()
        last = max(offset + saved for _, _, saved, offset, _ in cores.loads(core))
        cut = tmp_path / "core.cut"
        # The middle of the last segment.
        cut.write_bytes(data[: last - 8192])
        answer = shell("find", cut, "leaked", "-in", "all", "-json").json()
        assert answer["count"] >= 102
        assert any("cut" in note or "short" in note for note in answer["notes"])

    def test_regions_of_a_cut_core_say_what_was_saved(self, core: Path, tmp_path: Path) -> None:
        data = core.read_bytes()
        cut = tmp_path / "core.cut"
        cut.write_bytes(data[: len(data) // 2])
        answer = shell("regions", cut, "-json").json()
        assert answer["total"]["saved"] < answer["total"]["size"]


class TestPids:
    """TARGETs that are no process that can be read."""

    def test_a_pid_that_is_gone_is_said(self) -> None:
        gone = subprocess.Popen(["true"])
        gone.wait()
        refused(shell("find", gone.pid, "x"), f"process {gone.pid}: does not exist")

    def test_a_kernel_thread_has_no_memory(self) -> None:
        refused(shell("find", 2, "x"), "2")

    def test_a_number_too_large_for_a_pid_is_wrong_usage(self) -> None:
        answer = shell("find", "99999999999", "x")
        refused(answer, "is no pid", "./99999999999", status=WRONG_USAGE)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start somebody else's process")
    def test_a_process_of_somebody_else_is_refused_with_the_reason(self) -> None:
        nobody = 65534
        other = subprocess.Popen(["sleep", "60"], user=nobody, group=nobody, extra_groups=[])
        try:
            # Root without the capability is as anybody else.
            answer = shell(
                "find", other.pid, "x", wrapper=("setpriv", "--bounding-set=-sys_ptrace")
            )
        finally:
            other.kill()
            other.wait()
        refused(answer, str(other.pid), "belongs to another user")

    def test_a_process_that_waits_for_its_child_of_vfork_cannot_be_stopped(
        self, tmp_path: Path
    ) -> None:
        program = compile_fixture("vforked", tmp_path / "vforked")
        forked = subprocess.Popen([program], stdout=subprocess.PIPE)
        try:
            assert forked.stdout is not None
            assert forked.stdout.readline() == b"READY\n"
            answer = shell("snapshot", forked.pid, tmp_path / "taken")
        finally:
            forked.kill()
            forked.communicate()
        refused(answer, str(forked.pid), "did not stop within 5 s", "vfork")

    def test_a_file_named_by_digits_is_reached_by_its_path(
        self, sample: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "123").symlink_to(sample.after)
        answer = shell("find", "./123", "leaked", "-json", cwd=tmp_path)
        assert answer.json()["count"] == 102

    def test_a_process_with_a_tracer_cannot_be_stopped(self, start: Any, tmp_path: Path) -> None:
        program = start("sample")
        answer = gdb(
            f"shell {' '.join([str(Path('.venv/bin/gdb-leak')), 'snapshot', str(program.pid)])}"
            f" {tmp_path}/taken",
            pid=program.pid,
        )
        assert "gdb" in answer.stderr
        assert str(program.pid) in answer.stderr
        assert not (tmp_path / "taken").exists()


def test_a_place_of_no_such_name_is_wrong_usage(sample: Any) -> None:
    answer = shell("find", sample.after, "leaked", "-in", "nowhere")
    assert answer.status == 2
    refused(in_gdb(sample, "leak-find -in nowhere leaked"), "thread-stack")


def test_an_answer_that_cannot_be_written_is_told_in_one_line(sample: Any) -> None:
    answer = shell("regions", sample.after, wrapper=("sh", "-c", 'exec "$0" "$@" >/dev/full'))
    assert answer.status == 1
    assert answer.stderr.endswith("the answer could not be written: No space left on device\n")


class TestNeedles:
    """What cannot be looked for."""

    def test_an_odd_number_of_hex_digits(self, sample: Any) -> None:
        refused(in_gdb(sample, "leak-find -hex 6c656"), "6c656")
        refused(shell("find", sample.after, "-hex", "6c656"), "6c656")

    def test_something_that_is_no_hex_digit(self, sample: Any) -> None:
        refused(in_gdb(sample, "leak-find -hex 6g"), "6g")

    def test_an_empty_needle(self, sample: Any) -> None:
        refused(in_gdb(sample, 'leak-find ""'), "empty")
        refused(shell("find", sample.after, ""), "empty")

    @pytest.mark.parametrize(
        ("option", "number"),
        [
            ("-u8", "256"),
            ("-u8", "-129"),
            ("-u16", "0x10000"),
            ("-u32", "0x100000000"),
            ("-u64", "0x10000000000000000"),
        ],
    )
    def test_an_integer_that_does_not_fit(self, sample: Any, option: str, number: str) -> None:
        answer = shell("find", sample.after, option, number)
        refused(answer, "does not fit")

    def test_the_largest_and_the_smallest_that_fit_are_taken(self, sample: Any) -> None:
        for number, bytes_ in (("255", "ff"), ("-128", "80")):
            answer = shell("find", sample.after, "-u8", number, "-json", "-limit", "1").json()
            assert answer["needle"] == bytes_

    def test_a_bad_regular_expression(self, sample: Any) -> None:
        refused(in_gdb(sample, 'leak-find -regex "(leaked"'), "(leaked")
        refused(shell("find", sample.after, "-regex", "(leaked"), "(leaked")

    def test_several_bare_words_are_refused_and_the_quoted_form_shown(self, sample: Any) -> None:
        refused(in_gdb(sample, "leak-find leaked memory"), 'leak-find "leaked memory"')
        answer = shell("find", sample.after, "leaked", "memory")
        refused(answer, "gdb-leak find TARGET 'leaked memory'", status=WRONG_USAGE)

    def test_a_missing_needle(self, sample: Any) -> None:
        refused(in_gdb(sample, "leak-find"), "missing")
        refused(shell("find", sample.after), "missing", status=WRONG_USAGE)


class TestRanges:
    """Ranges that are none."""

    def test_a_range_that_wraps(self, sample: Any) -> None:
        line = "leak-dump 0xfffffffffffffff0 +32"
        refused(in_gdb(sample, line), "0xfffffffffffffff0", "wraps")
        refused(shell("dump", sample.after, "0xfffffffffffffff0", "+32"), "wraps")

    def test_a_range_that_ends_before_it_starts(self, sample: Any) -> None:
        refused(in_gdb(sample, "leak-dump 0x2000 0x1000"), "0x2000", "0x1000")

    def test_a_place_that_is_none(self, sample: Any) -> None:
        refused(in_gdb(sample, "leak-find x -in nowhere"), "nowhere")

    def test_an_address_that_is_not_mapped(self, sample: Any) -> None:
        refused(in_gdb(sample, "leak-decode -at 0x10"), "no region at 0x10")

    def test_an_expression_that_gdb_cannot_evaluate(self, sample: Any) -> None:
        refused(in_gdb(sample, "leak-dump nothing_of_that_name"), "nothing_of_that_name")


class TestOptions:
    """gdb's words for mistakes, from both doors."""

    def test_an_unknown_option(self, sample: Any) -> None:
        refused(in_gdb(sample, "leak-find -zz x"), "Unrecognized option at: -zz x")
        answer = shell("find", sample.after, "-zz", "x")
        refused(answer, "Unrecognized option at: -zz x", status=WRONG_USAGE)

    def test_an_ambiguous_prefix(self, sample: Any) -> None:
        refused(in_gdb(sample, "leak-find -u x"), "Ambiguous option at: -u x")

    def test_a_missing_argument(self, sample: Any) -> None:
        refused(in_gdb(sample, "leak-find x -limit"), "-limit requires an argument")
        answer = shell("find", sample.after, "x", "-limit")
        refused(answer, "-limit requires an argument", status=WRONG_USAGE)

    def test_two_forms_of_a_needle(self, sample: Any) -> None:
        refused(in_gdb(sample, "leak-find -hex -u8 6c"), "exclude each other")

    @pytest.mark.parametrize(
        "option", ["-state lost", "-count x", "-limit many", "-align 0", "-top 1"]
    )
    def test_what_find_does_not_take_is_refused(self, sample: Any, option: str) -> None:
        refused(in_gdb(sample, f"leak-find x {option}"))

    def test_wrong_usage_is_told_before_the_target_is_opened(self, tmp_path: Path) -> None:
        answer = shell("find", tmp_path / "none", "-zz")
        refused(answer, "Unrecognized", status=WRONG_USAGE)

    def test_an_unknown_command(self) -> None:
        refused(shell("bogus"), "no such command: bogus", status=WRONG_USAGE)

    def test_no_command_at_all(self) -> None:
        refused(shell(), "a command is missing", status=WRONG_USAGE)


class TestOut:
    """Files that are written whole or not at all."""

    def test_an_existing_file_is_refused_and_unchanged(self, sample: Any, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.write_bytes(b"precious")
        start = f"{sample.heap.start:#x}"
        refused(in_gdb(sample, f"leak-dump {start} +4096 -out {out}"), str(out), "-force")
        refused(shell("dump", sample.after, start, "+4096", "-out", out), "-force")
        assert out.read_bytes() == b"precious"
        assert list(tmp_path.iterdir()) == [out]

    def test_with_force_it_is_replaced_by_the_bytes(self, sample: Any, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.write_bytes(b"not needed any more")
        size = sample.heap.end - sample.heap.start
        answer = in_gdb(
            sample,
            f"leak-dump -json {sample.heap.start:#x} {sample.heap.end:#x} -out {out} -force",
        ).json()
        assert answer["written"] == size
        assert answer["path"] == str(out)
        with Path(f"/proc/{sample.live.pid}/mem").open("rb") as memory:
            memory.seek(sample.heap.start)
            assert out.read_bytes() == memory.read(size)

    def test_a_range_with_a_hole_writes_nothing(self, sample: Any, tmp_path: Path) -> None:
        out = tmp_path / "out"
        end = sample.heap.end
        refused(in_gdb(sample, f"leak-dump {end - 4096:#x} {end + 4096:#x} -out {out}"), hex(end))
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_not_there_is_said(self, sample: Any, tmp_path: Path) -> None:
        out = tmp_path / "none" / "out"
        answer = in_gdb(sample, f"leak-dump {sample.heap.start:#x} +16 -out {out}")
        refused(answer, "No such file or directory")

    def test_what_is_no_regular_file_is_not_replaced(self, sample: Any, tmp_path: Path) -> None:
        # Of a device only root would notice; a pipe is as little a file.
        out = tmp_path / "pipe"
        os.mkfifo(out)
        words = ("dump", sample.after, f"{sample.heap.start:#x}", "+16", "-out", out)
        refused(shell(*words, "-force"), "is not a regular file")
        refused(shell(*words), "is not a regular file")
        assert out.is_fifo()

    def test_an_existing_snapshot_is_refused_and_unchanged(
        self, sample: Any, tmp_path: Path
    ) -> None:
        file = tmp_path / "taken"
        file.write_bytes(b"precious")
        refused(in_gdb(sample, f"leak-snapshot {file}"), str(file), "-force")
        assert file.read_bytes() == b"precious"

    @pytest.fixture
    def full_disk(self, tmp_path: Path) -> Iterator[Path]:
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True
        )
        if mounted.returncode != 0:
            pytest.skip("a small tmpfs can be mounted by root only")
        try:
            yield disk
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_a_full_disk_leaves_nothing_behind(self, sample: Any, full_disk: Path) -> None:
        out = full_disk / "out"
        line = f"leak-dump {sample.heap.start:#x} {sample.heap.end:#x} -out {out}"
        refused(in_gdb(sample, line), str(out), "No space left on device")
        assert list(full_disk.iterdir()) == []

    def test_a_full_disk_leaves_what_was_to_be_replaced(self, sample: Any, full_disk: Path) -> None:
        out = full_disk / "out"
        out.write_bytes(b"precious")
        words = (f"{sample.heap.start:#x}", f"{sample.heap.end:#x}", "-out", out, "-force")
        refused(shell("dump", sample.after, *words), "No space left on device")
        assert out.read_bytes() == b"precious"
        assert list(full_disk.iterdir()) == [out]


def test_an_error_leaves_the_next_command_working(sample: Any) -> None:
    answer = in_gdb(sample, "leak-find -hex 6", 'leak-find -json "leaked"')
    assert answer.status == 0
    assert answer.json()["count"] == 102
    assert "leak-find: " in answer.stderr


def test_without_a_target_one_line_says_what_to_do() -> None:
    for command in ("leak", 'leak-find "x"', "leak-regions", "leak-snapshot"):
        refused(gdb(command), "no process and no core file")


def has_open(pid: int, path: str) -> bool:
    """Whether the process has the file open."""
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            if str(entry.readlink()) == path:
                return True
        except FileNotFoundError:
            continue
    return False


class TestShellOnly:
    """What only a shell can do wrong."""

    def test_a_closed_standard_output_is_said_in_one_line(self, sample: Any) -> None:
        line = f"exec '{DOOR}' find '{sample.after}' leaked >&-"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "gdb-leak: standard output is closed\n")

    def test_a_program_that_is_not_there_is_refused(self, sample: Any, tmp_path: Path) -> None:
        refused(shell("find", sample.after, "leaked", "-exe", tmp_path / "gone"), "gone")

    def test_a_number_of_thousands_of_digits_is_refused(self, sample: Any) -> None:
        answer = shell("find", sample.after, "x", "-align", "0x" + "9" * 5000)
        assert (answer.status, len(answer.stderr.splitlines())) == (2, 1)

    def test_a_process_that_ends_while_it_is_read_is_no_answer(self, start: Any) -> None:
        program = start("sparse")
        line = [str(DOOR), "find", str(program.pid), "x", "-in", "anon"]
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as search:
            while not has_open(search.pid, f"/proc/{program.pid}/mem"):
                assert search.poll() is None
            program.signal(signal.SIGKILL)
            program.wait()
            _, told = search.communicate(timeout=60)
        assert (search.returncode, told.decode().count("ended")) == (1, 1), told


def test_two_files_are_compared_in_a_gdb_without_a_target(sample: Any) -> None:
    answer = gdb(f"leak-diff-region {sample.before} {sample.after}")
    assert "leaked memory" in answer.stdout
