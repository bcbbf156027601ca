//! Words of the target: their size and byte order.

/// In which order the bytes of a word lie in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

impl ByteOrder {
    /// The unsigned value of up to eight bytes of memory.
    ///
    /// Bytes beyond the eighth are left out.
    ///
    /// ```
    /// use gdb_leak::word::ByteOrder;
    /// assert_eq!(ByteOrder::Little.value(b"leaked m"), 0x6d20_6465_6b61_656c);
    /// assert_eq!(ByteOrder::Big.value(&[1, 2]), 0x0102);
    /// ```
    #[must_use]
    pub fn value(self, bytes: &[u8]) -> u64 {
        let join = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
        let bytes = bytes.iter().take(8);
        match self {
            Self::Little => bytes.rev().fold(0, join),
            Self::Big => bytes.fold(0, join),
        }
    }

    /// The lowest `size` bytes of `value` as they lie in memory; `size` is at most eight.
    ///
    /// ```
    /// use gdb_leak::word::ByteOrder;
    /// assert_eq!(ByteOrder::Little.bytes(0x0102, 4), [2, 1, 0, 0]);
    /// assert_eq!(ByteOrder::Big.bytes(0x0102, 2), [1, 2]);
    /// ```
    #[must_use]
    pub fn bytes(self, value: u64, size: usize) -> Vec<u8> {
        let little = value.to_le_bytes();
        let kept = little.iter().take(size).copied();
        match self {
            Self::Little => kept.collect(),
            Self::Big => kept.rev().collect(),
        }
    }
}

/// What a pointer of the target looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WordFormat {
    /// Bytes in a pointer: 4 or 8.
    pub size: usize,
    /// The order of the bytes in it.
    pub order: ByteOrder,
}

impl WordFormat {
    /// 64-bit, least significant byte first: x86-64 and aarch64 as commonly run.
    pub const LITTLE_64: Self = Self { size: 8, order: ByteOrder::Little };

    /// The word at the start of `bytes`; `None` where they are too few.
    #[must_use]
    #[inline]
    pub fn read(self, bytes: &[u8]) -> Option<u64> {
        // One load where the order is this machine's: walks read a word a chunk.
        Some(match (self.size, self.order) {
            (8, ByteOrder::Little) => u64::from_le_bytes(*bytes.first_chunk()?),
            (8, ByteOrder::Big) => u64::from_be_bytes(*bytes.first_chunk()?),
            (4, ByteOrder::Little) => u64::from(u32::from_le_bytes(*bytes.first_chunk()?)),
            (4, ByteOrder::Big) => u64::from(u32::from_be_bytes(*bytes.first_chunk()?)),
            (size, order) => order.value(bytes.get(..size)?),
        })
    }

    /// The largest value that a word holds.
    #[must_use]
    pub const fn max(self) -> u64 {
        if self.size >= 8 { u64::MAX } else { u32::MAX as u64 }
    }
}
