//! The memory of a process whose malloc is glibc's, made from a plan.
//!
//! Everything is placed first, then mapped, then written: [`crate::links`] adds the
//! lists and malloc's own tables. The figures are those of [`crate::figures`].

use crate::figures::{Kind, Target};
use crate::image::{Dice, Filling, Image};
use crate::links;
use crate::plan::{Got, Plan, Stretch, Want};
use gdb_leak::heap::block::State;
use gdb_leak::memory::RegionKind;
use gdb_leak::source::Thread;

pub(crate) const PAGE: u64 = 4096;
const LIBC: &str = "/usr/lib/libc.so.6";

/// A chunk of an arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) state: State,
    pub(crate) arena: usize,
    /// The cache that it lies in and the list there.
    pub(crate) cached: Option<(usize, u64)>,
}

impl Chunk {
    pub(crate) fn end(&self) -> u64 {
        self.start + self.size
    }

    /// Whether it is free in a way that the next chunk's header shows.
    pub(crate) fn merged(&self) -> bool {
        matches!(self.state, State::Unsorted | State::Small | State::Large)
    }
}

/// A chunk with a mapping of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MappedChunk {
    pub(crate) base: u64,
    pub(crate) total: u64,
    pub(crate) start: u64,
    pub(crate) cached: Option<(usize, u64)>,
}

/// How a stretch ends.
#[derive(Clone, Copy, Debug)]
enum Tail {
    Top {
        start: u64,
        size: u64,
    },
    /// Marks, where a top chunk of `size` bytes was at `start`.
    Marks {
        start: u64,
        size: u64,
    },
}

/// A stretch with its chunks placed.
#[derive(Clone, Debug)]
struct Laid {
    start: u64,
    end: u64,
    chunks: Vec<Chunk>,
    tail: Tail,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Arena {
    pub(crate) address: u64,
    pub(crate) top: u64,
    pub(crate) top_size: u64,
    pub(crate) system: u64,
    pub(crate) scattered: bool,
}

/// A cache: its number is that of its thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cache {
    pub(crate) address: u64,
    pub(crate) arena: usize,
}

/// A process, and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    pub(crate) target: Target,
    pub(crate) image: Image,
    pub(crate) dice: Dice,
    /// The chunks of all arenas, by address; the top chunks are not among them.
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) mapped: Vec<MappedChunk>,
    pub(crate) arenas: Vec<Arena>,
    pub(crate) caches: Vec<Cache>,
    pub(crate) sbrk_base: u64,
    pub(crate) params: u64,
    /// The chunks on each list of a cache and each fastbin, in order, behind the place of its head.
    pub(crate) lists: Vec<(u64, Vec<u64>)>,
    /// What is told of threads beside memory.
    pub(crate) threads: Vec<Thread>,
    /// How many blocks lists of caches have so far.
    counts: Vec<Vec<u64>>,
    pub(crate) large: bool,
    lookalikes: bool,
    laid: Vec<Laid>,
}

pub(crate) fn up(number: u64, to: u64) -> u64 {
    number.next_multiple_of(to)
}

/// Makes the memory of a process.
pub(crate) fn build(plan: &Plan) -> Built {
    let target = plan.target;
    let lists = target.cache().map_or(0, |cache| cache.lists);
    let caches = if lists > 0 { plan.caches.len() } else { 0 };
    let counts = vec![vec![0; usize::try_from(lists).unwrap()]; caches];
    let mut built = Built {
        target,
        image: Image::new(target.format()),
        dice: Dice(plan.seed),
        chunks: Vec::new(),
        mapped: Vec::new(),
        arenas: vec![Arena::default(); plan.arenas.len() + 1],
        caches: vec![Cache { address: 0, arena: 0 }; caches],
        sbrk_base: 0,
        params: 0,
        lists: Vec::new(),
        threads: Vec::new(),
        counts,
        large: plan.large,
        lookalikes: plan.lookalikes,
        laid: Vec::new(),
    };
    for (cache, arena) in built.caches.iter_mut().zip(&plan.caches) {
        cache.arena = *arena;
    }
    let wide = target.word() == 8;
    let [program, brk, arenas, anonymous, libc] = if wide {
        [0x5555_5556_0000, 0x5555_5557_9000, 0x7fff_d000_0000, 0x7fff_f5c0_0000, 0x7fff_f7f9_a000]
    } else {
        [0x5655_7000, 0x5655_9000, 0xf500_0000, 0xf6a0_0000, 0xf7f9_a000]
    };
    built.image.map(program, PAGE * 2, RegionKind::Data, "/usr/bin/program");
    // What other modules would have between them is left out.
    built.image.map(libc, PAGE * 3, RegionKind::Data, LIBC);
    built.fill_other(program, program + PAGE * 2);
    built.fill_other(libc, libc + PAGE * 3);
    built.arenas[0].address = libc + 0x400 + built.dice.below(0x40) * 0x20;
    built.further_arenas(plan, arenas);
    built.main_arena(plan, brk, anonymous);
    for laid in std::mem::take(&mut built.laid) {
        built.write(&laid);
        built.chunks.extend(&laid.chunks);
    }
    built.chunks.sort_by_key(|chunk| chunk.start);
    links::write(&mut built);
    built
}

