//! Regions before and after: which grew, which shrank, which are new, which are gone.
//!
//! One way is to compare the two lists line by line, as `diff` does with two
//! outputs of `pmap`. But regions have no names of their own: a heap's end
//! moves, mmapped neighbours merge into one region and split again, and
//! mappings grow downwards as often as upwards. What stays is the address: a
//! region is the one that held some of the same addresses with the same
//! rights, kind and name. Whatever is connected by such overlaps is one group,
//! and a group's sizes are compared as a whole, so that every byte of both
//! sides is accounted for once.

mod program;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::memory::{Permissions, Region, RegionKind};
use crate::name::Name;
use crate::range::AddressRange;

use program::{file_name, same_name, same_program};

/// A group of regions, or a part of one, that is not what it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// From the first address to the last: after's, or before's where nothing is left.
    ///
    /// Of a group that has several regions it spans what lies between them.
    pub range: AddressRange,
    /// Bytes before.
    pub before: u64,
    /// Bytes after.
    pub after: u64,
    /// The addresses that the group has now and had not, in order.
    pub new_ranges: Vec<AddressRange>,
    /// The addresses that the group had and has no more, in order.
    pub gone_ranges: Vec<AddressRange>,
    /// The permissions, from whichever side knows them.
    pub permissions: Permissions,
    /// Whether it is a reserve on both sides: address space that holds no byte.
    pub reserve: bool,
    /// The kind, from whichever side can tell.
    pub kind: RegionKind,
    /// The name of its first region.
    pub name: Name,
}

impl Change {
    /// How many bytes more there are after than before.
    #[must_use]
    pub fn growth(&self) -> i128 {
        i128::from(self.after).saturating_sub(i128::from(self.before))
    }

    /// Whether its growth is growth of writable memory.
    ///
    /// Where the permissions are not known, memory without a file counts: what a file backs is
    /// code and constants as a rule. Unlike [`Region::mutable`], memory that was made inaccessible
    /// does not count: few lists say whether it holds bytes, so it would come and go with the list.
    #[must_use]
    pub fn writable(&self) -> bool {
        let unknown = self.permissions == Permissions::Unknown;
        self.permissions.writable() || unknown && (self.name.is_empty() || self.name.starts_with("["))
    }
}

/// What became of the regions. Every list has the largest change first, then goes by address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    /// Groups with more bytes after than before.
    pub grown: Vec<Change>,
    /// Groups with fewer bytes after than before.
    pub shrunk: Vec<Change>,
    /// What nothing before corresponds to.
    pub new: Vec<Change>,
    /// What nothing after corresponds to.
    pub gone: Vec<Change>,
    /// The net growth of writable bytes.
    ///
    /// Neither reserves nor mappings that cannot be written count: an arena grows out of its
    /// reserve, and a loaded library is not a leak.
    pub growth: i128,
    /// The net growth of reserves, in bytes of address space.
    pub reserved: i128,
    /// Whether both sides are one process; if not, sizes were compared by kind, name and order.
    pub same_program: bool,
    /// What makes the comparison less than whole.
    pub notes: Vec<String>,
}

/// What changed from `before` to `after`, both in address order without overlaps.
///
/// Two regions correspond when they overlap and agree in permissions, kind and
/// name. Unknown permissions agree with any. A source that only knows a region
/// as anonymous agrees with one that knows what it is for. So a reserve that
/// became writable makes the writable region grow and the reserve shrink. Anonymous memory
/// that is not writable matches whether or not it is readable, because gcore records `---`
/// as `r--`.
///
/// A group that kept its size but moved is new where it came and gone where it
/// left.
///
/// Where the two sides are not one process addresses mean nothing: see
/// [`Difference::same_program`]. Then the new range is known for the brk heap
/// only, which grows upwards.
#[must_use]
pub fn diff(before: &[Region], after: &[Region]) -> Difference {
    let (before, after) = (&listed(before, after)[..], &listed(after, before)[..]);
    let mut difference = Difference::default();
    match same_program(before, after, corresponds) {
        Ok(()) => {
            difference.same_program = true;
            for (before, after) in groups(before, after) {
                difference.add_group(&before, &after);
            }
        }
        Err(note) => {
            difference.notes.push(note);
            for (before, after) in pairs(before, after) {
                difference.add_pair(before, after);
            }
        }
    }
    difference.finish();
    difference
}

/// The regions that can change: those that the kernel shows everybody cannot.
///
/// Folklore: cores leave `[vvar]` out, pmap calls it `[ anon ]`, and so it would
/// come and go with whoever wrote the list. Seen: gcore of gdb 13.1, procps 4.0.
fn listed(side: &[Region], other: &[Region]) -> Vec<Region> {
    let kernels = |region: &&Region| region.kind == RegionKind::Special;
    let special: Vec<AddressRange> = other.iter().filter(kernels).map(|region| region.range).collect();
    let shared = |region: &&Region| {
        !region.permissions.writable() && special.iter().any(|range| range.covers(region.range))
    };
    side.iter().filter(|region| !kernels(region) && !shared(region)).cloned().collect()
}

