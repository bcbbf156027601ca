//! The lists of free blocks, and malloc's own tables.

use crate::builder::{Built, Chunk, PAGE};
use crate::figures::{Cache, Key};
use crate::image::index;
use gdb_leak::heap::block::State;

/// A list's index there, and the chunks that it leads to in order.
type List = (u64, Vec<Chunk>);

pub(crate) fn write(built: &mut Built) {
    if let Some(cache) = built.target.cache() {
        caches(built, cache);
    }
    for arena in 0..built.arenas.len() {
        state(built, arena);
        fast(built, arena);
        bins(built, arena);
    }
    params(built);
}

/// Chunks in a random order, by the number of the list that each is on.
fn lists(built: &mut Built, number: impl Fn(&Built, &Chunk) -> Option<u64>) -> Vec<List> {
    let mut chunks = built.chunks.clone();
    built.dice.shuffle(&mut chunks);
    let mut found: Vec<List> = Vec::new();
    for chunk in chunks {
        let Some(number) = number(built, &chunk) else { continue };
        match found.iter_mut().find(|(other, _)| *other == number) {
            Some((_, list)) => list.push(chunk),
            None => found.push((number, vec![chunk])),
        }
    }
    found
}

/// A link as it is stored at `place`: `PROTECT_PTR` (2.32 malloc/malloc.c:339).
fn link(built: &Built, place: u64, to: u64) -> u64 {
    if built.target.masked() { (place >> 12) ^ to } else { to }
}

fn caches(built: &mut Built, figures: Cache) {
    let target = built.target;
    let header = target.header();
    let random = built.dice.roll() | 0x1_0000_0101;
    if target.key() == Key::Random {
        // malloc/malloc.c, tcache_key: somewhere in libc's data.
        let libc = built.arenas[0].address / PAGE * PAGE;
        built.image.word(libc + 0x200, random);
    }
    for number in 0..built.caches.len() {
        let address = built.caches[number].address;
        let mut lists =
            lists(built, |_, chunk| chunk.cached.filter(|(cache, _)| *cache == number).map(|(_, list)| list));
        for chunk in built.mapped.clone() {
            if let Some((_, list)) = chunk.cached.filter(|(cache, _)| *cache == number) {
                // malloc/malloc.c, free (2.43): what counts is the size that the header says.
                let size = chunk.total - (chunk.start - chunk.base) - header;
                let chunk = Chunk { start: chunk.start, size, state: State::Tcache, arena: 0, cached: None };
                match lists.iter_mut().find(|(other, _)| *other == list) {
                    Some((_, chunks)) => chunks.push(chunk),
                    None => lists.push((list, vec![chunk])),
                }
            }
        }
        for list in 0..figures.lists {
            let mut chunks = lists.iter().find(|(other, _)| *other == list).cloned().unwrap_or_default().1;
            if list >= 64 {
                // 2.42 malloc/malloc.c, tcache_location_large: the smallest first.
                chunks.sort_by_key(|chunk| chunk.size);
            }
            let length = chunks.len() as u64;
            let count = if figures.down { figures.fill - length } else { length };
            built.image.put(address + list * figures.count, count, index(figures.count));
            let mut place = address + figures.entries + list * target.word();
            built.lists.push((place, chunks.iter().map(|chunk| chunk.start).collect()));
            for (number, chunk) in chunks.iter().enumerate() {
                let block = chunk.start + header;
                // The head of a list is stored as it is.
                let stored = if number == 0 { block } else { link(built, place, block) };
                built.image.word(place, stored);
                match target.key() {
                    Key::None => {}
                    Key::Address => built.image.word(block + target.word(), address),
                    Key::Random => built.image.word(block + target.word(), random),
                }
                place = block;
            }
            if length > 0 {
                let stored = link(built, place, 0);
                built.image.word(place, stored);
            }
        }
    }
}

/// `struct malloc_state`, without its lists.
fn state(built: &mut Built, arena: usize) {
    let figures = built.target.state();
    let word = built.target.word();
    let made = built.arenas[arena].clone();
    let address = made.address;
    let chunks = built.chunks.clone();
    let dice = &mut built.dice;
    let image = &mut built.image;
    let zeros = vec![0; index(figures.size / word)];
    image.words(address, &zeros);
    // malloc/malloc.c, malloc_init_state: only the main arena's memory may be in one piece.
    image.put(address + 4, if arena > 0 || made.scattered { 2 } else { 0 }, 4);
    image.word(address + figures.top, made.top);
    if dice.once_in(2) {
        image.word(address + figures.last_remainder, chunks[dice.index(chunks.len())].start);
    }
    for word in 0..4 {
        image.put(address + figures.binmap + word * 4, dice.roll() & 0xffff_ffff, 4);
    }
    // malloc/arena.c, _int_new_arena: behind the main one, before those that were there.
    let next = match arena {
        0 => built.arenas.last().unwrap().address,
        1 => built.arenas[0].address,
        _ => built.arenas[arena - 1].address,
    };
    image.word(address + figures.next, next);
    if let Some(place) = figures.attached {
        image.word(address + place, dice.below(4));
    }
    image.words(address + figures.system, &[made.system, made.system + PAGE * dice.below(3)]);
}