impl Built {
    /// Fills a block with whatever programs write.
    pub(crate) fn fill(&mut self, start: u64, end: u64) {
        self.fill_with(start, end, if self.lookalikes { 5 } else { 4 });
    }

    /// Fills what is no block: without numbers that look like sizes of chunks, since where
    /// chunks begin again behind memory of others is told by their sizes alone.
    fn fill_other(&mut self, start: u64, end: u64) {
        self.fill_with(start, end, 4);
    }

    fn fill_with(&mut self, start: u64, end: u64, kinds: u64) {
        let filling = match self.dice.below(kinds) {
            0 => Filling::Zeros,
            1 => Filling::Text,
            4 => Filling::Small,
            _ => Filling::Noise,
        };
        let word = self.target.word();
        let (start, end) = (up(start, word), end - end % word);
        if start < end {
            self.image.fill(start, end, filling, &mut self.dice);
        }
    }

    /// What a block becomes, and where in a cache it lies.
    fn settle(&mut self, want: Want, size: u64, behind_free: bool) -> (State, Option<(usize, u64)>) {
        let small = (64 - u64::from(self.target.align() > self.target.header())) * self.target.align();
        let state = match want {
            Want::Cached(pick) => {
                let cached = self.cache_for(pick, self.target.cache_index(size, self.large));
                return (if cached.is_some() { State::Tcache } else { State::Used }, cached);
            }
            Want::Fast if size <= self.target.most_fast() => State::Fast,
            Want::Unsorted if !behind_free => State::Unsorted,
            Want::Binned if !behind_free && size < small => State::Small,
            Want::Binned if !behind_free => State::Large,
            _ => State::Used,
        };
        (state, None)
    }

    pub(crate) fn cache_for(&mut self, pick: u8, list: Option<u64>) -> Option<(usize, u64)> {
        let cache = usize::from(pick).checked_rem(self.caches.len())?;
        let fill = self.target.cache()?.fill;
        let list = list?;
        let count = &mut self.counts[cache][usize::try_from(list).unwrap()];
        let room = *count < fill;
        *count += u64::from(room);
        room.then_some((cache, list))
    }

