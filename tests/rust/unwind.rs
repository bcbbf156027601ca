//! Which words of frames are dead: by single instructions, and on stacks of a program made up.
// A test may panic on its own mistakes, and its helpers are no part of what it tests.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

#[path = "unwind/assembly.rs"]
mod assembly;
#[path = "unwind/module.rs"]
mod module;
#[path = "unwind/slots.rs"]
mod slots;
#[path = "unwind/stacks.rs"]
mod stacks;
#[path = "unwind/stop.rs"]
mod stop;
