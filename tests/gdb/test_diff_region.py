"""What grew between two stops, and what is in the bytes that are new."""

from pathlib import Path
from typing import Any

import pytest
from harness import cores, truth
from harness.debuggers import Answer, gdb, shell

Json = dict[str, Any]


def pmap_heap(path: Path, start: int) -> int:
    return truth.pmap_sizes(path.read_text())[start][0]


def grown_heap(answer: Json) -> Json:
    (heap,) = (change for change in answer["grown"] if change["kind"] == "heap")
    return heap


def content(answer: Json, text: str) -> Json:
    (found,) = (content for content in answer["contents"] if content["text"] == text)
    return found


def new_bytes(sample: Any) -> tuple[int, bytes]:
    """Return the heap's bytes that were not there before, read from the process."""
    (before,) = filter(truth.heap, truth.parse_maps(sample.maps_before.read_text()))
    ((start, data),) = truth.process_runs(sample.live.pid, truth.heap)
    return before.end, data[before.end - start :]


class TestTwoCores:
    """BEFORE and AFTER are cores of one process."""

    @pytest.fixture(params=["gdb", "shell"])
    def answer(self, request: pytest.FixtureRequest, sample: Any) -> Json:
        if request.param == "shell":
            return shell("diff-region", sample.before, sample.after, "-json").json()
        command = f"leak-diff-region -json {sample.before}"
        return gdb(command, program=sample.path, core=sample.after).json()

    def test_the_heap_grew_by_what_pmap_says(self, answer: Json, sample: Any) -> None:
        heap = grown_heap(answer)
        start = int(heap["start"], 16)
        before, after = (pmap_heap(path, start) for path in (sample.pmap_before, sample.pmap_after))
        assert (heap["before"], heap["after"]) == (before, after) == (132 << 10, 264 << 10)
        assert heap["growth"] == after - before

    def test_nothing_else_changed(self, answer: Json) -> None:
        assert len(answer["grown"]) == 1
        assert answer["shrunk"] == answer["new"] == answer["gone"] == []
        assert answer["growth"] == 132 << 10

    def test_the_new_range_is_the_heaps_new_end(self, answer: Json, sample: Any) -> None:
        start, data = new_bytes(sample)
        assert grown_heap(answer)["new_range"] == {
            "start": hex(start),
            "end": hex(start + len(data)),
        }

    def test_the_leaked_text_is_in_the_new_bytes_with_its_count(
        self, answer: Json, sample: Any
    ) -> None:
        _, data = new_bytes(sample)
        true = data.count(b"leaked memory")
        assert true > 30
        assert content(answer, "leaked memory")["count"] == true

    def test_records_that_repeat_are_shown_with_their_stride(self, answer: Json) -> None:
        # Blocks of 2048 bytes, each with a header of 16.
        assert content(answer, "leaked memory")["stride"] == 2064

    def test_the_target_is_after(self, answer: Json, sample: Any) -> None:
        assert answer["target"]["kind"] == "core"
        assert answer["target"]["path"] == str(sample.after)


def test_the_other_way_round_the_heap_shrank(sample: Any) -> None:
    answer = shell("diff-region", sample.after, sample.before, "-json").json()
    (heap,) = answer["shrunk"]
    assert heap["growth"] == answer["growth"] == -(132 << 10)
    assert answer["grown"] == []


def test_a_core_compared_with_itself_shows_no_growth(sample: Any) -> None:
    answer = shell("diff-region", sample.after, sample.after, "-json").json()
    assert answer["growth"] == 0
    assert answer["grown"] == answer["shrunk"] == answer["new"] == answer["gone"] == []


class TestALiveProcess:
    """A snapshot, a key pressed, and the comparison, all in one gdb."""

    @pytest.fixture
    def answers(self, start: Any) -> tuple[Answer, bytes]:
        program = start("sample")
        # The process is stopped while gdb presses its key.
        answer = gdb(
            "break wait_for_key",
            "leak-snapshot",
            f"shell echo > /proc/{program.pid}/fd/0",
            "continue",
            "leak-diff-region -json",
            "leak-diff-region -json @1",
            pid=program.pid,
        )
        program.wait_for("waiting")
        ((_, heap),) = truth.process_runs(program.pid, truth.heap)
        return answer, heap[132 << 10 :]

    def test_the_heap_grew_since_the_snapshot(self, answers: tuple[Answer, bytes]) -> None:
        answer, new = answers
        latest, named = answer.all_json()
        assert grown_heap(latest)["growth"] == 132 << 10 == len(new)
        assert content(latest, "leaked memory")["count"] == new.count(b"leaked memory")
        assert latest["target"]["kind"] == "process"
        assert named["grown"] == latest["grown"]


def test_two_pmap_texts_show_what_grew_and_no_contents(sample: Any) -> None:
    answer = shell("diff-region", sample.pmap_before, sample.pmap_after, "-json").json()
    (grown,) = answer["grown"]
    assert int(grown["start"], 16) == sample.heap.start
    assert (grown["before"], grown["after"]) == (132 << 10, 264 << 10)
    assert answer["contents"] == []
    assert any("no contents" in note for note in answer["notes"])


def test_two_maps_texts_show_what_grew(sample: Any) -> None:
    answer = shell("diff-region", sample.maps_before, sample.maps_after, "-json").json()
    assert grown_heap(answer)["growth"] == 132 << 10
    assert answer["target"]["kind"] == "maps"


