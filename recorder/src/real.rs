//! The functions that the recorder stands before, and what is there before they are known.

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

/// The next function of that name, once it is found; its address is the first member, because
/// assembly jumps through it.
#[repr(C)]
pub(crate) struct Next {
    at: AtomicUsize,
    name: &'static CStr,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Self { name, at: AtomicUsize::new(0) }
    }

    /// Looks for the function in the libraries behind this one.
    fn find(&self) {
        // SAFETY: a name that ends in zero, and the handle that says "behind me".
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.at.store(found as usize, Ordering::Release);
    }

    #[inline]
    fn get(&self) -> usize {
        self.at.load(Ordering::Relaxed)
    }
}

static MALLOC: Next = Next::new(c"malloc");
static CALLOC: Next = Next::new(c"calloc");
static REALLOC: Next = Next::new(c"realloc");
static FREE: Next = Next::new(c"free");
static POSIX_MEMALIGN: Next = Next::new(c"posix_memalign");
static ALIGNED_ALLOC: Next = Next::new(c"aligned_alloc");
static MEMALIGN: Next = Next::new(c"memalign");
static VALLOC: Next = Next::new(c"valloc");
static PVALLOC: Next = Next::new(c"pvalloc");
static DLCLOSE: Next = Next::new(c"dlclose");
static PRCTL: Next = Next::new(c"prctl");
pub(crate) static SYSCALL: Next = Next::new(c"syscall");
static FIND_OBJECT: Next = Next::new(c"_dl_find_object");

/// Finds them all; whether memory can be had at all.
pub(crate) fn find() -> bool {
    // Ours first that dlsym itself may need.
    let all = [
        &CALLOC,
        &MALLOC,
        &FREE,
        &REALLOC,
        &POSIX_MEMALIGN,
        &ALIGNED_ALLOC,
        &MEMALIGN,
        &VALLOC,
        &PVALLOC,
        &DLCLOSE,
        &PRCTL,
        &SYSCALL,
        &FIND_OBJECT,
    ];
    for next in all {
        next.find();
    }
    MALLOC.get() != 0 && FREE.get() != 0 && CALLOC.get() != 0 && REALLOC.get() != 0
}

type One = unsafe extern "C" fn(usize) -> *mut c_void;
type Two = unsafe extern "C" fn(usize, usize) -> *mut c_void;
type Resize = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
type Give = unsafe extern "C" fn(*mut c_void);
type Place = unsafe extern "C" fn(*mut *mut c_void, usize, usize) -> c_int;
type Find = unsafe extern "C" fn(*mut c_void, *mut Object) -> c_int;
type Control = unsafe extern "C" fn(c_int, u64, u64, u64, u64) -> c_int;
type Call = unsafe extern "C" fn(c_long, u64, u64, u64, u64, u64, u64) -> c_long;
type Close = unsafe extern "C" fn(*mut c_void) -> c_int;

/// What the address is, as the function that it is the address of.
macro_rules! function {
    ($next:expr, $kind:ty) => {{
        let at = $next.get();
        // SAFETY: dlsym gave the address of the function of that name, whose type the C
        // standard, POSIX or glibc fixes; zero is `None`.
        unsafe { core::mem::transmute::<usize, Option<$kind>>(at) }
    }};
}

/// `malloc` of the library behind.
#[inline]
pub(crate) fn malloc(size: usize) -> *mut c_void {
    match function!(MALLOC, One) {
        // SAFETY: any size may be asked for; likewise below.
        Some(next) => unsafe { next(size) },
        None => early(size, 16),
    }
}

#[inline]
pub(crate) fn calloc(count: usize, size: usize) -> *mut c_void {
    match function!(CALLOC, Two) {
        // SAFETY: any size may be asked for.
        Some(next) => unsafe { next(count, size) },
        None => early(count.saturating_mul(size), 16),
    }
}

/// # Safety
///
/// `block` is null or one that these functions gave and that was not given back.
pub(crate) unsafe fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    match function!(REALLOC, Resize) {
        // SAFETY: by the caller's word.
        Some(next) if !is_early(block) => unsafe { next(block, size) },
        _ => {
            let fresh = malloc(size);
            if !fresh.is_null() && !block.is_null() {
                let end = (&raw const POOL) as usize + POOL_BYTES;
                let length = size.min(end - block as usize);
                // SAFETY: both have that many bytes: what lies behind an early block, too,
                // is of the pool.
                unsafe { core::ptr::copy_nonoverlapping(block.cast::<u8>(), fresh.cast::<u8>(), length) };
            }
            fresh
        }
    }
}

/// # Safety
///
/// As for [`realloc`].
#[inline]
pub(crate) unsafe fn free(block: *mut c_void) {
    if is_early(block) {
        return;
    }
    if let Some(next) = function!(FREE, Give) {
        // SAFETY: by the caller's word.
        unsafe { next(block) };
    }
}

