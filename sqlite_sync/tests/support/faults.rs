//! Makes the n-th disk operation or memory allocation of SQLite go wrong: by an error, or by the end of the
//! process in the middle of a write.
//!
//! The disk is reached through the system calls of SQLite's own Unix VFS, which can be replaced for this.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unsafe_code, reason = "SQLite calls these functions, and they call what they replace")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use rusqlite::ffi;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    /// The process ends half way through a write.
    Death = 1,
    /// The device reports an error.
    InputOutput = 2,
    /// The device is full.
    Full = 3,
}

/// Operations that still go well; negative when all do.
static LEFT: AtomicI64 = AtomicI64::new(-1);
static KIND: AtomicU8 = AtomicU8::new(0);
/// Whether everything after the first fault goes wrong too.
static LASTING: AtomicU8 = AtomicU8::new(0);
static STRUCK: AtomicI64 = AtomicI64::new(0);

/// Lets `good` operations pass, then one go wrong, or all.
pub(crate) fn after(good: i64, fault: Fault, is_lasting: bool) {
    KIND.store(fault as u8, Ordering::SeqCst);
    LASTING.store(u8::from(is_lasting), Ordering::SeqCst);
    STRUCK.store(0, Ordering::SeqCst);
    LEFT.store(good, Ordering::SeqCst);
}

/// Lets everything go well again; says whether anything went wrong.
pub(crate) fn end() -> bool {
    LEFT.store(-1, Ordering::SeqCst);
    STRUCK.swap(0, Ordering::SeqCst) > 0
}

/// Counts one operation; says whether it goes wrong.
fn strikes() -> bool {
    let left = LEFT.load(Ordering::SeqCst);
    if left < 0 {
        return false;
    }
    if left > 0 {
        LEFT.store(left - 1, Ordering::SeqCst);
        return false;
    }
    if LASTING.load(Ordering::SeqCst) == 0 {
        LEFT.store(-1, Ordering::SeqCst);
    }
    STRUCK.fetch_add(1, Ordering::SeqCst);
    true
}

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

type Write = unsafe extern "C" fn(c_int, *const c_void, usize) -> isize;
type PositionedWrite = unsafe extern "C" fn(c_int, *const c_void, usize, i64) -> isize;
type Read = unsafe extern "C" fn(c_int, *mut c_void, usize) -> isize;
type PositionedRead = unsafe extern "C" fn(c_int, *mut c_void, usize, i64) -> isize;
type Truncate = unsafe extern "C" fn(c_int, i64) -> c_int;
type Unlink = unsafe extern "C" fn(*const c_char) -> c_int;

static WRITE: OnceLock<Write> = OnceLock::new();
static PWRITE: OnceLock<PositionedWrite> = OnceLock::new();
static READ: OnceLock<Read> = OnceLock::new();
static PREAD: OnceLock<PositionedRead> = OnceLock::new();
static TRUNCATE: OnceLock<Truncate> = OnceLock::new();
static UNLINK: OnceLock<Unlink> = OnceLock::new();

/// What a failing system call returns, after it has set `errno`.
fn fail() -> c_int {
    const EIO: c_int = 5;
    const ENOSPC: c_int = 28;
    let kind = KIND.load(Ordering::SeqCst);
    if kind == Fault::Death as u8 {
        std::process::abort();
    }
    // SAFETY: it takes nothing; each thread has an errno of its own.
    let errno = unsafe { __errno_location() };
    // SAFETY: the C library lets its callers write it.
    unsafe { *errno = if kind == Fault::Full as u8 { ENOSPC } else { EIO } };
    -1
}

/// How much of a write still reaches the file: half of it when the process dies there.
fn torn(count: usize) -> Option<usize> {
    (KIND.load(Ordering::SeqCst) == Fault::Death as u8).then_some(count / 2)
}

unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize {
    let original = WRITE.get().expect("installed");
    if !strikes() {
        // SAFETY: SQLite calls this as it would call the original.
        return unsafe { original(fd, bytes, count) };
    }
    if let Some(count) = torn(count) {
        // SAFETY: as above, with fewer bytes.
        unsafe { original(fd, bytes, count) };
    }
    isize::try_from(fail()).expect("it is small")
}

unsafe extern "C" fn pwrite(fd: c_int, bytes: *const c_void, count: usize, at: i64) -> isize {
    let original = PWRITE.get().expect("installed");
    if !strikes() {
        // SAFETY: SQLite calls this as it would call the original.
        return unsafe { original(fd, bytes, count, at) };
    }
    if let Some(count) = torn(count) {
        // SAFETY: as above, with fewer bytes.
        unsafe { original(fd, bytes, count, at) };
    }
    isize::try_from(fail()).expect("it is small")
}

unsafe extern "C" fn read(fd: c_int, bytes: *mut c_void, count: usize) -> isize {
    if strikes() {
        return isize::try_from(fail()).expect("it is small");
    }
    // SAFETY: SQLite calls this as it would call the original.
    unsafe { READ.get().expect("installed")(fd, bytes, count) }
}