impl Difference {
    fn add_group(&mut self, before: &[&Region], after: &[&Region]) {
        let ranges = |regions: &[&Region]| {
            AddressRange::merge(regions.iter().map(|region| region.range).collect::<Vec<_>>())
        };
        let without = |these: &[AddressRange], those: &[AddressRange]| {
            these.iter().flat_map(|range| range.without(those)).collect::<Vec<_>>()
        };
        let (ranges_before, ranges_after) = (ranges(before), ranges(after));
        let Some(change) = describe(before, after) else { return };
        let change = Change {
            new_ranges: without(&ranges_after, &ranges_before),
            gone_ranges: without(&ranges_before, &ranges_after),
            ..change
        };
        let moved = change.before == change.after && !change.new_ranges.is_empty();
        if !moved {
            return self.add(change);
        }
        for range in &change.new_ranges {
            let new_ranges = vec![*range];
            let (range, after) = (*range, range.len());
            self.new.push(Change {
                range,
                before: 0,
                after,
                new_ranges,
                gone_ranges: Vec::new(),
                ..change.clone()
            });
        }
        for range in &change.gone_ranges {
            let gone_ranges = vec![*range];
            let (range, before) = (*range, range.len());
            self.gone.push(Change {
                range,
                before,
                after: 0,
                new_ranges: Vec::new(),
                gone_ranges,
                ..change.clone()
            });
        }
    }

    fn add_pair(&mut self, before: Option<&Region>, after: Option<&Region>) {
        let slices = (before.as_slice(), after.as_slice());
        let Some(mut change) = describe(slices.0, slices.1) else { return };
        match (before, after) {
            (None, Some(after)) => change.new_ranges.push(after.range),
            (Some(before), None) => change.gone_ranges.push(before.range),
            _ if change.kind == RegionKind::Heap && change.after > change.before => {
                let start = change.range.start().saturating_add(change.before);
                change.new_ranges.extend(AddressRange::new(start, change.range.end()));
            }
            _ => {}
        }
        self.add(change);
    }

    fn add(&mut self, change: Change) {
        let list = match (change.before, change.after) {
            (0, 0) => return,
            (0, _) => &mut self.new,
            (_, 0) => &mut self.gone,
            (before, after) if before < after => &mut self.grown,
            (before, after) if before > after => &mut self.shrunk,
            _ => return,
        };
        list.push(change);
    }

    fn finish(&mut self) {
        let mut unknown = 0_u64;
        for list in [&mut self.grown, &mut self.shrunk, &mut self.new, &mut self.gone] {
            for change in list.iter() {
                let growth = change.growth();
                if change.writable() {
                    self.growth = self.growth.saturating_add(growth);
                } else if change.reserve {
                    self.reserved = self.reserved.saturating_add(growth);
                }
                unknown = unknown.saturating_add(u64::from(change.permissions == Permissions::Unknown));
            }
            list.sort_by_key(|change| (Reverse(change.growth().unsigned_abs()), change.range));
        }
        if unknown > 0 {
            let regions = if unknown == 1 { "changed region has" } else { "changed regions have" };
            self.notes.push(format!(
                "{unknown} {regions} unknown permissions (???): without a file they count as writable, \
                 with one they do not"
            ));
        }
    }
}

/// What the regions have in common, without new and gone ranges; `None` where there are none.
fn describe(before: &[&Region], after: &[&Region]) -> Option<Change> {
    let shown = if after.is_empty() { before } else { after };
    let (first, last) = (shown.first()?, shown.last()?);
    let both = || after.iter().chain(before);
    let telling = both().find(|region| region.kind != RegionKind::Anon).unwrap_or(first);
    // Of gcore's r-- and ---, which are one, the second is right.
    let rank = |region: &&&Region| match region.permissions {
        Permissions::Unknown => 0_u8,
        permissions if permissions.writable() => 3,
        permissions if permissions.none() => 2,
        Permissions::Known { .. } => 1,
    };
    let highest = both().map(|region| rank(&region)).max();
    let permissions = both().find(|region| Some(rank(region)) == highest).unwrap_or(first).permissions;
    let reserves = || both().filter(|region| region.permissions.none());
    let size = |regions: &[&Region]| {
        regions.iter().map(|region| region.range.len()).fold(0_u64, u64::saturating_add)
    };
    let start = first.range.start();
    Some(Change {
        range: AddressRange::saturating(start, last.range.end().saturating_sub(start)),
        before: size(before),
        after: size(after),
        new_ranges: Vec::new(),
        gone_ranges: Vec::new(),
        permissions,
        reserve: permissions.none() && reserves().all(|region| region.reserve()),
        kind: telling.kind,
        name: telling.name.clone(),
    })
}