/// # Safety
///
/// `place` has room for an address.
pub(crate) unsafe fn posix_memalign(place: *mut *mut c_void, alignment: usize, size: usize) -> c_int {
    match function!(POSIX_MEMALIGN, Place) {
        // SAFETY: by the caller's word.
        Some(next) => unsafe { next(place, alignment, size) },
        None => libc::ENOMEM,
    }
}

pub(crate) fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    two(function!(ALIGNED_ALLOC, Two), alignment, size)
}

pub(crate) fn memalign(alignment: usize, size: usize) -> *mut c_void {
    two(function!(MEMALIGN, Two), alignment, size)
}

fn two(next: Option<Two>, alignment: usize, size: usize) -> *mut c_void {
    match next {
        // SAFETY: any alignment and size may be asked for.
        Some(next) => unsafe { next(alignment, size) },
        None => core::ptr::null_mut(),
    }
}

pub(crate) fn valloc(size: usize) -> *mut c_void {
    one(function!(VALLOC, One), size)
}

pub(crate) fn pvalloc(size: usize) -> *mut c_void {
    one(function!(PVALLOC, One), size)
}

fn one(next: Option<One>, size: usize) -> *mut c_void {
    match next {
        // SAFETY: any size may be asked for.
        Some(next) => unsafe { next(size) },
        None => core::ptr::null_mut(),
    }
}

/// # Safety
///
/// `library` is what dlopen gave.
pub(crate) unsafe fn dlclose(library: *mut c_void) -> c_int {
    match function!(DLCLOSE, Close) {
        // SAFETY: by the caller's word.
        Some(next) => unsafe { next(library) },
        None => -1,
    }
}

/// # Safety
///
/// As of the call.
pub(crate) unsafe fn prctl(option: c_int, second: u64, third: u64, fourth: u64, fifth: u64) -> c_int {
    match function!(PRCTL, Control) {
        // SAFETY: by the caller's word.
        Some(next) => unsafe { next(option, second, third, fourth, fifth) },
        None => unknown(),
    }
}

/// # Safety
///
/// As of the call.
pub(crate) unsafe fn syscall(number: c_long, arguments: [u64; 6]) -> c_long {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    match function!(SYSCALL, Call) {
        // SAFETY: by the caller's word.
        Some(next) => unsafe { next(number, first, second, third, fourth, fifth, sixth) },
        None => c_long::from(unknown()),
    }
}

/// What a function answers that the C library does not have.
fn unknown() -> c_int {
    // SAFETY: glibc gives each thread its own.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

/// A module as `_dl_find_object` tells it (glibc 2.35, `dlfcn/dlfcn.h`).
#[repr(C)]
pub(crate) struct Object {
    flags: u64,
    pub(crate) start: u64,
    end: u64,
    /// The first words of `struct link_map`: what is to be added to addresses, and the name.
    pub(crate) link_map: *const (u64, *const c_char),
    frames: u64,
    reserved: [u64; 7],
}

/// The module that holds an address: `None` where the C library has no such function, and
/// within it `None` where there is no such module.
#[expect(clippy::option_option, reason = "the two are different answers")]
pub(crate) fn object(address: u64) -> Option<Option<Object>> {
    let find = function!(FIND_OBJECT, Find)?;
    let mut found = core::mem::MaybeUninit::<Object>::zeroed();
    // SAFETY: any address may be asked for; there is room for the answer, which is all numbers.
    let status = unsafe { find(address as *mut c_void, found.as_mut_ptr()) };
    // SAFETY: as above.
    Some((status == 0).then(|| unsafe { found.assume_init() }))
}

const POOL_BYTES: usize = 1 << 16;

#[repr(align(16))]
struct Pool(core::cell::UnsafeCell<[u8; POOL_BYTES]>);

// SAFETY: its bytes are handed out once each, by an atomic count.
unsafe impl Sync for Pool {}

/// Memory for whoever asks before malloc of the library behind is known: dlsym itself, in
/// some versions of glibc. It is never given back.
static POOL: Pool = Pool(core::cell::UnsafeCell::new([0; POOL_BYTES]));
static POOL_USED: AtomicUsize = AtomicUsize::new(0);

fn early(size: usize, alignment: usize) -> *mut c_void {
    let room = size.max(1).checked_next_multiple_of(alignment);
    let Some(room) = room.filter(|room| *room <= POOL_BYTES) else { return core::ptr::null_mut() };
    let at = POOL_USED.fetch_add(room, Ordering::Relaxed);
    if at.saturating_add(room) > POOL_BYTES {
        return core::ptr::null_mut();
    }
    // SAFETY: within the pool, and handed out once only.
    unsafe { POOL.0.get().cast::<u8>().add(at).cast() }
}

/// Whether the block came from before malloc was known.
#[inline]
pub(crate) fn is_early(block: *const c_void) -> bool {
    let start = (&raw const POOL) as usize;
    (block as usize).wrapping_sub(start) < POOL_BYTES
}
