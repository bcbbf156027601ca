//! Memory that is written to before it is captured, and a source of chance that is the same each time.

use gdb_leak::memory::{Permissions, RegionKind};
use gdb_leak::source::captured::Captured;
use gdb_leak::word::WordFormat;

/// Chance from a seed: splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        index(self.below(length as u64))
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }
}

pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

/// What the bytes of blocks that nobody looks at are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Filling {
    Zeros,
    Noise,
    Text,
    /// Numbers that sizes of chunks may have.
    Small,
}

/// A mapping.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) kind: RegionKind,
    pub(crate) name: &'static str,
    /// How many of the last bytes were not saved.
    pub(crate) unsaved: u64,
}

impl Piece {
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// The memory of a process.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) format: WordFormat,
    pub(crate) pieces: Vec<Piece>,
    /// Where pieces start that cannot be written.
    pub(crate) closed: Vec<(u64, Permissions)>,
}

impl Image {
    pub(crate) fn new(format: WordFormat) -> Self {
        Self { format, pieces: Vec::new(), closed: Vec::new() }
    }

    /// Maps zeros.
    pub(crate) fn map(&mut self, start: u64, length: u64, kind: RegionKind, name: &'static str) {
        self.pieces.push(Piece { start, bytes: vec![0; index(length)], kind, name, unsaved: 0 });
        self.pieces.sort_by_key(|piece| piece.start);
    }

    /// Gives the file of mappings another name.
    pub(crate) fn rename(&mut self, from: &str, to: &'static str) {
        self.pieces.iter_mut().filter(|piece| piece.name == from).for_each(|piece| piece.name = to);
    }

    /// Maps a read-only page of a file before its data, with these bytes.
    pub(crate) fn constants(&mut self, name: &'static str, bytes: &[u8]) {
        let first = self.pieces.iter().find(|piece| piece.name == name).unwrap().start;
        let start = first - 0x10000;
        self.map(start, 0x1000, RegionKind::File, name);
        self.closed.push((start, Permissions::new(true, false, false)));
        self.put_bytes(start + 0x120, bytes);
    }

    /// Makes `length` bytes at `start` a mapping of their own, with these rights.
    pub(crate) fn protect(&mut self, start: u64, length: u64, permissions: Permissions) {
        for at in [start, start + length] {
            let number = self.pieces.iter().position(|piece| piece.start < at && at < piece.end());
            let Some(number) = number else { continue };
            let piece = &mut self.pieces[number];
            assert_eq!(piece.unsaved, 0);
            let bytes = piece.bytes.split_off(index(at - piece.start));
            let rest = Piece { start: at, bytes, ..piece.clone() };
            self.pieces.insert(number + 1, rest);
        }
        self.closed.push((start, permissions));
        self.closed.push((start + length, Permissions::new(true, true, false)));
    }

    /// Leaves out the bytes of the mapping at `start`, or the mapping itself.
    pub(crate) fn lose(&mut self, start: u64, whole: bool) {
        let number = self.pieces.iter().position(|piece| piece.start == start).unwrap();
        if whole {
            self.pieces.remove(number);
        } else {
            let piece = &mut self.pieces[number];
            piece.unsaved = piece.bytes.len() as u64;
        }
    }

    fn place(&mut self, address: u64, length: usize) -> &mut [u8] {
        let after = self.pieces.partition_point(|piece| piece.start <= address);
        let piece = &mut self.pieces[after - 1];
        let offset = index(address - piece.start);
        &mut piece.bytes[offset..offset + length]
    }

    pub(crate) fn put_bytes(&mut self, address: u64, bytes: &[u8]) {
        self.place(address, bytes.len()).copy_from_slice(bytes);
    }

    /// Puts a number of `size` bytes.
    pub(crate) fn put(&mut self, address: u64, value: u64, size: usize) {
        let bytes = self.format.order.bytes(value, size);
        self.put_bytes(address, &bytes);
    }

    pub(crate) fn word(&mut self, address: u64, value: u64) {
        self.put(address, value, self.format.size);
    }

    pub(crate) fn read(&mut self, address: u64) -> u64 {
        let format = self.format;
        format.read(self.place(address, format.size)).unwrap()
    }

    pub(crate) fn read_number(&mut self, address: u64, size: usize) -> u64 {
        let order = self.format.order;
        order.value(self.place(address, size))
    }

    /// Puts words one after the other.
    pub(crate) fn words(&mut self, address: u64, values: &[u64]) {
        for (address, value) in (address..).step_by(self.format.size).zip(values) {
            self.word(address, *value);
        }
    }

    /// Fills from `start` up to `end`; both are places of words.
    pub(crate) fn fill(&mut self, start: u64, end: u64, filling: Filling, dice: &mut Dice) {
        let order = self.format.order;
        let size = self.format.size;
        for word in self.place(start, index(end - start)).chunks_mut(size) {
            let value = match filling {
                Filling::Zeros => 0,
                Filling::Noise => dice.roll(),
                Filling::Text => u64::from_le_bytes(*b"leaked m"),
                Filling::Small => dice.below(0x30) * 8 + dice.below(2),
            };
            let length = word.len();
            word.copy_from_slice(&order.bytes(value, 8.min(length)));
        }
    }

    /// The memory, touching mappings of one kind and name being one region.
    pub(crate) fn capture(&self) -> Captured {
        let mut memory = Captured::new().with_format(self.format);
        let mut joined: Vec<Piece> = Vec::new();
        for piece in &self.pieces {
            match joined.last_mut() {
                Some(last)
                    if (last.end(), last.kind, last.name) == (piece.start, piece.kind, piece.name)
                        && last.unsaved == 0
                        && !self
                            .closed
                            .iter()
                            .any(|(start, _)| [last.start, piece.start].contains(start)) =>
                {
                    last.unsaved = piece.unsaved;
                    last.bytes.extend_from_slice(&piece.bytes);
                }
                _ => joined.push(piece.clone()),
            }
        }
        for piece in joined {
            let length = piece.bytes.len() as u64;
            let saved = &piece.bytes[..index(length - piece.unsaved)];
            memory = memory.with_region(piece.start, saved, length, piece.kind, piece.name);
            if let Some((_, permissions)) = self.closed.iter().find(|(start, _)| *start == piece.start) {
                memory = memory.with_permissions(*permissions);
            }
        }
        memory
    }
}
