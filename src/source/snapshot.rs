//! Snapshots: what later comparisons need of a target, in a file that outlives gdb.
//!
//! The file is text: the line [`MAGIC`], then one JSON object. Sections with
//! bytes may follow in later versions; the number in the first line says so.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::memory::{Memory, Permissions, Region, RegionKind};
use crate::name::Name;
use crate::range::AddressRange;
use crate::save::write_whole;
use crate::source::file::FileView;
use crate::source::listed::Listed;
use crate::source::{Origin, SourceKind, Target};
use crate::word::{ByteOrder, WordFormat};

/// The first line of a snapshot, up to its version.
pub const MAGIC: &str = "gdb-leak snapshot ";

const VERSION: u32 = 1;

/// Snapshots larger than this were not written by this program.
const MOST: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Saved {
    taken: String,
    architecture: Option<String>,
    program: Option<String>,
    pid: Option<i32>,
    word_size: usize,
    little_endian: bool,
    complete: bool,
    regions: Vec<SavedRegion>,
}

#[derive(Serialize, Deserialize)]
struct SavedRegion {
    start: u64,
    end: u64,
    permissions: String,
    kind: String,
    name: String,
    /// The bytes of a name that is not UTF-8, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name_bytes: Option<String>,
    file_offset: u64,
    rss: Option<u64>,
    dirty: Option<u64>,
}

/// The target as it stands, without its bytes.
#[must_use]
pub fn take(target: &Target) -> Target {
    let mut regions = target.memory.regions().to_vec();
    keep_sizes(&*target.memory, &mut regions);
    let memory = Listed::new(target.memory.word_format(), regions, "snapshot");
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let origin = Origin { kind: SourceKind::Snapshot, taken: Some(now.to_string()), ..target.origin.clone() };
    Target { memory: Arc::new(memory), origin }
}

/// Keeps how much a mapping without permissions holds: without a byte it is a reserve.
fn keep_sizes(memory: &dyn Memory, regions: &mut [Region]) {
    let hidden = |region: &Region| region.permissions.none() && region.saved > 0 && region.rss.is_none();
    if !regions.iter().any(hidden) {
        return;
    }
    let resident = memory.resident_regions().unwrap_or_default();
    for (number, region) in regions.iter_mut().enumerate().filter(|(_, region)| hidden(region)) {
        // None is resident where all of it was swapped out, or where the source is a core.
        region.rss = Some(resident.get(number).copied().filter(|bytes| *bytes > 0).unwrap_or(region.saved));
    }
}

/// Writes a snapshot, whole or not at all.
///
/// # Errors
///
/// [`Error::File`] when the file exists and `replace` is not set, or cannot be written.
pub fn save(snapshot: &Target, path: &Path, replace: bool) -> Result<(), Error> {
    let format = snapshot.memory.word_format();
    let origin = &snapshot.origin;
    let saved = Saved {
        taken: origin.taken.clone().unwrap_or_default(),
        architecture: origin.architecture.clone(),
        program: origin.program.clone(),
        pid: origin.pid,
        word_size: format.size,
        little_endian: format.order == ByteOrder::Little,
        complete: origin.complete,
        regions: snapshot.memory.regions().iter().map(saved_region).collect(),
    };
    write_whole(path, replace, |file| {
        // serde_json writes token by token.
        let mut file = BufWriter::new(file);
        writeln!(file, "{MAGIC}{VERSION}")?;
        serde_json::to_writer(&mut file, &saved)?;
        writeln!(file)?;
        file.flush()
    })
}

/// The snapshot in a file.
///
/// # Errors
///
/// [`Error::File`] when it is of a later version or broken.
pub(super) fn open(view: &FileView) -> Result<Target, Error> {
    let broken = |problem: String| Error::file(view.path(), format!("is a broken snapshot: {problem}"));
    if view.length() > MOST {
        return Err(broken(format!("{} bytes are too many", view.length())));
    }
    let bytes = view.bytes(0, view.length());
    let text = bytes.strip_prefix(MAGIC.as_bytes()).unwrap_or_default();
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    let (version, json) = text.split_at_checked(end).unwrap_or_default();
    let version = String::from_utf8_lossy(version);
    if version.parse() != Ok(VERSION) {
        let problem = format!("is a snapshot of version {version:?}; this gdb-leak reads version {VERSION}");
        return Err(Error::file(view.path(), problem));
    }
    let saved: Saved = serde_json::from_slice(json).map_err(|error| broken(error.to_string()))?;
    let order = if saved.little_endian { ByteOrder::Little } else { ByteOrder::Big };
    if saved.word_size != 4 && saved.word_size != 8 {
        return Err(broken(format!("words of {} bytes", saved.word_size)));
    }
    let mut regions: Vec<Region> = Vec::with_capacity(saved.regions.len());
    for region in &saved.regions {
        let region = loaded_region(region).map_err(broken)?;
        if regions.last().is_some_and(|last| last.range.end() > region.range.start()) {
            return Err(broken(format!("region at {:#x} overlaps the one before", region.range.start())));
        }
        regions.push(region);
    }
    let memory = Listed::new(WordFormat { size: saved.word_size, order }, regions, "snapshot");
    let origin = Origin {
        architecture: saved.architecture,
        program: saved.program,
        pid: saved.pid,
        complete: saved.complete,
        taken: Some(saved.taken),
        ..Origin::new(SourceKind::Snapshot)
    };
    Ok(Target { memory: Arc::new(memory), origin })
}

fn saved_region(region: &Region) -> SavedRegion {
    SavedRegion {
        start: region.range.start(),
        end: region.range.end(),
        permissions: region.permissions.to_string(),
        kind: region.kind.name().to_owned(),
        name: String::from_utf8_lossy(region.name.bytes()).into_owned(),
        name_bytes: std::str::from_utf8(region.name.bytes()).err().map(|_| hex::encode(region.name.bytes())),
        file_offset: region.file_offset,
        rss: region.rss,
        dirty: region.dirty,
    }
}

fn loaded_region(saved: &SavedRegion) -> Result<Region, String> {
    let name = match &saved.name_bytes {
        Some(bytes) => Name::from(hex::decode(bytes).map_err(|error| error.to_string())?),
        None => Name::from(saved.name.as_str()),
    };
    Ok(Region {
        range: AddressRange::new(saved.start, saved.end).map_err(|error| error.to_string())?,
        permissions: Permissions::from_letters(&saved.permissions)
            .ok_or_else(|| format!("permissions {:?}", saved.permissions))?,
        kind: RegionKind::from_name(&saved.kind).ok_or_else(|| format!("kind {:?}", saved.kind))?,
        name,
        file_offset: saved.file_offset,
        saved: 0,
        rss: saved.rss,
        dirty: saved.dirty,
    })
}
