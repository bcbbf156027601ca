"""The sample as blocks: how many were lost, which one is free, and what else says so."""

from typing import Any

import pytest
from harness.debuggers import Answer, gdb, shell

CALLS = 101
#: malloc_usable_size of a block of 2048 bytes, whose chunk is 0x810.
USABLE = 2056


@pytest.fixture(params=["live", "gcore", "kernel core"])
def ask(request: pytest.FixtureRequest) -> Any:
    """Ask gdb about the sample after all calls, in one of the forms in which gdb can have it."""
    sample = request.getfixturevalue("sample")
    core = sample.after
    if request.param == "kernel core":
        core, _ = request.getfixturevalue("sample_kernel_core")

    def asked(*commands: str) -> list[dict[str, Any]]:
        answer: Answer
        if request.param == "live":
            answer = gdb(*commands, pid=sample.live.pid)
        else:
            answer = gdb(*commands, program=sample.path, core=core)
        return answer.all_json()

    return asked


def test_each_call_left_one_block_in_use_with_its_text(ask: Any) -> None:
    (answer,) = ask("leak-blocks -json")
    (group,) = [group for group in answer["groups"] if group["size"] == USABLE]
    assert (group["text"], group["blocks"], group["kind"]) == ("leaked memory", CALLS, "text")
    assert group["bytes"] == CALLS * USABLE
    (listed,) = ask(f"leak-blocks -json -list -size {USABLE} -limit unlimited")
    assert len(listed["blocks"]) == listed["count"] == CALLS
    assert group["sample"] == [block["address"] for block in listed["blocks"][:5]]


def test_the_block_that_was_freed_is_free_and_on_the_unsorted_list(ask: Any) -> None:
    # Its chunk of 0x810 bytes is too large for a thread's cache, which ends at 0x410
    # (glibc 2.26 to 2.43, malloc/malloc.c, MAX_TCACHE_SIZE).
    (answer,) = ask("leak-blocks -json -state free -list")
    (block,) = [block for block in answer["blocks"] if block["size"] == USABLE]
    (whatis,) = ask(f"leak-whatis -json {block['address']}")
    assert whatis["block"]["state"] == "free"
    assert whatis["list"] == "unsorted"
    assert "unsorted list" in whatis["why"]


def test_an_address_inside_of_a_block_leads_to_it(ask: Any) -> None:
    (blocks,) = ask(f"leak-blocks -json -list -size {USABLE} -limit 1")
    start = int(blocks["blocks"][0]["address"], 16)
    for offset in (0, 1, USABLE - 1):
        (whatis,) = ask(f"leak-whatis -json {start + offset:#x}")
        assert whatis["block"] == {
            "address": hex(start),
            "size": USABLE,
            "offset": offset,
            "state": "used",
        }
    (behind,) = ask(f"leak-whatis -json {start + USABLE:#x}")
    assert behind["block"]["address"] != hex(start)


def test_a_match_says_its_block_and_its_place_in_it(ask: Any) -> None:
    (find,) = ask('leak-find -json "leaked memory" -in heap -limit unlimited')
    blocks = [match["block"] for match in find["matches"]]
    assert [block["state"] for block in blocks] == ["used"] * (CALLS + 1)
    assert sorted(block["offset"] for block in blocks) == [0] * CALLS + [len("wrote: ")]
    for match, block in zip(find["matches"], blocks):
        assert int(block["address"], 16) + block["offset"] == int(match["address"], 16)


def test_only_free_memory_or_all_but_free_memory_can_be_searched(ask: Any) -> None:
    # The text that was written before free, behind the two links that free wrote.
    (anywhere, free, used) = ask(
        'leak-find -json "leaked memory"',
        'leak-find -json "leaked memory" -state free',
        'leak-find -json "leaked memory" -state used',
    )
    assert (anywhere["count"], free["count"], used["count"]) == (CALLS + 1, 0, CALLS + 1)
    (blocks,) = ask("leak-blocks -json -state free -list")
    (block,) = [block for block in blocks["blocks"] if block["size"] == USABLE]
    # The first link is a pointer to the list, in libc's data: in a free block it is free memory.
    (heap,) = ask(f"leak-decode -json -at {block['address']} -count 1")
    word = heap["words"][0]["value"]
    (free, used) = ask(
        f"leak-find -json -pointer {word} -state free",
        f"leak-find -json -pointer {word} -state used",
    )
    assert block["address"] in [match["address"] for match in free["matches"]]
    assert block["address"] not in [match["address"] for match in used["matches"]]


