//! Which file systems may not answer, by `/proc/PID/mountinfo`.
//!
//! Only the list is read: asking a file system about itself (`statfs`) is a request that it may
//! not answer.

use std::path::Path;

/// File systems whose files are kept by the kernel of this machine or on its disks, and those
/// without files that programs map.
const LOCAL: [&str; 62] = [
    "adfs",
    "affs",
    "apparmorfs",
    "autofs",
    "bcachefs",
    "befs",
    "bfs",
    "binder",
    "binfmt_misc",
    "bpf",
    "btrfs",
    "cgroup",
    "cgroup2",
    "configfs",
    "cramfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "ecryptfs",
    "efivarfs",
    "efs",
    "erofs",
    "exfat",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "fusectl",
    "hfs",
    "hfsplus",
    "hugetlbfs",
    "iso9660",
    "jffs2",
    "jfs",
    "minix",
    "mqueue",
    "msdos",
    "nilfs2",
    "nsfs",
    "ntfs3",
    "omfs",
    "proc",
    "pstore",
    "qnx4",
    "qnx6",
    "ramfs",
    "reiserfs",
    "resctrl",
    "romfs",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "tracefs",
    "ubifs",
    "udf",
    "vfat",
    "xfs",
    "zfs",
];

/// The file system whose files are those of other ones.
const OVERLAY: &str = "overlay";

/// One line of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mount {
    /// Major and minor number of its device.
    device: (u32, u32),
    /// Where it is mounted.
    place: Vec<u8>,
    /// The type of the file system.
    system: String,
    /// The folders that an overlay is made of.
    layers: Vec<Vec<u8>>,
}

/// Whether a file system answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answers<'a> {
    /// It is of this machine's kernel.
    Always,
    /// Another process or machine serves it, or it is not known; this is its type.
    Perhaps(&'a str),
    /// It is not listed.
    NotMounted,
}

/// The mounts of a process.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Mounts(Vec<Mount>);

impl Mounts {
    /// The mounts in a text of `mountinfo`; lines that are not understood are left out.
    pub(super) fn parse(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(mount).collect())
    }

    /// The mounts that this process, or the one with that number, sees.
    pub(super) fn of(pid: Option<i32>) -> Self {
        let path =
            pid.map_or_else(|| "/proc/self/mountinfo".to_owned(), |pid| format!("/proc/{pid}/mountinfo"));
        Self::parse(&std::fs::read(path).unwrap_or_default())
    }

    /// Whether there is a file system that may not answer.
    pub(super) fn any_slow(&self) -> bool {
        self.0.iter().any(|mount| self.slow(mount).is_some())
    }

    /// The device of the mount that `path` lies on, where it goes through no link.
    pub(super) fn device(&self, path: &Path) -> Option<(u32, u32)> {
        Some(self.below(path.as_os_str().as_encoded_bytes())?.device)
    }

    /// Whether the file system on a device answers.
    pub(super) fn answers(&self, device: (u32, u32)) -> Answers<'_> {
        let Some(mount) = self.0.iter().find(|mount| mount.device == device) else {
            return Answers::NotMounted;
        };
        self.slow(mount).map_or(Answers::Always, Answers::Perhaps)
    }

    /// Whether `path` lies on an overlay that answers, whose files may be listed with the device of a layer.
    ///
    /// Seen: Linux 6.6 and older, `fs/overlayfs/file.c`, `ovl_mmap`, maps the file of the layer.
    pub(super) fn overlaid(&self, path: &Path) -> bool {
        let mount = self.below(path.as_os_str().as_encoded_bytes());
        mount.is_some_and(|mount| mount.system == OVERLAY && self.slow(mount).is_none())
    }

    /// The type of a file system that may not answer; what is not known counts as such.
    fn slow<'a>(&'a self, mount: &'a Mount) -> Option<&'a str> {
        if mount.system == OVERLAY {
            // Layers that are mounted elsewhere only (in a container) are taken for local ones.
            let layers = mount.layers.iter().filter_map(|layer| self.below(layer));
            let slow = |layer: &&Mount| layer.system != OVERLAY && self.slow(layer).is_some();
            return layers
                .filter(|layer| layer.device != mount.device)
                .find(slow)
                .map(|layer| &*layer.system);
        }
        (!LOCAL.contains(&mount.system.as_str())).then_some(&*mount.system)
    }

    /// The mount with the longest place above `path`, of several there the last.
    fn below(&self, path: &[u8]) -> Option<&Mount> {
        let above = |mount: &&Mount| {
            let rest = path.strip_prefix(mount.place.strip_suffix(b"/").unwrap_or(&mount.place));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.0.iter().filter(above).max_by_key(|mount| mount.place.len())
    }
}

