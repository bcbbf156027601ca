//! Who points at whom: references between blocks, the roots that hold them, and what follows.
//!
//! Knows no allocator but what [`crate::heap`] tells, and no verdict: those are
//! [`crate::leak`]'s.

mod heuristics;
mod index;
mod link;
mod owners;
mod path;
mod places;
mod references;
mod referrers;
mod roots;
mod stacks;
mod trace;
mod walk;
mod words;

pub use heuristics::{Heuristics, Look};
pub use index::{Cursor, Hit, Index};
pub use link::{Edge, Link, MOST_BLOCKS, Wanted};
pub use path::{Paths, Step};
pub use places::relocated;
pub use references::Graph;
pub use referrers::{Reference, Referrers, Source};
pub use roots::{Choice, Dead, Found, Place, Pointer, RegisterRoot, RootKind, Roots, Stretch};
pub use trace::{Mark, Marks, Tracer};
