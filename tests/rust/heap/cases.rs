//! What chance meets seldom, each on its own.

use crate::builder::{Chunk, build};
use crate::damage::{Harm, others_are_right, overwrite};
use crate::figures::{Kind, Target};
use crate::plan::{Block, Got, Mapped, Plan, Stretch, Want};
use crate::walk::{built_is_walked_back, is_walked_back, names};
use gdb_leak::heap::block::State;

fn blocks(wants: &[Want]) -> Vec<Block> {
    wants.iter().map(|want| Block { steps: 0, want: *want }).collect()
}

fn stretch(got: Got, top: u64, wants: &[Want]) -> Stretch {
    Stretch { got, blocks: blocks(wants), top: Some(top), rest: Want::Used }
}

/// A main arena with one block, and nothing else.
pub(crate) fn plain(kind: Kind, minor: u32) -> Plan {
    Plan {
        target: Target { kind, minor },
        main: vec![stretch(Got::Brk(0), 5, &[Want::Used])],
        arenas: Vec::new(),
        caches: vec![0],
        large: false,
        mapped: Vec::new(),
        lookalikes: false,
        seed: 1,
    }
}

#[track_caller]
fn holds(plan: &Plan) {
    let target = plan.target;
    is_walked_back(plan).unwrap_or_else(|error| panic!("{target:?}: {error}"));
}

// The last links of fastbins, which are empty as a rule, and `top` behind them look like counts of
// mapped chunks and `sbrk_base`; the first links, and flags, like thresholds.
#[test]
fn the_top_chunk_in_an_arena_is_not_taken_for_the_start_of_its_memory() {
    let mut plan = plain(Kind::X86, 30);
    plan.main.push(stretch(Got::Mmap, 0, &[Want::Fast]));
    holds(&plan);
    let mut plan = plain(Kind::X86, 17);
    plan.main[0].blocks = [0, 2].map(|steps| Block { steps, want: Want::Fast }).to_vec();
    holds(&plan);
}

#[test]
fn what_lies_before_the_parameters_does_not_make_them_those_of_2_35() {
    for (kind, minor) in [(Kind::X86, 30), (Kind::S390x, 30), (Kind::I386, 30)] {
        let mut built = build(&plain(kind, minor));
        let figures = built.target.params();
        // One chunk was mapped, and is no more.
        built.image.put(built.params + figures.n_mmaps + 8, 1, 4);
        built.image.words(built.params + figures.mmapped_mem, &[0, 0x21000]);
        built.image.words(built.params - built.target.word() * 3, &[1, 1, 1]);
        built_is_walked_back(&built).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    }
}

// In a static program its own data is near malloc's: a table of blocks, whose first is in the same memory as top.
#[test]
fn a_table_of_blocks_is_not_taken_for_the_parameters_of_a_static_program() {
    // At low addresses one may be a size, too; and malloc's own numbers do not agree while a chunk is counted.
    for (minor, address) in [(31, 0), (36, 0), (31, 0x4c_5830), (36, 0x4c_5830), (43, 0x4c_5830)] {
        let mut plan = plain(Kind::X86, minor);
        plan.main.push(stretch(Got::Mmap, 3, &[Want::Used, Want::Used]));
        let mut built = build(&plan);
        if address > 0 {
            let numbers = built.params + built.target.params().n_mmaps;
            built.image.put(numbers, 1, 4);
            built.image.put(numbers + 8, 0, 4);
        }
        let first = built.chunks.iter().map(|chunk| chunk.start).filter(|start| *start < built.arenas[0].top);
        let first = first.max().unwrap() + 16;
        let table = built.arenas[0].address / crate::builder::PAGE * crate::builder::PAGE + 0x2100;
        // trim_threshold, top_pad, mmap_threshold, arena_test, arena_max; the counts, their bytes; sbrk_base.
        built.image.words(table, &[24, 40, 72, 0, 0, 0, 0, 0, 0, first, 24, address, 40, 0]);
        if address == 0 {
            built_is_walked_back(&built).unwrap_or_else(|error| panic!("{minor}: {error}"));
        }
        let heap = built.open().heap.unwrap();
        assert_eq!(heap.damages(), 0, "{:x?}", heap.damage());
        assert!(built.chunks.iter().all(|chunk| heap.blocks().unit_from(chunk.start).is_some()));
    }
}

// 2.17 to 2.43 malloc/malloc.c, sysmalloc: of a top chunk of 48 bytes 16 are left for itself, which are no
// chunk: `set_head (old_top, old_size | PREV_INUSE)` makes a third mark.
#[test]
fn three_marks_end_a_stretch_as_two_do() {
    for top in [0, 1, 2] {
        let mut plan = plain(Kind::X86, 36);
        plan.main.push(stretch(Got::Mmap, top, &[Want::Used]));
        plan.main.push(stretch(Got::Mmap, 3, &[Want::Used]));
        holds(&plan);
        plan.arenas =
            vec![vec![stretch(Got::Mmap, top, &[Want::Used]), stretch(Got::Mmap, 3, &[Want::Used])]];
        holds(&plan);
    }
}

