//! Chunks whose headers are not there to read, as far as their neighbours tell of them.
//!
//! A core may leave out pages of a heap (`madvise` with `MADV_DONTDUMP`; gcore leaves out those
//! that may not be read). This is not damage. The chunk before the gap gives the start of the
//! first unreadable chunk. The `prev_size` of the chunk after it gives the start of the last
//! one, if that one is free.

use crate::range::AddressRange;

/// How many missing stretches are named.
const NAMED: usize = 64;

/// Memory of heaps that could not be read where headers lie.
#[derive(Clone, Default, Debug)]
pub(super) struct Unread {
    /// The first stretches of which the blocks are not known, and why.
    pub named: Vec<(AddressRange, String)>,
    /// How many there are, and their bytes.
    pub count: u64,
    pub bytes: u64,
    /// How many lists lead into missing memory, or through it.
    pub lists: u64,
}

impl Unread {
    /// Notes a stretch whose blocks are not known.
    pub(super) fn note(&mut self, range: AddressRange, cause: String) {
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(range.len());
        if self.named.len() < NAMED {
            self.named.push((range, cause));
        }
    }

    /// Takes over what another met.
    pub(super) fn merge(&mut self, other: Self) {
        let room = NAMED.saturating_sub(self.named.len());
        self.named.extend(other.named.into_iter().take(room));
        self.count = self.count.saturating_add(other.count);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.lists = self.lists.saturating_add(other.lists);
    }

    /// Returns what the heap lacks for it, in sentences.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some((range, cause)) = self.named.first() {
            let more = match self.count {
                0 | 1 => String::new(),
                2 => " (and 1 more place)".to_owned(),
                count => format!(" (and {} more places)", count.saturating_sub(1)),
            };
            notes.push(format!(
                "{} bytes of the heap at {:#x} are not judged, because headers of chunks cannot be read{more}: {cause}",
                self.bytes,
                range.start()
            ));
        }
        if self.lists > 0 {
            notes.push(format!(
                "{} of malloc's lists lead through memory that cannot be read; free blocks later in them count as used",
                self.lists
            ));
        }
        notes
    }
}