fn fast(built: &mut Built, arena: usize) {
    let target = built.target;
    let Some((place, count)) = target.state().fast else { return };
    let on_list = |built: &Built, chunk: &Chunk| {
        let here = chunk.arena == arena && chunk.state == State::Fast;
        here.then(|| built.target.fast_index(chunk.size))
    };
    for (list, chunks) in lists(built, on_list) {
        assert!(list < count);
        let mut place = built.arenas[arena].address + place + list * target.word();
        built.lists.push((place, chunks.iter().map(|chunk| chunk.start).collect()));
        for (number, chunk) in chunks.iter().enumerate() {
            let stored = if number == 0 { chunk.start } else { link(built, place, chunk.start) };
            built.image.word(place, stored);
            place = chunk.start + target.header();
        }
        let stored = link(built, place, 0);
        built.image.word(place, stored);
    }
}

fn bins(built: &mut Built, arena: usize) {
    let target = built.target;
    let (word, header) = (target.word(), target.header());
    let on_list = |built: &Built, chunk: &Chunk| {
        let index = || if chunk.state == State::Unsorted { 1 } else { built.target.bin_index(chunk.size) };
        (chunk.arena == arena && chunk.merged()).then(index)
    };
    let lists = lists(built, on_list);
    let bins = built.arenas[arena].address + target.state().bins;
    for list in 1..128 {
        let found = lists.iter().find(|(other, _)| *other == list);
        let mut chunks = found.cloned().unwrap_or_default().1;
        // bin_at: the head as if it were a chunk.
        let head = bins + (list - 1) * header - header;
        let large = list >= 64;
        if large {
            chunks.sort_by_key(|chunk| std::cmp::Reverse(chunk.size));
        }
        let ring: Vec<u64> = std::iter::once(head).chain(chunks.iter().map(|chunk| chunk.start)).collect();
        for (number, place) in ring.iter().enumerate() {
            let next = ring[(number + 1) % ring.len()];
            let before = ring[(number + ring.len() - 1) % ring.len()];
            built.image.words(place + header, &[next, before]);
        }
        if large {
            // fd_nextsize and bk_nextsize: the first of each size leads to the first of the next.
            let mut firsts = chunks.clone();
            firsts.dedup_by_key(|chunk| chunk.size);
            for chunk in &chunks {
                built.image.words(chunk.start + header + word * 2, &[0, 0]);
            }
            for (number, chunk) in firsts.iter().enumerate() {
                let next = firsts[(number + 1) % firsts.len()].start;
                let before = firsts[(number + firsts.len() - 1) % firsts.len()].start;
                built.image.words(chunk.start + header + word * 2, &[next, before]);
            }
        }
    }
}

/// `mp_`, in the same data as the main arena, before it or behind it.
fn params(built: &mut Built) {
    let target = built.target;
    let figures = target.params();
    let word = target.word();
    let main = built.arenas[0].address;
    let apart = built.dice.below(16) * word;
    let place =
        if built.dice.once_in(2) { main + target.state().size + apart } else { main - figures.size - apart };
    built.params = place;
    let mapped = built.mapped.len() as u64;
    let bytes: u64 = built.mapped.iter().map(|chunk| chunk.total).sum();
    // There may have been more, or some where there are none now.
    let (more, most) = match built.dice.below(3) {
        0 => (0, bytes),
        _ => (1 + built.dice.below(2), bytes + PAGE * (1 + built.dice.below(40))),
    };
    let image = &mut built.image;
    let zeros = vec![0; index(figures.size / word)];
    image.words(place, &zeros);
    // trim_threshold, top_pad, mmap_threshold: DEFAULT_TRIM_THRESHOLD, DEFAULT_TOP_PAD and
    // DEFAULT_MMAP_THRESHOLD_MIN are 128 KiB; arena_test: NARENAS_FROM_NCORES (1).
    image.words(place, &[0x20000, 0x20000, 0x20000, if word == 8 { 8 } else { 2 }, 0]);
    if target.minor >= 43 {
        // malloc_thp_mode_not_supported.
        image.put(place + word * 5, 3, 4);
    }
    for (number, value) in [(0, mapped), (1, 65536), (2, mapped + more), (3, 0)] {
        image.put(place + figures.n_mmaps + number * 4, value, 4);
    }
    if target.minor <= 14 {
        image.put(place + figures.n_mmaps + 16, PAGE, 4);
    }
    image.words(place + figures.mmapped_mem, &[bytes, most]);
    image.word(place + figures.sbrk_base, built.sbrk_base);
    if let Some((tcache, cache)) = figures.tcache.zip(target.cache()) {
        // tcache_bins, tcache_max_bytes, tcache_count, tcache_unsorted_limit. The bytes are the usable ones of
        // list 63; in 2.43 (malloc/malloc.c:1834) its chunk's and one more.
        let chunk = 63 * target.align() + target.smallest();
        let most = match target.minor {
            42.. if built.large => 4 << 20,
            43.. => chunk + 1,
            _ => chunk - word,
        };
        image.words(place + tcache, &[64, most, cache.fill, 0]);
    }
}
