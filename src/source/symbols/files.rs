//! Which files here are of a module: the module's own, and those with what was taken out of it.
//!
//! All are believed by their build-id alone. Files of debug information are looked for where
//! distributions, `objcopy --add-gnu-debuglink` and debuginfod's client put them; no server
//! is asked.

use std::iter;
use std::path::{Path, PathBuf};

use object::{Object, ReadCache, ReadRef};

use crate::name::Name;
use crate::source::elf::{Image, file_of};
use crate::source::file::FileView;

/// A module, and where its files may be.
#[derive(Debug)]
pub(super) struct Sought {
    /// The module's file as the target calls it.
    pub name: Name,
    /// Where its own file may be, and what stands for `/`, the likeliest first.
    pub files: Vec<PathBuf>,
    pub roots: Vec<PathBuf>,
    pub build_id: Vec<u8>,
    /// The module as it is in memory, where it is.
    pub image: Option<Image>,
}

/// A file of the module.
pub(super) struct Found {
    /// Whether it is the module's own file.
    pub own: bool,
    pub path: PathBuf,
    pub file: FileView,
}

/// A file that gives the name of the one with its debug information.
struct Link {
    own: PathBuf,
    /// Its path without links.
    real: Option<PathBuf>,
    name: String,
}

/// The path of an open file without links; `None` where its file system may not answer.
pub(super) fn real(path: &Path, file: &FileView) -> Option<PathBuf> {
    file.answers().then(|| path.canonicalize().ok()).flatten()
}

impl Sought {
    /// The files that are of the module: its own first, then those with its debug information.
    ///
    /// Each is opened when it is asked for.
    pub(super) fn found(&self) -> impl Iterator<Item = Found> + '_ {
        let mut own = self.files.iter();
        let mut links = Vec::new();
        let mut debug: Option<std::vec::IntoIter<PathBuf>> = None;
        iter::from_fn(move || {
            for path in own.by_ref() {
                if let Some(file) = self.open(path) {
                    links.extend(debug_link(&file).map(|name| {
                        let (own, real) = (path.clone(), real(path, &file));
                        Link { own, real, name }
                    }));
                    return Some(Found { own: true, path: path.clone(), file });
                }
            }
            let debug = debug.get_or_insert_with(|| self.debug_files(&links).into_iter());
            debug.find_map(|path| self.open(&path).map(|file| Found { own: false, path, file }))
        })
    }

    /// The file at `path`, if it is of the module.
    fn open(&self, path: &Path) -> Option<FileView> {
        if self.build_id.is_empty() {
            return None;
        }
        let (file, image) = file_of(path, &self.build_id)?;
        self.image.as_ref().is_none_or(|own| same_addresses(&image, own)).then_some(file)
    }

    /// Where the module's debug information may be, by what its own files say.
    fn debug_files(&self, links: &[Link]) -> Vec<PathBuf> {
        let mut places: Vec<PathBuf> = Vec::new();
        let mut add = |place: PathBuf| {
            if !places.contains(&place) {
                places.push(place);
            }
        };
        by_build_id(&self.roots, &self.build_id).for_each(&mut add);
        for Link { own, real, name: link } in links {
            let named = self.name.path().parent().map(Path::to_owned);
            let real = real.as_deref().and_then(Path::parent).map(Path::to_owned);
            let here = own.parent().map(Path::to_owned);
            for folder in [here, real.clone()].into_iter().flatten() {
                add(folder.join(link));
                add(folder.join(".debug").join(link));
            }
            for folder in [named, real].into_iter().flatten() {
                let Ok(folder) = folder.strip_prefix("/") else { continue };
                for root in &self.roots {
                    add(root.join("usr/lib/debug").join(folder).join(link));
                }
            }
        }
        fetched(&self.build_id).into_iter().for_each(add);
        places
    }
}

/// Whether both were linked to the same addresses.
///
/// Observed: prelink moved libraries in place and left their build-ids as they were,
/// and their debug files where they had been.
fn same_addresses(one: &Image, other: &Image) -> bool {
    let loads = |image: &Image| -> Vec<(u64, u64)> {
        let loaded = image.segments.iter().filter(|segment| segment.loaded());
        loaded.map(|segment| (segment.address, segment.memory_size)).collect()
    };
    loads(one) == loads(other)
}

/// Where distributions put the debug information of the file with that build-id.
pub(super) fn by_build_id<'a>(
    roots: &'a [PathBuf],
    build_id: &[u8],
) -> impl Iterator<Item = PathBuf> + use<'a> {
    let spelled = hex::encode(build_id);
    let split = spelled.split_at_checked(2).filter(|(_, rest)| !rest.is_empty());
    let place = split.map(|(folder, rest)| Path::new(folder).join(format!("{rest}.debug")));
    let under = move |root: &PathBuf| Some(root.join("usr/lib/debug/.build-id").join(place.as_ref()?));
    roots.iter().filter_map(under)
}

/// Where debuginfod's client keeps what was once fetched, by gdb for instance.
pub(super) fn fetched(build_id: &[u8]) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("DEBUGINFOD_CACHE_PATH")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("debuginfod_client")))
        .or_else(|| Some(set("HOME")?.join(".cache/debuginfod_client")))?;
    Some(cache.join(hex::encode(build_id)).join("debuginfo"))
}

/// The name that the file gives for the one with its debug information.
fn debug_link(file: &FileView) -> Option<String> {
    fn read<'data>(data: impl ReadRef<'data>) -> Option<String> {
        let file = object::File::parse(data).ok()?;
        let (name, _) = file.gnu_debuglink().ok()??;
        Some(std::str::from_utf8(name).ok()?.to_owned())
    }
    let name = match file.mapped() {
        Some(bytes) => read(bytes),
        None => read(&ReadCache::new(file.reader().ok()?)),
    }?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}
