//! The Python module `gdb_leak._native`: take, detach, call, convert; no logic.

// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod blocks;
mod call;
mod changes;
mod errors;
mod files;
mod frames;
mod heap;
mod kept;
mod leak;
mod look;
mod memory;
mod recording;
mod run;
mod search;
mod text;

use pyo3::pymodule;

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::blocks::{Block, Group, Groups, Listed};
    #[pymodule_export]
    use super::changes::{Change, Contents, Difference, contents, diff};
    #[pymodule_export]
    use super::files::{output_place, remove_file, write_text};
    #[pymodule_export]
    use super::frames::{Frame, NotJoined, frames, unjoined_threads};
    #[pymodule_export]
    use super::heap::{
        Arena, Heap, HeapSummary, heap_kept, heap_summary, linked_allocators, may_hold_blocks, open_heap,
        other_allocators, refused_heap,
    };
    #[pymodule_export]
    use super::leak::{
        Check, Coverage, Record, Records, Reference, check, coverage, judged, references, shortest_path,
    };
    #[pymodule_export]
    use super::look::{Dump, Strings, dump, strings, text_to_words, words_to_text, write_range};
    #[pymodule_export]
    use super::memory::{
        Memory, Region, Stop, open_file, open_process, open_remote, save_snapshot, stop_process,
        take_snapshot,
    };
    #[pymodule_export]
    use super::recording::{Allocation, Recording, StackFrame, recorder_ranges, recording};
    #[pymodule_export]
    use super::run::{Follow, recordable};
    #[pymodule_export]
    use super::search::{Matches, Needle, find, unescape};

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