unsafe extern "C" fn pread(fd: c_int, bytes: *mut c_void, count: usize, at: i64) -> isize {
    if strikes() {
        return isize::try_from(fail()).expect("it is small");
    }
    // SAFETY: SQLite calls this as it would call the original.
    unsafe { PREAD.get().expect("installed")(fd, bytes, count, at) }
}

unsafe extern "C" fn truncate(fd: c_int, size: i64) -> c_int {
    if strikes() {
        return fail();
    }
    // SAFETY: SQLite calls this as it would call the original.
    unsafe { TRUNCATE.get().expect("installed")(fd, size) }
}

unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    if strikes() {
        return fail();
    }
    // SAFETY: SQLite calls this as it would call the original.
    unsafe { UNLINK.get().expect("installed")(path) }
}

/// Replaces one system call of SQLite's VFS, where this build of it makes that call, and keeps the original.
macro_rules! replace {
    ($vfs:expr, $name:expr, $ours:expr, $type:ty, $kept:expr) => {
        // SAFETY: the VFS is SQLite's own and lives as long as the process.
        let get = unsafe { (*$vfs).xGetSystemCall }.expect("a Unix VFS has it");
        // SAFETY: as above.
        let set = unsafe { (*$vfs).xSetSystemCall }.expect("a Unix VFS has it");
        let name: &CStr = $name;
        // SAFETY: the name ends with a zero byte.
        if let Some(original) = unsafe { get($vfs, name.as_ptr()) } {
            // SAFETY: SQLite's table holds functions of this type under this name.
            let original = unsafe { std::mem::transmute::<unsafe extern "C" fn(), $type>(original) };
            $kept.get_or_init(|| original);
            // SAFETY: SQLite casts the pointer back before it calls it.
            let ours = unsafe { std::mem::transmute::<$type, unsafe extern "C" fn()>($ours) };
            // SAFETY: the name ends with a zero byte, the function stays for ever.
            assert_eq!(unsafe { set($vfs, name.as_ptr(), Some(ours)) }, ffi::SQLITE_OK);
        }
    };
}

/// Puts these functions between SQLite and the disk, for the whole process.
pub(crate) fn install() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        // SAFETY: NULL asks for the default VFS.
        let vfs = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) };
        assert!(!vfs.is_null(), "there is a default VFS");
        replace!(vfs, c"write", write, Write, WRITE);
        replace!(vfs, c"pwrite", pwrite, PositionedWrite, PWRITE);
        replace!(vfs, c"pwrite64", pwrite, PositionedWrite, PWRITE);
        replace!(vfs, c"read", read, Read, READ);
        replace!(vfs, c"pread", pread, PositionedRead, PREAD);
        replace!(vfs, c"pread64", pread, PositionedRead, PREAD);
        replace!(vfs, c"ftruncate", truncate, Truncate, TRUNCATE);
        replace!(vfs, c"unlink", unlink, Unlink, UNLINK);
    });
}

static ALLOCATOR: OnceLock<Allocator> = OnceLock::new();

/// SQLite's own allocator, behind the counting one.
struct Allocator {
    allocate: unsafe extern "C" fn(c_int) -> *mut c_void,
    resize: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
}

unsafe extern "C" fn allocate(size: c_int) -> *mut c_void {
    if strikes() {
        return std::ptr::null_mut();
    }
    // SAFETY: SQLite calls this as it would call the original.
    unsafe { (ALLOCATOR.get().expect("installed").allocate)(size) }
}

unsafe extern "C" fn resize(memory: *mut c_void, size: c_int) -> *mut c_void {
    if strikes() {
        return std::ptr::null_mut();
    }
    // SAFETY: SQLite calls this as it would call the original.
    unsafe { (ALLOCATOR.get().expect("installed").resize)(memory, size) }
}

/// Puts these functions between SQLite and its memory, for the whole process. To be called before the first
/// connection is opened.
pub(crate) fn install_allocator() {
    ALLOCATOR.get_or_init(|| {
        let mut methods = ffi::sqlite3_mem_methods {
            xMalloc: None,
            xFree: None,
            xRealloc: None,
            xSize: None,
            xRoundup: None,
            xInit: None,
            xShutdown: None,
            pAppData: std::ptr::null_mut(),
        };
        // SAFETY: SQLite is not initialised yet, and fills in the one structure that this call takes.
        let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods) };
        assert_eq!(code, ffi::SQLITE_OK);
        let original = Allocator {
            allocate: methods.xMalloc.expect("SQLite has an allocator"),
            resize: methods.xRealloc.expect("SQLite has an allocator"),
        };
        methods.xMalloc = Some(allocate);
        methods.xRealloc = Some(resize);
        // SAFETY: SQLite copies the structure; its functions stay for ever.
        let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut methods) };
        assert_eq!(code, ffi::SQLITE_OK, "no connection was opened before");
        original
    });
}

/// Bytes that SQLite holds.
pub(crate) fn sqlite_bytes() -> i64 {
    // SAFETY: it takes nothing and returns a number.
    unsafe { ffi::sqlite3_memory_used() }
}
