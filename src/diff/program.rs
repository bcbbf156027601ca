//! Whether two lists of regions are of one process, told by its modules.

use crate::memory::Region;

/// The file's name without its folder and the kernel's mark for a deleted file.
pub(super) fn file_name(name: &str) -> &str {
    // Seen: a program that was built anew while the old one ran. The kernel
    // then adds " (deleted)" to the names in its maps from that moment on.
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    name.rsplit_once('/').map_or(name, |(_, last)| last)
}

/// Whether two names can be of one file: pmap leaves the folder out.
pub(super) fn same_name(one: &str, other: &str) -> bool {
    let whole = |name: &str| name.contains('/');
    let cut = |name| str::strip_suffix(name, " (deleted)").unwrap_or(name).to_owned();
    if whole(one) && whole(other) { cut(one) == cut(other) } else { file_name(one) == file_name(other) }
}

/// Whether addresses on both sides mean the same; if not, a sentence that says why.
///
/// The program is the first file in memory: Linux maps it below all libraries,
/// wherever it is. One process has it, and some module at the same place, at
/// both times; another run has its modules elsewhere, unless the system does
/// not randomise addresses, and then addresses can be compared all the same.
pub(super) fn same_program(
    before: &[Region],
    after: &[Region],
    corresponds: impl Fn(&Region, &Region) -> bool,
) -> Result<(), String> {
    let means = "sizes were compared by kind, name and order";
    let program = |regions: &[Region]| regions.iter().find(|region| !region.anonymous()).cloned();
    if before.is_empty() || after.is_empty() {
        return Ok(());
    }
    let of_files = match (program(before), program(after)) {
        (Some(one), Some(other)) if !same_name(&one.name, &other.name) => {
            let (one, other) = (one.name, other.name);
            return Err(format!("before is of {one}, after is of {other}: {means}"));
        }
        (Some(_), Some(_)) => true,
        _ => false,
    };
    let mut met = false;
    super::overlaps(before, after, |left, right| {
        let Some((one, other)) = before.get(left).zip(after.get(right)) else { return };
        met |= if of_files {
            !one.anonymous() && !other.anonymous() && same_name(&one.name, &other.name)
        } else {
            corresponds(one, other)
        };
    });
    if met {
        return Ok(());
    }
    let what = if of_files { "module" } else { "region" };
    Err(format!("no {what} is where it was, so before and after are not of one process: {means}"))
}
