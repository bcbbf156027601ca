//! Permissions of a core whose segments do not say what may be written.
//!
//! Each process writes to its stack at least. Where no segment is flagged writable, the flags
//! were not written, and the headers of modules in memory (ELF specification, "Program Header")
//! and what was saved tell the permissions.

use std::collections::BTreeMap;

use crate::memory::{Permissions, Region};
use crate::name::Name;
use crate::source::elf::{Image, image_at};

use super::Core;
use super::notes::FileMapping;

/// The headers of the modules that `files` are mappings of, with where they are in memory.
type Images = BTreeMap<Name, Option<(u64, Image)>>;

/// Gives the regions of `core` the permissions that its segments do not say, with a note on that.
///
/// A mapping of a module has those of its segment there; of other memory what was saved counts
/// as writable, since that errs towards held. `vdso` is an address in the kernel's own code for
/// processes (`AT_SYSINFO_EHDR`), which has no file.
pub(super) fn complete(core: &mut Core, files: &[FileMapping], vdso: Option<u64>) -> Option<String> {
    if core.regions.is_empty() || core.regions.iter().any(|region| region.permissions.writable()) {
        return None;
    }
    let images = images(core, files);
    for region in &mut core.regions {
        let image = images.get(&region.name).and_then(Option::as_ref);
        let own = vdso.is_some_and(|vdso| region.range.contains(vdso));
        region.permissions = match image.and_then(|(base, image)| of_module(region, image, *base)) {
            Some(permissions) => permissions,
            None if own => Permissions::new(true, false, true),
            None if region.saved > 0 => Permissions::new(true, true, false),
            None if region.name.is_empty() => Permissions::new(false, false, false),
            None => Permissions::Unknown,
        };
    }
    Some(
        "no segment of the core is flagged writable: the permissions shown are those that the headers of \
         modules say, and other memory that was saved counts as writable"
            .to_owned(),
    )
}

fn images(core: &Core, files: &[FileMapping]) -> Images {
    let mut images = Images::new();
    for file in files.iter().filter(|file| file.offset == 0) {
        let start = file.range.start();
        let image = || image_at(core, start).map(|image| (start, image));
        images.entry(file.path.clone()).or_insert_with(image);
    }
    images
}

/// What the headers of a module say of a region; writable where any page of it is.
fn of_module(region: &Region, image: &Image, base: u64) -> Option<Permissions> {
    let last = region.range.end().saturating_sub(1);
    let [read, write, execute] = image.rights(base, region.range.start())?;
    let write = write || image.rights(base, last).is_some_and(|[_, write, _]| write);
    Some(Permissions::new(read, write, execute))
}