/// `36 35 98:0 /root /place rw,noatime master:1 - ext4 /dev/vda rw,errors=continue`
fn mount(line: &[u8]) -> Option<Mount> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let text = |word: &[u8]| Some(std::str::from_utf8(word).ok()?.to_owned());
    let (major, minor) = std::str::from_utf8(words.get(2)?).ok()?.split_once(':')?;
    let ends = words.iter().position(|word| *word == b"-")?;
    // A subtype (`fuse.sshfs`) does not change how the file system is served.
    let system = text(words.get(ends.checked_add(1)?)?)?;
    let options = words.get(ends.checked_add(3)?).copied().unwrap_or_default();
    let folders = options.split(|byte| *byte == b',').filter_map(|option| {
        let folders = ["lowerdir=", "lowerdir+=", "upperdir=", "datadir+="];
        folders.iter().find_map(|name| option.strip_prefix(name.as_bytes()))
    });
    let layers = folders.flat_map(|folders| folders.split(|byte| *byte == b':')).map(plain).collect();
    let device = (major.parse().ok()?, minor.parse().ok()?);
    Some(Mount { device, place: plain(words.get(4)?), system, layers })
}

/// A path without the escapes of the list: `\040` is a blank.
fn plain(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, others)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| others.get(..3)).flatten();
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = others.get(3..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = others;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
23 22 0:20 / /proc rw - proc proc rw
24 22 0:40 / /home/a\\040b rw shared:1 - fuse.sshfs host: rw,user_id=0
25 22 0:41 / /srv rw - nfs4 server:/ rw
26 22 0:42 / /box rw - overlay overlay rw,lowerdir=/srv/one:/usr,upperdir=/var/up,workdir=/var/work
27 22 0:43 / /own rw - overlay overlay rw,lowerdir=/usr:/elsewhere,upperdir=/var/up,workdir=/var/work
28 22 0:44 / /new rw - neverheardof x rw
29 24 0:45 / /home/a\\040b/tmp rw - tmpfs tmpfs rw
";

    #[test]
    fn what_another_process_or_machine_serves_and_what_is_not_known_may_stall() {
        let mounts = Mounts::parse(LIST.as_bytes());
        let of = |minor| mounts.answers((0, minor));
        assert_eq!(mounts.answers((254, 0)), Answers::Always);
        assert_eq!((of(20), of(45)), (Answers::Always, Answers::Always));
        assert_eq!((of(40), of(41)), (Answers::Perhaps("fuse.sshfs"), Answers::Perhaps("nfs4")));
        assert_eq!((of(44), of(99)), (Answers::Perhaps("neverheardof"), Answers::NotMounted));
        assert!(mounts.any_slow() && !Mounts::parse(b"broken\n1 2 3\n").any_slow());
    }

    #[test]
    fn an_overlay_may_stall_where_one_of_its_layers_may() {
        let mounts = Mounts::parse(LIST.as_bytes());
        assert_eq!(mounts.answers((0, 42)), Answers::Perhaps("nfs4"));
        assert_eq!(mounts.answers((0, 43)), Answers::Always);
        let overlaid = |path: &str| mounts.overlaid(Path::new(path));
        assert!(overlaid("/own/lib/x") && !overlaid("/box/lib/x") && !overlaid("/lib/x"));
    }

    #[test]
    fn a_path_lies_on_the_nearest_mount_above_it() {
        let mounts = Mounts::parse(LIST.as_bytes());
        let device = |path: &str| mounts.device(Path::new(path));
        assert_eq!(device("/home/a b/x"), Some((0, 40)));
        assert_eq!(device("/home/a b/tmp/x"), Some((0, 45)));
        assert_eq!(device("/home/a bc"), Some((254, 0)));
        assert_eq!(device("relative"), None);
    }
}