#[test]
fn behind_a_stretch_that_mmap_gave_other_mappings_are_not_taken_for_foreign_memory() {
    for seed in 0..20 {
        let mut plan = plain(Kind::X86, 36);
        plan.main = (0..3).map(|_| stretch(Got::Mmap, 3, &[Want::Used])).collect();
        plan.mapped = vec![Mapped { pages: 1, align: None, ghost: None, cached: None }; 3];
        plan.seed = seed;
        holds(&plan);
    }
}

// 2.17 to 2.43 malloc/malloc.c, sysmalloc: `if (contiguous (av))`, then only "Count foreign sbrk as system_mem".
#[test]
fn foreign_memory_of_brk_is_not_the_arenas_once_its_memory_is_in_pieces() {
    let mut plan = plain(Kind::X86, 36);
    plan.main.push(stretch(Got::Mmap, 3, &[Want::Used]));
    plan.main.push(stretch(Got::Brk(0x3000), 3, &[Want::Used]));
    holds(&plan);
}

#[test]
fn sizes_of_memory_that_starts_at_an_odd_place_are_sizes() {
    for minor in [17, 23, 43] {
        let mut plan = plain(Kind::X86, minor);
        plan.main[0].got = Got::Brk(0x123);
        holds(&plan);
    }
}

// malloc/arena.c, heap_info: with 16 bytes' alignment four words are padded to six, and five words too.
#[test]
fn heads_of_heaps_on_i386_tell_no_version() {
    for minor in [26, 32, 34, 35] {
        let mut plan = plain(Kind::I386, minor);
        plan.arenas = vec![vec![stretch(Got::Mmap, 3, &[Want::Used])]];
        holds(&plan);
    }
}

// The states of i386 in 2.26 and of arm since 2.27, and of both in 2.43, have their parts at the same places.
#[test]
fn chunks_of_arm_are_multiples_of_eight_bytes_in_every_version() {
    for minor in [17, 23, 26, 27, 30, 42, 43] {
        let mut plan = plain(Kind::Arm, minor);
        plan.main[0].blocks.extend([1, 2, 3].map(|steps| Block { steps, want: Want::Used }));
        holds(&plan);
    }
}

// 2.42 malloc/malloc.c:299 and 2.43 :299: `MAX_TCACHE_SMALL_SIZE` became a chunk's size. 1020 and 1024 have
// another number of leading zeros.
#[test]
fn large_lists_of_caches_on_i386_are_counted_from_another_size_in_2_43() {
    for minor in [42, 43] {
        let mut plan = plain(Kind::I386, minor);
        plan.large = true;
        let sizes = [64, 70, 130, 300, 1400].map(|steps| Block { steps, want: Want::Cached(0) });
        plan.main[0].blocks.extend(sizes);
        holds(&plan);
    }
}

// Up to 2.28 the second word of a block in a cache is what the program left there.
#[test]
fn a_word_that_blocks_of_caches_without_keys_share_is_no_key() {
    let mut plan = plain(Kind::X86, 27);
    plan.main[0].blocks = blocks(&[Want::Used, Want::Cached(0), Want::Used]);
    plan.main[0].blocks.extend([1, 2, 3].map(|steps| Block { steps, want: Want::Cached(0) }));
    let mut built = build(&plan);
    for chunk in built.chunks.clone().iter().filter(|chunk| chunk.state != State::Allocator) {
        built.image.put_bytes(chunk.start + 24, b"leaked m");
    }
    let first = built.lists.iter().find(|(_, list)| !list.is_empty()).unwrap().0;
    built.image.word(first, 0x10);
    let heap = built.open().heap.unwrap();
    let used = |state: State| heap.blocks().units().filter(|unit| unit.state == state).count();
    // The two, the block behind the broken head, and what fills the page.
    assert_eq!((used(State::Tcache), used(State::Used)), (3, 4));
}

// Of two ways to read, the one that leads farther may do so by one size that is none.
#[test]
fn counts_of_a_cache_on_arm_are_not_taken_for_a_chunk() {
    let mut plan = plain(Kind::Arm, 30);
    plan.main[0].blocks = vec![Block { steps: 3, want: Want::Cached(0) }];
    let large = Block { steps: 1400, want: Want::Used };
    plan.main.push(Stretch { got: Got::Brk(4096), blocks: vec![large; 10], top: Some(3), rest: Want::Used });
    holds(&plan);
}

