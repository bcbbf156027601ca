//! The static variables of threads, of which one leads to the thread's cache.

use std::collections::BTreeMap;

use crate::peek::Peek;
use crate::source::nptl::ControlBlock;

/// Where a thread's static variable lies: how far from its control block, and whose it is.
pub(super) type Place = (u64, Option<i32>);

/// The words among threads' static variables, and where each stands.
pub(super) fn statics(peek: &Peek<'_>, threads: &[ControlBlock]) -> BTreeMap<u64, Vec<Place>> {
    let format = peek.format();
    let mut words: BTreeMap<u64, Vec<Place>> = BTreeMap::new();
    for thread in threads {
        let mut bytes = Vec::new();
        let _ = peek.memory().append(thread.statics, &mut bytes);
        for (at, word) in (thread.statics.start()..).step_by(format.size).zip(bytes.chunks_exact(format.size))
        {
            if let Some(word) = format.read(word).filter(|word| *word != 0) {
                words.entry(word).or_default().push((thread.address.wrapping_sub(at), thread.id));
            }
        }
    }
    words
}
