//! Whether two lists of regions are of one process, told by its modules.

use crate::memory::Region;
use crate::name::Name;

/// What the kernel adds to the name of a file that was deleted.
///
/// Seen: a program that was built anew while the old one ran. A file whose own name ends
/// like this gets it once more.
const DELETED: &[u8] = b" (deleted)";

/// The file's name without its folder and the kernel's mark for a deleted file.
pub(super) fn file_name(name: &Name) -> &[u8] {
    let last = name.last_part();
    last.strip_suffix(DELETED).unwrap_or(last)
}

/// Whether two names can be of one mapping.
///
/// Sources differ: pmap leaves the folder out and writes `?` for what its locale cannot
/// print; texts of maps do not tell a line's end from the four characters that stand for it;
/// cores know neither the kernel's names for anonymous memory nor, for shared memory, the
/// name that a program gave it.
pub(super) fn same_name(one: &Name, other: &Name) -> bool {
    if one == other {
        return true;
    }
    let given = |name: &Name| name.starts_with("[anon");
    if (given(one) && other.is_empty()) || (given(other) && one.is_empty()) {
        return true;
    }
    let shared = |name: &Name| name.starts_with("[anon_shmem:") || file_name(name) == b"zero";
    let segment = |name: &Name| name.last_part().starts_with(b"SYSV");
    if (shared(one) && shared(other)) || (segment(one) && segment(other)) {
        return !whole(one) || !whole(other);
    }
    let (one_spelled, other_spelled) = (spelled(one), spelled(other));
    let (one_name, other_name) = if whole(one) && whole(other) {
        (one_spelled.bytes(), other_spelled.bytes())
    } else {
        (one_spelled.last_part(), other_spelled.last_part())
    };
    let gone = |name: &[u8]| [name, DELETED].concat();
    let listed = !whole(one) || !whole(other);
    let alike = |one: &[u8], other: &[u8]| if listed { like(one, other) } else { one == other };
    alike(one_name, other_name) || alike(&gone(one_name), other_name) || alike(one_name, &gone(other_name))
}

fn whole(name: &Name) -> bool {
    name.starts_with("/")
}

/// The name as texts of maps have it.
fn spelled(name: &Name) -> Name {
    let lines: Vec<&[u8]> = name.bytes().split(|byte| *byte == b'\n').collect();
    Name::from(lines.join(&br"\012"[..]))
}

/// Whether both are the same but for bytes that one has as `?`.
fn like(one: &[u8], other: &[u8]) -> bool {
    let alike = |(one, other): (&u8, &u8)| one == other || *one == b'?' || *other == b'?';
    one.len() == other.len() && one.iter().zip(other).all(alike)
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