#[test]
fn each_version_is_named() {
    for minor in crate::figures::ERAS {
        let mut plan = plain(Kind::X86, minor);
        plan.main[0].blocks.extend(blocks(&[Want::Cached(0), Want::Cached(0), Want::Fast]));
        plan.arenas = vec![vec![stretch(Got::Mmap, 3, &[Want::Used])]];
        let answer = build(&plan).open();
        let version = answer.heap.unwrap().version();
        assert!(names(&version, minor), "2.{minor} is called {version}");
        // And no version is whose memory differs.
        let (from, to) = match minor {
            17 => (17, 22),
            23 => (23, 26),
            26 => (26, 26),
            27 | 29 => (27, 29),
            30 => (30, 31),
            32 | 34 => (32, 34),
            35 => (35, 41),
            42 => (42, 42),
            _ => (43, 99),
        };
        for other in (17..=43).filter(|other| !(from..=to).contains(other)) {
            assert!(!names(&version, other), "2.{minor} is called {version}");
        }
    }
}

// malloc_consolidate merges both into the top chunk, and only that of the main arena is trimmed.
#[test]
fn what_borders_on_the_top_chunk_of_a_thread_is_not_given_back() {
    let mut plan = plain(Kind::X86, 36);
    let wants = [(365, Want::Unsorted), (4, Want::Fast)];
    let blocks = wants.map(|(steps, want)| Block { steps, want }).to_vec();
    plan.arenas = vec![vec![Stretch { got: Got::Mmap, blocks, top: None, rest: Want::Used }]];
    holds(&plan);
}

#[test]
fn a_main_arena_whose_chunks_fit_both_alignments_does_not_tell_that_of_the_others() {
    for steps in 0..4 {
        let mut plan = plain(Kind::Arm, 27);
        // The first chunk is at the same place for both: 8 bytes behind a multiple of 16.
        plan.main[0].got = Got::Brk(737);
        plan.main[0].blocks[0].steps = steps;
        let uneven = vec![Block { steps: 1, want: Want::Used }, Block { steps: 0, want: Want::Used }];
        plan.arenas = vec![vec![Stretch { got: Got::Mmap, blocks: uneven, top: Some(1), rest: Want::Used }]];
        plan.caches = vec![1];
        for top in 0..4 {
            plan.main[0].top = Some(top);
            holds(&plan);
        }
    }
}

/// What is left when a chunk of `plan` is harmed, beside it and its neighbours.
#[track_caller]
fn survives(plan: &Plan, harm: Harm, pick: impl Fn(&[Chunk]) -> bool) {
    let mut built = build(plan);
    let chunks = built.chunks.clone();
    let hit = chunks.windows(2).find(|pair| pick(pair)).unwrap()[1];
    overwrite(&mut built, harm, &hit);
    let answer = built.open();
    let near = |chunk: &&Chunk| chunk.start == hit.start || chunk.end() == hit.start;
    let near = chunks.iter().filter(near).map(|chunk| chunk.start).collect();
    let target = plan.target;
    others_are_right(&built, answer.heap.as_deref().unwrap(), &near)
        .unwrap_or_else(|error| panic!("{target:?}: {error}"));
}

#[test]
fn one_block_that_shows_its_key_tells_those_behind_it() {
    for minor in [29, 31, 32, 33, 34, 36, 41, 42, 43] {
        for seed in 0..8 {
            let mut plan = plain(Kind::X86, minor);
            plan.main[0].blocks = blocks(&[Want::Used, Want::Cached(0), Want::Used, Want::Cached(0)]);
            plan.seed = seed;
            // Whichever of both is the first of the list.
            survives(&plan, Harm::Loop, |pair| pair[1].state == State::Tcache);
        }
    }
}

#[test]
fn what_overruns_a_cache_costs_no_list_of_it_but_the_last() {
    for minor in [30, 36, 42, 43] {
        let mut plan = plain(Kind::X86, minor);
        plan.main[0].blocks = blocks(&[Want::Used; 40]);
        plan.main[0].blocks[0] = Block { steps: 1, want: Want::Cached(0) };
        plan.main[0].blocks[6].want = Want::Cached(0);
        survives(&plan, Harm::Header, |pair| pair[0].state == State::Allocator);
    }
}

// 2.17 to 2.43 malloc/malloc.c, munmap_chunk: `n_mmaps` is one less before the memory is given back.
#[test]
fn mapped_chunks_one_off_may_be_those_of_a_call_and_more_are_not() {
    for gone in 1..4 {
        let mut plan = plain(Kind::X86, 36);
        plan.mapped = vec![Mapped { pages: 1, align: None, ghost: None, cached: None }; 3];
        let mut built = build(&plan);
        for chunk in built.mapped.iter().take(gone) {
            built.image.word(chunk.start + 8, 0);
        }
        let heap = built.open().heap.unwrap();
        let checks = heap.checks();
        let check = checks.iter().find(|check| check.rule == "mmapped").unwrap();
        assert!(!check.holds);
        assert_eq!(check.detail.contains("one off"), gone == 1, "{}", check.detail);
    }
}