    /// Places the chunks of a stretch from `first` on, and its end.
    fn lay(&mut self, stretch: &Stretch, arena: usize, start: u64, first: u64, last: bool) -> Laid {
        let target = self.target;
        let (align, smallest) = (target.align(), target.smallest());
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut at = first;
        for number in 0..self.caches.len() {
            if self.caches[number].arena == arena && self.caches[number].address == 0 {
                self.caches[number].address = at + target.header();
                let size = target.chunk_for(target.cache().unwrap().size);
                chunks.push(Chunk { start: at, size, state: State::Allocator, arena, cached: None });
                at += size;
                if target.kind == Kind::PowerPc {
                    // Its static variables lie where nothing tells: the cache must speak for itself.
                    let cached = self.cache_for(u8::try_from(number).unwrap(), Some(0));
                    chunks.push(Chunk { start: at, size: smallest, state: State::Tcache, arena, cached });
                    at += smallest;
                }
            }
        }
        for block in &stretch.blocks {
            let size = smallest + block.steps * align;
            let (state, cached) = self.settle(block.want, size, chunks.last().is_some_and(Chunk::merged));
            chunks.push(Chunk { start: at, size, state, arena, cached });
            at += size;
        }
        // The end is a page's; a used block keeps the top chunk as small as planned.
        let shortest = smallest + (align - at % align) % align;
        let (mut filler, size) = match stretch.top {
            None => (0, up(at + shortest, PAGE) - at),
            Some(steps) => {
                let size = shortest + steps * align;
                let filler = up(at + size, PAGE) - at - size;
                (if (1..smallest).contains(&filler) { filler + PAGE } else { filler }, size)
            }
        };
        // malloc/malloc.c, sysmalloc: what is asked of `brk` is a page at least.
        if arena == 0 && at + filler + size - start < PAGE {
            filler += PAGE;
        }
        if filler > 0 {
            chunks.push(Chunk { start: at, size: filler, state: State::Used, arena, cached: None });
            at += filler;
        }
        let behind_free = chunks.last().is_some_and(Chunk::merged);
        let end = at + size;
        if last {
            // Free chunks before top are merged with it.
            if let Some(chunk) = chunks.last_mut().filter(|_| behind_free) {
                chunk.state = State::Used;
            }
            return Laid { start, end, chunks, tail: Tail::Top { start: at, size } };
        }
        let tail = Tail::Marks { start: at, size };
        // malloc/malloc.c, sysmalloc: (old_size - MINSIZE) & ~MALLOC_ALIGN_MASK, and
        // (old_size - 4 * SIZE_SZ) & ~MALLOC_ALIGN_MASK in the main arena, which is as much.
        let kept = (size - smallest) & !(align - 1);
        if kept >= smallest {
            let (state, cached) = self.settle(stretch.rest, kept, behind_free);
            chunks.push(Chunk { start: at, size: kept, state, arena, cached });
        }
        Laid { start, end, chunks, tail }
    }

    fn first_chunk(&self, address: u64) -> u64 {
        up(address + self.target.header(), self.target.align()) - self.target.header()
    }

    /// Arenas of further threads: heaps at multiples of `HEAP_MAX_SIZE` (malloc/arena.c, `new_heap`).
    fn further_arenas(&mut self, plan: &Plan, from: u64) {
        let target = self.target;
        let count = plan.arenas.iter().map(Vec::len).sum::<usize>() as u64;
        let mut places: Vec<u64> = (0..count).map(|number| from + number * target.heap_reach()).collect();
        self.dice.shuffle(&mut places);
        for (number, heaps) in plan.arenas.iter().enumerate() {
            let number = number + 1;
            let mut before = 0;
            for (position, stretch) in heaps.iter().enumerate() {
                let heap = places.pop().unwrap();
                let mut behind = heap + target.heap_info();
                if position == 0 {
                    self.arenas[number].address = behind;
                    behind += target.state().size;
                }
                let first = self.first_chunk(behind);
                let laid = self.lay(stretch, number, heap, first, position + 1 == heaps.len());
                let size = laid.end - heap;
                let state = self.arenas[number].address;
                // Heaps shrink, and what they leave stays writable.
                let writable = size + PAGE * self.dice.below(3);
                self.image.map(heap, writable, RegionKind::Arena, "");
                self.fill_other(laid.end, heap + writable);
                let mut info = vec![state, before, size, writable];
                info.extend((target.minor >= 35).then_some(PAGE));
                self.image.words(heap, &info);
                self.arenas[number].system += size;
                self.laid.push(laid);
                before = heap;
            }
        }
    }

