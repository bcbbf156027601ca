//! Places where lists say that a chunk starts, though a walk over the sizes led past them.

/// Such places, in order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Known(Vec<u64>);

impl Known {
    /// No places at all.
    pub(super) const NONE: &'static Self = &Self(Vec::new());

    /// These places and those.
    pub(super) fn with(&self, more: &[u64]) -> Self {
        let mut places = [self.0.as_slice(), more].concat();
        places.sort_unstable();
        places.dedup();
        Self(places)
    }

    /// Whether a chunk starts at `at`.
    pub(super) fn contains(&self, at: u64) -> bool {
        self.0.binary_search(&at).is_ok()
    }

    /// The next place behind `at`.
    pub(super) fn behind(&self, at: u64) -> Option<u64> {
        self.0.get(self.0.partition_point(|place| *place <= at)).copied()
    }

    /// The first place that a chunk from `at` to `end` would reach over.
    pub(super) fn within(&self, at: u64, end: u64) -> Option<u64> {
        self.behind(at).filter(|place| *place < end)
    }
}
