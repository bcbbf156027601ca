//! A recording as bytes, laid out anew from `docs/recording.md`: nothing here is the reader's.

use gdb_leak::memory::RegionKind;
use gdb_leak::pass::Job;
use gdb_leak::recording::{Found, Recording};
use gdb_leak::source::captured::Captured;

/// Where the header stands.
pub(crate) const BASE: u64 = 0x7f00_0000_0000;

/// Where the recorder has `realloc`.
pub(crate) const REALLOC: u64 = 0x7f11_0000_3000;

/// Where the areas start, in pages behind each other.
const AREAS: [usize; 5] = [0x2000, 0x8000, 0xc000, 0xe000, 0x1_0000];
const ENTRIES: [usize; 5] = [32, 16, 64, 1, 16384];

/// The bytes of all of it.
const RESERVED: usize = 0x2_0000;

#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) base: u64,
    pub(crate) sample: u64,
    pub(crate) started: u64,
    pub(crate) shift: u32,
    pub(crate) generation: u32,
    /// `dropped`, `missed`, `stale`, `cut`.
    pub(crate) counts: [u64; 4],
    pub(crate) state: u64,
    /// Address, size, stack, thread, time; an address of `!0` is a free entry.
    pub(crate) blocks: Vec<(u64, u64, u32, u32, u32)>,
    /// `pc` and parent; the first is node 0.
    pub(crate) nodes: Vec<(u64, u32)>,
    pub(crate) modules: Vec<Loaded>,
    /// Number and time of the last call.
    pub(crate) threads: Vec<(u32, u32)>,
}

#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) bias: u64,
    pub(crate) path: &'static str,
    pub(crate) build_id: Vec<u8>,
    pub(crate) since: u32,
    pub(crate) until: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            base: BASE,
            sample: 0,
            started: 1_000_000_000,
            shift: 20,
            generation: 0,
            counts: [0; 4],
            state: 1,
            blocks: Vec::new(),
            nodes: vec![(0, 0)],
            modules: Vec::new(),
            threads: vec![(77, 0)],
        }
    }
}

impl Plan {
    /// Adds a stack, innermost frame first, seen in a generation; comes back with its number.
    pub(crate) fn stack(&mut self, frames: &[u64], generation: u64) -> u32 {
        let mut parent = self.node(generation, 0);
        for frame in frames.iter().rev() {
            parent = self.node(*frame, parent);
        }
        parent
    }

    fn node(&mut self, pc: u64, parent: u32) -> u32 {
        self.nodes.push((pc, parent));
        u32::try_from(self.nodes.len() - 1).unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; RESERVED];
        let mut names: Vec<u8> = Vec::new();
        put(&mut bytes, 0, b"gdb-leak record\0");
        put(&mut bytes, 16, &1_u32.to_le_bytes());
        put(&mut bytes, 20, &4096_u32.to_le_bytes());
        put(&mut bytes, 24, &self.base.to_le_bytes());
        put(&mut bytes, 32, &(RESERVED as u64).to_le_bytes());
        put(&mut bytes, 40, &4711_u32.to_le_bytes());
        put(&mut bytes, 44, &64_u32.to_le_bytes());
        put(&mut bytes, 48, &self.sample.to_le_bytes());
        put(&mut bytes, 56, &self.started.to_le_bytes());
        put(&mut bytes, 72, &self.shift.to_le_bytes());
        put(&mut bytes, 76, &self.generation.to_le_bytes());
        for (number, count) in self.counts.iter().enumerate() {
            put(&mut bytes, 80 + 8 * number, &count.to_le_bytes());
        }
        put(&mut bytes, 112, &self.state.to_le_bytes());
        // The third of its functions.
        put(&mut bytes, 288 + 2 * 8, &REALLOC.to_le_bytes());
        for (number, (address, size, stack, thread, time)) in self.blocks.iter().enumerate() {
            let at = AREAS[0] + 32 * number;
            put(&mut bytes, at, &(!address).to_le_bytes());
            put(&mut bytes, at + 8, &size.to_le_bytes());
            put(&mut bytes, at + 16, &stack.to_le_bytes());
            put(&mut bytes, at + 20, &thread.to_le_bytes());
            put(&mut bytes, at + 24, &time.to_le_bytes());
            put(&mut bytes, at + 28, &[0xee; 4]);
        }
        for (number, (pc, parent)) in self.nodes.iter().enumerate() {
            let at = AREAS[1] + 16 * number;
            put(&mut bytes, at, &pc.to_le_bytes());
            put(&mut bytes, at + 8, &parent.to_le_bytes());
            put(&mut bytes, at + 12, &[0xdd; 4]);
        }
        for (number, module) in self.modules.iter().enumerate() {
            let at = AREAS[2] + 64 * number;
            put(&mut bytes, at, &module.start.to_le_bytes());
            put(&mut bytes, at + 8, &module.end.to_le_bytes());
            put(&mut bytes, at + 16, &module.bias.to_le_bytes());
            put(&mut bytes, at + 24, &u32::try_from(names.len()).unwrap().to_le_bytes());
            put(&mut bytes, at + 28, &u32::try_from(module.path.len()).unwrap().to_le_bytes());
            put(&mut bytes, at + 32, &module.build_id);
            put(&mut bytes, at + 52, &u32::try_from(module.build_id.len()).unwrap().to_le_bytes());
            put(&mut bytes, at + 56, &module.since.to_le_bytes());
            put(&mut bytes, at + 60, &module.until.to_le_bytes());
            names.extend(module.path.as_bytes());
        }
        put(&mut bytes, AREAS[3], &names);
        for (number, (thread, time)) in self.threads.iter().enumerate() {
            put(&mut bytes, AREAS[4] + 16384 * number, &thread.to_le_bytes());
            put(&mut bytes, AREAS[4] + 16384 * number + 4, &time.to_le_bytes());
        }
        let used = [self.blocks.len(), self.nodes.len(), self.modules.len(), names.len(), self.threads.len()];
        let ends = [AREAS[1], AREAS[2], AREAS[3], AREAS[4], RESERVED];
        for number in 0..5 {
            let capacity = (ends[number] - AREAS[number]) / ENTRIES[number];
            let numbers = [AREAS[number], ENTRIES[number], capacity, used[number]];
            for (place, value) in numbers.into_iter().enumerate() {
                put(&mut bytes, area(number) + 8 * place, &(value as u64).to_le_bytes());
            }
        }
        bytes
    }

    pub(crate) fn memory(&self) -> Captured {
        Captured::new().with(self.base, &self.bytes())
    }

    pub(crate) fn found(&self) -> Found {
        find(&self.memory())
    }

    pub(crate) fn read(&self) -> Recording {
        self.found().recording.unwrap()
    }
}

/// Where in the header an area is described.
pub(crate) const fn area(number: usize) -> usize {
    128 + 32 * number
}

/// Where in the header a part is described.
pub(crate) const fn part(number: usize) -> usize {
    360 + 16 * number
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

pub(crate) fn find(memory: &Captured) -> Found {
    Recording::find(memory, &Job::default()).unwrap()
}

/// The recording of these bytes at [`BASE`].
pub(crate) fn found_in(bytes: &[u8]) -> Found {
    find(&Captured::new().with(BASE, bytes))
}

/// Anonymous memory that is named as the kernel names the reservation.
pub(crate) fn named(memory: Captured, start: u64, bytes: &[u8]) -> Captured {
    memory.with_region(start, bytes, bytes.len() as u64, RegionKind::Anon, "[anon:gdb-leak record]")
}
