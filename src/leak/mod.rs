//! Which blocks are lost: valgrind's question, asked of memory as it stands.

mod check;
mod coverage;
mod record;
mod verdict;

pub use check::{Account, Check, Held, Options};
pub use coverage::Coverage;
pub use record::{Record, Records};
pub use verdict::Verdict;