def test_a_pmap_text_and_a_core_can_be_compared(sample: Any) -> None:
    answer = shell("diff-region", sample.pmap_before, sample.after, "-json").json()
    changes = [*answer["grown"], *answer["new"]]
    assert content(answer, "leaked memory")["count"] > 30
    assert any(int(change["start"], 16) == sample.heap.start for change in changes)


def test_a_snapshot_file_outlives_the_command_that_took_it(sample: Any, tmp_path: Path) -> None:
    file = tmp_path / "before.snapshot"
    taken = shell("snapshot", sample.before, file, "-json").json()
    assert taken["path"] == str(file)
    assert taken["regions"] > 10
    answer = shell("diff-region", file, sample.after, "-json").json()
    assert grown_heap(answer)["growth"] == 132 << 10


def test_a_snapshot_of_a_running_process_says_how_long_it_was_held(
    sample: Any, tmp_path: Path
) -> None:
    answer = shell("snapshot", sample.live.pid, tmp_path / "taken", "-json").json()
    assert any("stopped for" in note for note in answer["notes"])
    state = Path(f"/proc/{sample.live.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state == "S"


def test_a_snapshot_file_from_a_shell_serves_in_gdb(sample: Any, tmp_path: Path) -> None:
    file = tmp_path / "before.snapshot"
    shell("snapshot", sample.before, file)
    answer = gdb(f"leak-diff-region -json {file}", program=sample.path, core=sample.after).json()
    assert grown_heap(answer)["growth"] == 132 << 10


def test_several_snapshots_are_kept_and_named(sample: Any) -> None:
    first, second = gdb(
        "leak-snapshot -json", "leak-snapshot -json", program=sample.path, core=sample.after
    ).all_json()
    assert (first["name"], second["name"]) == ("@1", "@2")


class TestGrow:
    """Mappings of their own that grow, shrink, appear and go."""

    @pytest.fixture
    def answers(self, start: Any, tmp_path: Path) -> tuple[Json, dict[str, Any], dict[str, Any]]:
        program = start("grow")
        before = dict(program.places)
        core = cores.gcore(program.pid, tmp_path / "before")
        program.press_key()
        program.wait_for("READY")
        after = cores.gcore(program.pid, tmp_path / "after")
        return shell("diff-region", core, after, "-json").json(), before, program.places

    def test_each_change_is_told_with_its_sizes(
        self, answers: tuple[Json, dict[str, Any], dict[str, Any]]
    ) -> None:
        answer, before, after = answers

        def change(kind: str, name: str) -> tuple[int, int]:
            place = after[name][0]
            found = [
                (change["before"], change["after"])
                for change in answer[kind]
                if change["kind"] == "anon"
                and int(change["start"], 16) <= place < int(change["end"], 16)
            ]
            assert len(found) == 1, (kind, name, answer[kind])
            return found[0]

        assert change("grown", "grows") == (before["grows"][1], after["grows"][1])
        assert change("shrunk", "shrinks") == (before["shrinks"][1], after["shrinks"][1])
        assert change("new", "appears") == (0, after["appears"][1])
        assert change("gone", "goes") == (before["goes"][1], 0)

    def test_what_stays_is_not_told(
        self, answers: tuple[Json, dict[str, Any], dict[str, Any]]
    ) -> None:
        answer, _, after = answers
        told = {
            change["start"]
            for kind in ("grown", "shrunk", "new", "gone")
            for change in answer[kind]
        }
        assert hex(after["stays"][0]) not in told

    def test_the_records_in_the_new_bytes_are_counted(
        self, answers: tuple[Json, dict[str, Any], dict[str, Any]]
    ) -> None:
        answer, before, after = answers
        new = after["grows"][1] - before["grows"][1] + after["appears"][1]
        assert content(answer, "new record")["count"] == new // 64
        assert content(answer, "new record")["stride"] == 64


def test_another_program_is_said_and_still_compared(
    sample: Any, start: Any, tmp_path: Path
) -> None:
    other = cores.gcore(start("edges").pid, tmp_path / "other")
    answer = shell("diff-region", other, sample.after, "-json").json()
    assert any("program" in note for note in answer["notes"])
    assert answer["grown"] or answer["new"]
    assert answer["gone"] or answer["shrunk"]


def test_without_a_snapshot_before_is_asked_for(sample: Any) -> None:
    answer = gdb("leak-diff-region", program=sample.path, core=sample.after)
    assert answer.status == 1
    assert "leak-snapshot" in answer.error


def test_how_many_there_are_is_said_where_not_all_are_listed(sample: Any, tmp_path: Path) -> None:
    lines = sample.maps_after.read_text().splitlines(keepends=True)
    before = tmp_path / "maps"
    before.write_text("".join(line for line in lines if "[heap]" not in line))

    def ask(*words: str) -> Answer:
        return shell("diff-region", before, sample.after, "-top", *words)

    whole = ask("unlimited", "-json").json()
    assert whole["distinct"] == len(whole["contents"]) > 1
    assert whole["total"] == sum(row["count"] for row in whole["contents"])
    assert (whole["limited"], whole["groups"]) == (False, len(whole["blocks"]))
    assert whole["groups"] > 1
    some = ask("1", "-json").json()
    assert (len(some["contents"]), len(some["blocks"]), some["limited"]) == (1, 1, True)
    same = ("distinct", "total", "groups")
    assert [some[key] for key in same] == [whole[key] for key in same]
    text = ask("1").stdout
    rest = "1 listed (-top unlimited lists all)"
    assert f"{whole['total']} strings, {whole['distinct']} different, {rest}" in text
    assert f"in {whole['groups']} groups, {rest}" in text
    assert "listed" not in ask("unlimited").stdout