/// Whether the permissions of two regions are those of one.
fn agree(before: &Region, after: &Region) -> bool {
    let idle = |region: &Region| {
        let fixed = !region.permissions.writable() && !region.permissions.executable();
        fixed && region.name.is_empty()
    };
    let unknown = |region: &Region| region.permissions == Permissions::Unknown;
    let same = before.permissions == after.permissions;
    same || unknown(before) || unknown(after) || (idle(before) && idle(after))
}

/// Whether two regions that overlap are one.
fn corresponds(before: &Region, after: &Region) -> bool {
    if !agree(before, after) {
        return false;
    }
    if before.kind == after.kind {
        return same_name(&before.name, &after.name);
    }
    // pmap calls all of these "[ anon ]": heaps of arenas, stacks of threads, and
    // the bss of a module, which a core's notes give to the module.
    let plain = |region: &Region| region.kind == RegionKind::Anon && region.name.is_empty();
    let other = if plain(before) {
        after
    } else if plain(after) {
        before
    } else {
        let files = |kind| matches!(kind, RegionKind::Data | RegionKind::File);
        // Without the neighbours a source cannot tell data from another mapping of the file.
        return files(before.kind) && files(after.kind) && same_name(&before.name, &after.name);
    };
    // pmap names what has no slash in its name neither: anon_inode:[io_uring].
    let slashless = !other.name.is_empty() && !other.name.bytes().contains(&b'/');
    slashless && !other.name.starts_with("[")
        || matches!(
            other.kind,
            RegionKind::Heap
                | RegionKind::Arena
                | RegionKind::Stack
                | RegionKind::ThreadStack
                | RegionKind::Data
        )
}

/// Calls `found` with the places of each two regions that overlap.
fn overlaps(before: &[Region], after: &[Region], mut found: impl FnMut(usize, usize)) {
    let (mut left, mut right) = (0_usize, 0_usize);
    while let (Some(one), Some(other)) = (before.get(left), after.get(right)) {
        if one.range.intersection(other.range).is_some() {
            found(left, right);
        }
        if one.range.end() <= other.range.end() {
            left = left.saturating_add(1);
        } else {
            right = right.saturating_add(1);
        }
    }
}

/// Regions of both sides, each with all that it corresponds to, directly or through others.
fn groups<'r>(before: &'r [Region], after: &'r [Region]) -> Vec<(Vec<&'r Region>, Vec<&'r Region>)> {
    // A forest over the places of all regions, after's behind before's.
    let mut parents: Vec<usize> = (0..before.len().saturating_add(after.len())).collect();
    overlaps(before, after, |left, right| {
        let two = before.get(left).zip(after.get(right));
        if two.is_some_and(|(one, other)| corresponds(one, other)) {
            let one = root(&mut parents, left);
            let other = root(&mut parents, before.len().saturating_add(right));
            if let Some(parent) = parents.get_mut(one.max(other)) {
                *parent = one.min(other);
            }
        }
    });
    let mut groups: BTreeMap<usize, (Vec<&Region>, Vec<&Region>)> = BTreeMap::new();
    for (place, region) in before.iter().enumerate() {
        groups.entry(root(&mut parents, place)).or_default().0.push(region);
    }
    for (place, region) in (before.len()..).zip(after) {
        groups.entry(root(&mut parents, place)).or_default().1.push(region);
    }
    groups.into_values().collect()
}

/// The first place of the tree that holds `place`; the way to it becomes shorter.
fn root(parents: &mut [usize], mut place: usize) -> usize {
    while let Some(&parent) = parents.get(place) {
        if parent == place {
            break;
        }
        let above = parents.get(parent).copied().unwrap_or(parent);
        if let Some(slot) = parents.get_mut(place) {
            *slot = above;
        }
        place = above;
    }
    place
}

/// Regions with the same kind, file name and permissions, the first with the first and so on.
fn pairs<'r>(before: &'r [Region], after: &'r [Region]) -> Vec<(Option<&'r Region>, Option<&'r Region>)> {
    let mut alike: BTreeMap<_, (Vec<&Region>, Vec<&Region>)> = BTreeMap::new();
    let key = |region: &'r Region| (region.kind, file_name(&region.name), region.permissions.to_string());
    for region in before {
        alike.entry(key(region)).or_default().0.push(region);
    }
    for region in after {
        alike.entry(key(region)).or_default().1.push(region);
    }
    let pair = |(before, after): (Vec<&'r Region>, Vec<&'r Region>)| {
        (0..before.len().max(after.len()))
            .map(move |place| (before.get(place).copied(), after.get(place).copied()))
    };
    alike.into_values().flat_map(pair).collect()
}