def test_words_at_an_address_in_a_heap_come_with_their_chunk(ask: Any) -> None:
    (blocks,) = ask(f"leak-blocks -json -list -size {USABLE} -limit 1")
    start = int(blocks["blocks"][0]["address"], 16)
    (decoded,) = ask(f"leak-decode -json -at {start:#x}")
    chunk = decoded["chunk"]
    assert (chunk["address"], chunk["size"]) == (hex(start - 16), USABLE + 8)
    assert (chunk["state"], chunk["block"]) == ("used", hex(start))
    assert int(chunk["next"]["address"], 16) == start - 16 + USABLE + 8


def test_the_parts_add_up_to_the_writable_bytes(ask: Any) -> None:
    (heap, regions) = ask("leak-heap -json", "leak-regions -in writable -json")
    total = heap["total"]
    parts = [total["in_use"]["bytes"], total["top"], total["overhead"], total["other"]]
    parts += [kept["bytes"] for kept in total["free"].values()]
    assert sum(parts) + heap["mmapped"]["bytes"] == regions["total"]["size"] == total["writable"]
    assert total["unwritable"] == 0
    assert all(check["holds"] for check in heap["checks"])
    assert {"tiling", "system-mem", "list-links", "mmapped"} <= {
        check["rule"] for check in heap["checks"]
    }


def test_the_last_lost_block_pins_the_tail(ask: Any) -> None:
    (heap, blocks) = ask("leak-heap -json", f"leak-blocks -json -list -size {USABLE} -limit 101")
    last = blocks["blocks"][-1]
    assert heap["trim"]["pinned_by"]["address"] == last["address"]
    # Whole pages of top, less the smallest chunk and a byte.
    # The program never wrote to what is behind its last block.
    assert heap["trim"]["bytes"] == 0
    assert heap["trim"]["returned"] == (heap["total"]["top"] - 32 - 1) // 4096 * 4096


def test_the_new_bytes_are_filled_with_lost_blocks(sample: Any) -> None:
    answer = shell("diff-region", sample.before, sample.after, "-json").json()
    (group, *_) = answer["blocks"]
    assert (group["size"], group["text"]) == (USABLE, "leaked memory")
    (content,) = [content for content in answer["contents"] if content["text"] == "leaked memory"]
    assert content["block_size"] == USABLE
    assert content["count"] == group["blocks"]


def test_gdbserver_shows_the_same_blocks_as_the_process(sample: Any) -> None:
    questions = ("leak-heap -json", "leak-blocks -json -list -limit unlimited")
    heap, blocks = gdb(*questions, pid=sample.live.pid).all_json()
    server = f"target remote | gdbserver --attach - {sample.live.pid}"
    remote_heap, remote_blocks = gdb(server, *questions, "detach", program=sample.path).all_json()
    assert remote_heap["target"]["kind"] == "remote"
    for key in ("arenas", "mmapped", "total", "trim", "damage"):
        assert remote_heap[key] == heap[key], key
    assert remote_blocks["blocks"] == blocks["blocks"]


def test_a_shell_holds_the_process_while_it_reads_the_heap(sample: Any) -> None:
    answer = shell("heap", str(sample.live.pid), "-json").json()
    assert [note for note in answer["notes"] if "stopped for" in note]
    assert all(check["holds"] for check in answer["checks"])


def test_a_running_process_names_blocks_only_when_it_is_held(sample: Any) -> None:
    running = shell("find", str(sample.live.pid), "leaked", "-limit", "1", "-json").json()
    held = shell("find", str(sample.live.pid), "leaked", "-limit", "1", "-stop", "-json").json()
    assert running["matches"][0]["block"] is None
    assert held["matches"][0]["block"]["size"] == USABLE


def test_a_list_of_regions_has_no_heap(sample: Any) -> None:
    answer = shell("blocks", sample.pmap_after, "-json")
    assert answer.status == 1
    assert "lists regions and holds no byte of them" in answer.error