    /// The main arena's stretches; beside those that `mmap` gave, everything else without a file.
    fn main_arena(&mut self, plan: &Plan, brk: u64, anonymous: u64) {
        enum Thing {
            Stretch(usize),
            Mapped(usize),
            Control(usize),
            Noise,
        }
        let mut at = brk;
        for (number, stretch) in plan.main.iter().enumerate() {
            let Got::Brk(gap) = stretch.got else {
                self.arenas[0].scattered = true;
                continue;
            };
            // malloc/malloc.c, sysmalloc: with one piece of memory, what somebody else took counts
            // as its own; with more the break stays at a page's end.
            let scattered = self.arenas[0].scattered;
            let gap = if scattered || number == 0 { gap } else { gap.max(1) };
            let gap = if scattered { up(gap, PAGE) } else { gap };
            let start = at + gap;
            if number == 0 {
                self.sbrk_base = start;
            }
            let first = self.first_chunk(start);
            let laid = self.lay(stretch, 0, start, first, number + 1 == plan.main.len());
            self.arenas[0].system += laid.end - if scattered || number == 0 { start } else { at };
            at = laid.end;
            self.laid.push(laid);
        }
        if at > brk {
            self.image.map(brk, at - brk, RegionKind::Heap, "[heap]");
            self.fill_other(brk, at);
        }
        let mut things: Vec<Thing> = (0..plan.main.len())
            .filter(|number| plan.main[*number].got == Got::Mmap)
            .map(Thing::Stretch)
            .chain((0..plan.mapped.len()).map(Thing::Mapped))
            .chain((0..self.caches.len()).map(Thing::Control))
            .chain((0..2).map(|_| Thing::Noise))
            .collect();
        self.dice.shuffle(&mut things);
        let mut at = anonymous;
        let mut controls = Vec::new();
        for thing in things {
            if self.dice.once_in(3) {
                at += PAGE * (1 + self.dice.below(3));
            }
            let start = at;
            match thing {
                Thing::Stretch(number) => {
                    let first = self.first_chunk(start);
                    let last = number + 1 == plan.main.len();
                    let laid = self.lay(&plan.main[number], 0, start, first, last);
                    at = laid.end;
                    if number == 0 {
                        self.sbrk_base = start;
                    }
                    self.arenas[0].system += at - start;
                    self.image.map(start, at - start, RegionKind::Anon, "");
                    self.laid.push(laid);
                }
                Thing::Mapped(number) => at = self.map_chunk(plan, number, start),
                Thing::Control(number) => {
                    at += PAGE;
                    let kind = if self.dice.once_in(2) { RegionKind::Anon } else { RegionKind::ThreadStack };
                    self.image.map(start, PAGE, kind, "");
                    controls.push((number, start));
                }
                Thing::Noise => {
                    at += PAGE * (1 + self.dice.below(2));
                    self.image.map(start, at - start, RegionKind::Anon, "");
                    self.fill_other(start, at);
                }
            }
        }
        // Only now all caches have their places.
        for (number, start) in controls {
            self.control_block(number, start);
        }
    }

    /// Writes the chunks of a stretch: headers, contents, and its end.
    fn write(&mut self, laid: &Laid) {
        let target = self.target;
        let (word, header) = (target.word(), target.header());
        let mut flag = 1;
        for chunk in &laid.chunks {
            // Free chunks of further arenas have NON_MAIN_ARENA or not, as they came about.
            let other = chunk.arena > 0 && (!chunk.merged() || self.dice.once_in(2));
            self.image.word(chunk.start + word, chunk.size | flag | if other { 4 } else { 0 });
            flag = u64::from(!chunk.merged());
            if chunk.merged() {
                self.fill(chunk.start + header, chunk.end());
                self.image.word(chunk.end(), chunk.size);
            } else if chunk.state == State::Allocator {
                self.image.fill(chunk.start + header, chunk.end() + word, Filling::Zeros, &mut self.dice);
            } else {
                self.fill(chunk.start + header, chunk.end() + word);
            }
        }
        match laid.tail {
            Tail::Top { start, size } => {
                self.image.word(start + word, size | 1);
                let arena = laid.chunks.first().map_or(0, |chunk| chunk.arena);
                (self.arenas[arena].top, self.arenas[arena].top_size) = (start, size);
            }
            Tail::Marks { start, size } => {
                let smallest = target.smallest();
                let kept = (size - smallest) & !(target.align() - 1);
                let marks = start + kept;
                let main = laid.chunks.first().is_none_or(|chunk| chunk.arena == 0);
                if main {
                    // malloc/malloc.c, sysmalloc: set_head (old_top, old_size | PREV_INUSE), then
                    // two marks, which overwrite it where nothing was kept.
                    if (1..smallest).contains(&kept) {
                        self.image.word(start + word, kept | flag);
                        flag = 1;
                    }
                    self.image.word(marks + word, header | flag);
                    self.image.word(marks + header + word, header | 1);
                } else if kept >= smallest {
                    self.image.word(marks + word, header | flag);
                    self.image.words(marks + header, &[header, 1]);
                } else {
                    // malloc/malloc.c, sysmalloc: set_head (old_top, (old_size + CHUNK_HDR_SZ) | PREV_INUSE).
                    self.image.word(start + word, (kept + header) | flag);
                    self.image.words(start + kept + header, &[kept + header, 1]);
                }
            }
        }
        debug_assert!(laid.start < laid.end);
    }
}
