//! Mappings without a file that are no memory of an arena: chunks of their own, control blocks of threads.

use crate::builder::{Built, MappedChunk, PAGE, up};
use crate::figures::Kind;
use crate::plan::Plan;
use gdb_leak::memory::RegionKind;
use gdb_leak::source::Thread;

impl Built {
    /// A chunk of its own at `base`; comes back with where its mapping ends.
    pub(crate) fn map_chunk(&mut self, plan: &Plan, number: usize, base: u64) -> u64 {
        let target = self.target;
        let mapped = plan.mapped[number];
        let header = target.header();
        // malloc/malloc.c, sysmalloc_mmap: `MALLOC_ALIGNMENT - CHUNK_HDR_SZ` before the chunk.
        let padding = target.align() - header;
        let usual = base + padding;
        let mut start = usual;
        if let Some(shift) = mapped.align {
            let to = 1 << shift;
            let block = usual + header;
            if block % to != 0 {
                start = up(block, to) - header;
                // 2.17 to 2.42 malloc/malloc.c, _int_memalign: less than MINSIZE before it is too little;
                // since 2.43 any is enough.
                if target.minor < 43 && start - usual < target.smallest() {
                    start += to;
                }
            }
        }
        let offset = start - base;
        let total = (mapped.pages * PAGE).max(up(offset + header * 4 + 1, PAGE));
        self.image.map(base, total, RegionKind::Anon, "");
        self.fill(base, base + total.min(PAGE));
        self.fill(base + total - 64, base + total);
        let new = target.minor >= 43;
        // Up to 2.42 (munmap_chunk): prev_size + size is the mapping; since 2.43 (mmap_size) two words less.
        let rest = if new { header } else { 0 };
        let write = |built: &mut Self, place: u64, previous: u64, size: u64| {
            built.image.words(place, &[previous, size | 2]);
        };
        if start != usual {
            let was = mapped.ghost.map_or(total, |pages| pages * PAGE);
            write(self, usual, padding, was - padding - rest);
        }
        write(self, start, offset, total - offset - rest);
        let list = target.cache_index(total - offset - rest, self.large).filter(|_| new);
        let cached = mapped.cached.and_then(|pick| self.cache_for(pick, list));
        self.mapped.push(MappedChunk { base, total, start, cached });
        base + total
    }

    /// The control block of a thread in the page at `start`, and the variable that leads to its cache.
    pub(crate) fn control_block(&mut self, number: usize, start: u64) {
        let target = self.target;
        let word = target.word();
        let mut control = start + 0xc00;
        let variable = if matches!(target.kind, Kind::X86 | Kind::S390x | Kind::I386) {
            // sysdeps/{x86_64,i386,s390}/nptl/tls.h, tcbhead_t: tcb, dtv, self.
            self.image.words(control, &[control, start + 16, control]);
            control - word * 9
        } else {
            control = start + 0x100;
            control + word * 6
        };
        self.image.word(variable, self.caches[number].address);
        if !target.control_block_is_own() && target.kind != Kind::PowerPc {
            let id = 100 + i32::try_from(number).unwrap();
            self.threads.push(Thread { id, thread_pointer: Some(control), ..Thread::default() });
        }
    }
}
