//! Bytes of a target as they are handed over, and stretches that have none.

use crate::error::Error;
use crate::range::AddressRange;

/// Why bytes are missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Missing {
    /// No region holds them.
    NoRegion,
    /// They were not kept in the thing named.
    NotSaved(&'static str),
    /// Reading them went wrong for the reason given.
    Unreadable(String),
}

/// A stretch of addresses whose bytes cannot be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The stretch, never empty.
    pub range: AddressRange,
    /// Why.
    pub missing: Missing,
}

impl Gap {
    /// The error for an answer that needs the byte at the gap's start.
    #[must_use]
    pub fn error(&self) -> Error {
        let address = self.range.start();
        match &self.missing {
            Missing::NoRegion => Error::NoRegion { address },
            Missing::NotSaved(place) => Error::NotSaved { address, place },
            Missing::Unreadable(cause) => Error::Unreadable { address, cause: cause.clone() },
        }
    }
}

/// The bytes at the start of a range that was asked for.
///
/// Either `bytes` is not empty or `gap` is there, so a loop over views ends.
#[derive(Debug)]
pub struct View<'a> {
    /// What could be had in one piece, at most the whole range.
    pub bytes: &'a [u8],
    /// What stopped it, starting right after `bytes`. `None` where the range is
    /// whole or simply goes on in another piece: ask again from there.
    pub gap: Option<Gap>,
}

/// Room that a source fills when it cannot lend its own bytes; kept and used again.
#[derive(Default, Debug)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// Room for `length` bytes, with whatever was there before.
    pub fn space(&mut self, length: usize) -> &mut [u8] {
        if self.0.len() < length {
            self.0.resize(length, 0);
        }
        self.0.get_mut(..length).unwrap_or_default()
    }
}
