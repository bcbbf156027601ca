//! Maps from hashes and short texts, which are not hashed again.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use indexmap::IndexMap;

/// Mixes the two halves of a key: it is a hash already, or the bytes of a short text.
#[derive(Default)]
pub(crate) struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        #[allow(clippy::cast_possible_truncation)] // both halves, multiplied
        {
            // Keys may be texts: neither factor is one that can be read, so none is zero.
            let product = u128::from(hash as u64 ^ 0x9e37_79b9_7f4a_7c15)
                .wrapping_mul(u128::from((hash >> 64) as u64 ^ 0xc2b2_ae3d_27d4_eb4f));
            self.0 = product as u64 ^ (product >> 64) as u64;
        }
    }
}

/// A map from the hashes of strings.
pub(crate) type ByHash<V> = HashMap<u128, V, BuildHasherDefault<Mixed>>;

/// The same in the order of insertion. A miss looks at a dense table of indices only, and what
/// grows does not move all values to new places.
pub(crate) type InOrder<V> = IndexMap<u128, V, BuildHasherDefault<Mixed>>;
