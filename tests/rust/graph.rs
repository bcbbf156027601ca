//! Graphs of blocks: what is traced against what a naive look at them finds.
// A test may panic on its own mistakes, and its helpers are no part of what it tests.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

#[path = "graph/heuristics.rs"]
mod heuristics;
#[path = "graph/lists.rs"]
mod lists;
#[path = "graph/naive.rs"]
mod naive;
#[path = "plain.rs"]
mod plain;
#[path = "graph/random.rs"]
mod random;
#[path = "graph/roots.rs"]
mod roots;
#[path = "graph/world.rs"]
mod world;
