//! Which blocks are lost: valgrind's question, asked of memory as it stands.

mod check;
mod record;
mod verdict;

pub use check::{Account, Check, Held, Options};
pub use record::{Record, Records};
pub use verdict::Verdict;
