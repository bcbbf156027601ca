//! Who can be a [`Memory`](crate::memory::Memory): cores, processes, whatever gdb reaches, bytes.

pub mod captured;
pub mod file;
