//! A VFS that stands between SQLite and the disk and fails when it is told to: it stops the world after the n-th call that
//! writes, fails one call, or loses at a power loss what was not synced.
//!
//! What it does is set for each thread, as SQLite calls a VFS on the thread that called SQLite. Files are really written, so what
//! is there after a stop is opened with the ordinary VFS.

use fastrand::Rng;
use rusqlite::ffi;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::fs;
use std::ptr;
use std::sync::Once;

const NAME: &CStr = c"faults";
/// A sector: what a disk writes entirely or not at all.
const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// So many calls that write are done; every call behind them fails, as if the process had ended there.
    Stop(u32),
    /// This one call fails, whatever it is; later ones work.
    Error(u32),
    /// The same, and a write finds the disk full.
    Full(u32),
}

/// What a power loss leaves of unsynced writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// Nothing.
    Nothing,
    /// Any of them, also parts of them, in any order.
    Some,
}

struct World {
    fault: Fault,
    calls: u32,
    reached: bool,
    /// What each name may stand for after a power loss, by path: the oldest first, the last is how it is now. None: not watched.
    names: Option<BTreeMap<String, Vec<Inode>>>,
}

/// A file as the disk has it.
enum Inode {
    Absent,
    /// new: a journal whose first sync is yet to come; SQLite then syncs the folder as well.
    File {
        synced: Vec<u8>,
        unsynced: Vec<Change>,
        new: bool,
    },
}

enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

thread_local! {
    static WORLD: RefCell<World> = const { RefCell::new(World { fault: Fault::None, calls: 0, reached: false, names: None }) };
}

/// The name to open files with.
pub fn name() -> &'static CStr {
    register();
    NAME
}

/// Sets what goes wrong from now on, on this thread.
pub fn set(fault: Fault) {
    WORLD.with_borrow_mut(|world| (world.fault, world.calls, world.reached) = (fault, 0, false));
}

/// Nothing goes wrong any more. Answers whether something did.
pub fn calm() -> bool {
    WORLD.with_borrow_mut(|world| {
        world.fault = Fault::None;
        std::mem::take(&mut world.reached)
    })
}

/// How many calls were counted since the fault was set.
pub fn counted() -> u32 {
    WORLD.with_borrow(|world| world.calls)
}

/// From now on what is written and not synced is remembered, for [`lose_power`]. To be called before the files are opened.
pub fn watch() {
    WORLD.with_borrow_mut(|world| world.names = Some(BTreeMap::new()));
}

/// Leaves on the disk what was synced, and of the rest what `leaves` says. To be called when the files are closed.
pub fn lose_power(leaves: Leaves, rng: &mut Rng) {
    for (path, inodes) in WORLD.with_borrow_mut(|world| world.names.take()).unwrap_or_default() {
        let chosen = if leaves == Leaves::Nothing { 0 } else { rng.usize(..inodes.len()) };
        match inodes.get(chosen) {
            Some(Inode::File { synced, unsynced, .. }) => {
                let mut content = synced.clone();
                for change in unsynced {
                    if leaves == Leaves::Some && rng.bool() {
                        change.apply(&mut content, rng);
                    }
                }
                fs::write(&path, content).expect("a file is put back");
            }
            _ => drop(fs::remove_file(&path)),
        }
        // Shared memory is no file on a disk.
        drop(fs::remove_file(format!("{path}-shm")));
    }
}

impl Change {
    /// A write may be torn: only its first sectors arrive.
    fn apply(&self, content: &mut Vec<u8>, rng: &mut Rng) {
        match self {
            Change::Truncate(size) => content.truncate(*size),
            Change::Write(at, bytes) => {
                let sectors = bytes.len().div_ceil(SECTOR);
                let torn = if rng.u8(..4) == 0 { rng.usize(..=sectors) * SECTOR } else { bytes.len() };
                let bytes = &bytes[..torn.min(bytes.len())];
                self::write(content, *at, bytes);
            }
        }
    }
}

fn write(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Open,
    Create,
    Read,
    Write,
    Truncate,
    Sync,
    Delete,
    Size,
    Access,
    Lock,
    Map,
}

impl Call {
    fn writes(self) -> bool {
        matches!(self, Call::Create | Call::Write | Call::Truncate | Call::Sync | Call::Delete)
    }

    fn error(self) -> c_int {
        match self {
            Call::Open | Call::Create => ffi::SQLITE_CANTOPEN,
            Call::Read => ffi::SQLITE_IOERR_READ,
            Call::Write => ffi::SQLITE_IOERR_WRITE,
            Call::Truncate => ffi::SQLITE_IOERR_TRUNCATE,
            Call::Sync => ffi::SQLITE_IOERR_FSYNC,
            Call::Delete => ffi::SQLITE_IOERR_DELETE,
            Call::Size => ffi::SQLITE_IOERR_FSTAT,
            Call::Access => ffi::SQLITE_IOERR_ACCESS,
            Call::Lock => ffi::SQLITE_IOERR_LOCK,
            Call::Map => ffi::SQLITE_IOERR_SHMMAP,
        }
    }
}

/// Counts a call. An error: it is not made.
fn gate(call: Call) -> Result<(), c_int> {
    WORLD.with_borrow_mut(|world| match world.fault {
        Fault::None => Ok(()),
        Fault::Stop(_) if world.reached => Err(call.error()),
        Fault::Stop(at) => {
            world.calls += u32::from(call.writes());
            world.reached = world.calls > at;
            if world.reached {
                Err(call.error())
            } else {
                Ok(())
            }
        }
        Fault::Error(at) | Fault::Full(at) => {
            world.calls += 1;
            if world.calls != at {
                return Ok(());
            }
            world.reached = true;
            let full = call == Call::Write && world.fault == Fault::Full(at);
            Err(if full { ffi::SQLITE_FULL } else { call.error() })
        }
    })
}

/// Changes what a watched name stands for.
fn inode(path: &str, change: impl FnOnce(&mut Vec<Inode>)) {
    WORLD.with_borrow_mut(|world| {
        if let Some(inodes) = world.names.as_mut().and_then(|names| names.get_mut(path)) {
            change(inodes);
        }
    });
}

fn changed(path: &str, change: impl FnOnce() -> Change) {
    inode(path, |inodes| {
        if let Some(Inode::File { unsynced, .. }) = inodes.last_mut() {
            unsynced.push(change());
        }
    });
}

/// What is written is on the disk, under this name, and nothing older is.
fn synced(path: &str) {
    let mut folder = false;
    inode(path, |inodes| {
        inodes.drain(..inodes.len() - 1);
        if let Some(Inode::File { synced, unsynced, new }) = inodes.last_mut() {
            folder = std::mem::take(new);
            for change in unsynced.drain(..) {
                match change {
                    Change::Write(at, bytes) => write(synced, at, &bytes),
                    Change::Truncate(size) => synced.truncate(size),
                }
            }
        }
    });
    if folder {
        folder_synced();
    }
}

/// Every name stands for what it stands for now.
fn folder_synced() {
    WORLD.with_borrow_mut(|world| {
        for inodes in world.names.iter_mut().flat_map(BTreeMap::values_mut) {
            inodes.drain(..inodes.len() - 1);
        }
    });
}

fn opened(path: &str, content: Option<Vec<u8>>, journal: bool) {
    WORLD.with_borrow_mut(|world| {
        let Some(names) = &mut world.names else { return };
        let inodes = names.entry(path.to_owned()).or_default();
        let before = if inodes.is_empty() { content } else { None };
        match (before, inodes.last()) {
            (Some(synced), _) => inodes.push(Inode::File { synced, unsynced: Vec::new(), new: false }),
            (None, Some(Inode::File { .. })) => {}
            (None, last) => {
                if last.is_none() {
                    inodes.push(Inode::Absent);
                }
                inodes.push(Inode::File { synced: Vec::new(), unsynced: Vec::new(), new: journal });
            }
        }
    });
}

/// An open file: the real one's structure follows it in memory.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    /// Its path, a `Box<String>`; null for temporary files.
    path: *mut String,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write_to),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Makes the VFS known to SQLite, once.
fn register() {
    static ONCE: Once = Once::new();
    // SAFETY: the default VFS lives as long as the process, and so does the copy, which is registered under another name.
    ONCE.call_once(|| unsafe {
        let mut vfs = *ffi::sqlite3_vfs_find(ptr::null());
        vfs.szOsFile += size_of::<File>() as c_int;
        vfs.pNext = ptr::null_mut();
        vfs.zName = NAME.as_ptr();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        vfs.xAccess = Some(access);
        let code = ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0);
        assert_eq!(code, ffi::SQLITE_OK, "the VFS is registered");
    });
}

/// Calls the method of the real file, or of the default VFS. Only inside `unsafe`: the arguments are SQLite's own.
macro_rules! real {
    ($file:ident.$method:ident($($arg:expr),*)) => {{
        let file = $file.cast::<u8>().add(size_of::<File>()).cast::<ffi::sqlite3_file>();
        ((*(*file).pMethods).$method.expect("the system's VFS has it"))(file, $($arg),*)
    }};
    ($method:ident($($arg:expr),*)) => {{
        let vfs = ffi::sqlite3_vfs_find(ptr::null());
        ((*vfs).$method.expect("the system's VFS has it"))(vfs, $($arg),*)
    }};
}

/// A gate in front of a call.
macro_rules! pass {
    ($call:expr) => {
        if let Err(code) = gate($call) {
            return code;
        }
    };
}

/// SAFETY: `path` is NULL or a text that lives for `'a`.
unsafe fn text<'a>(path: *const c_char) -> &'a str {
    if path.is_null() {
        return "";
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(path) }.to_str().unwrap_or("")
}

/// SAFETY: `file` is one of ours, and open.
unsafe fn path<'a>(file: *mut ffi::sqlite3_file) -> &'a str {
    // SAFETY: the caller's promise; the path lives until the file is closed.
    unsafe { (*file.cast::<File>()).path.as_ref() }.map_or("", String::as_str)
}

// SAFETY of the following functions: SQLite alone calls them, with files that `open` has opened and arguments of its own, which go
// on to the real VFS as they came.

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: see above; SQLite gives room for both structures.
    unsafe {
        (*file).pMethods = ptr::null();
        let path = text(name);
        // Before the system opens it: closing another handle would let go of SQLite's locks.
        let before = if path.is_empty() || flags & ffi::SQLITE_OPEN_CREATE == 0 { None } else { fs::read(path).ok() };
        let creates = before.is_none() && flags & ffi::SQLITE_OPEN_CREATE != 0 && !path.is_empty();
        pass!(if creates { Call::Create } else { Call::Open });
        let inner = file.cast::<u8>().add(size_of::<File>()).cast::<ffi::sqlite3_file>();
        let code = real!(xOpen(name, inner, flags, out));
        if code != ffi::SQLITE_OK {
            if !(*inner).pMethods.is_null() {
                real!(file.xClose());
            }
            return code;
        }
        let own = &mut *file.cast::<File>();
        own.path = ptr::null_mut();
        if !path.is_empty() {
            opened(path, before, flags & ffi::SQLITE_OPEN_MAIN_DB == 0);
            own.path = Box::into_raw(Box::new(path.to_owned()));
        }
        own.base.pMethods = &METHODS;
        code
    }
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync_folder: c_int) -> c_int {
    pass!(Call::Delete);
    // SAFETY: see above.
    unsafe {
        let code = real!(xDelete(name, sync_folder));
        if code == ffi::SQLITE_OK {
            inode(text(name), |inodes| inodes.push(Inode::Absent));
            if sync_folder != 0 {
                folder_synced();
            }
        }
        code
    }
}

unsafe extern "C" fn access(_: *mut ffi::sqlite3_vfs, name: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
    pass!(Call::Access);
    // SAFETY: see above.
    unsafe { real!(xAccess(name, flags, out)) }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see above; the path was made by `open` and is not used again.
    unsafe {
        let path = (*file.cast::<File>()).path;
        if !path.is_null() {
            drop(Box::from_raw(path));
        }
        real!(file.xClose())
    }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, buffer: *mut c_void, length: c_int, at: i64) -> c_int {
    pass!(Call::Read);
    // SAFETY: see above.
    unsafe { real!(file.xRead(buffer, length, at)) }
}

unsafe extern "C" fn write_to(file: *mut ffi::sqlite3_file, buffer: *const c_void, length: c_int, at: i64) -> c_int {
    pass!(Call::Write);
    // SAFETY: see above; SQLite's buffer has that length.
    unsafe {
        let code = real!(file.xWrite(buffer, length, at));
        if code == ffi::SQLITE_OK {
            let bytes = std::slice::from_raw_parts(buffer.cast::<u8>(), length as usize);
            changed(path(file), || Change::Write(at as usize, bytes.to_owned()));
        }
        code
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    pass!(Call::Truncate);
    // SAFETY: see above.
    unsafe {
        let code = real!(file.xTruncate(size));
        if code == ffi::SQLITE_OK {
            changed(path(file), || Change::Truncate(size as usize));
        }
        code
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    pass!(Call::Sync);
    // The system's own is left out: no power is lost while these tests run.
    // SAFETY: see above.
    synced(unsafe { path(file) });
    ffi::SQLITE_OK
}

unsafe extern "C" fn size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    pass!(Call::Size);
    // SAFETY: see above.
    unsafe { real!(file.xFileSize(out)) }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(Call::Lock);
    // SAFETY: see above.
    unsafe { real!(file.xLock(level)) }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see above.
    unsafe { real!(file.xUnlock(level)) }
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: see above.
    unsafe { real!(file.xCheckReservedLock(out)) }
}

unsafe extern "C" fn control(file: *mut ffi::sqlite3_file, what: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: see above.
    unsafe { real!(file.xFileControl(what, argument)) }
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see above.
    unsafe { real!(file.xSectorSize()) }
}

unsafe extern "C" fn characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see above.
    unsafe { real!(file.xDeviceCharacteristics()) }
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    page: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    pass!(Call::Map);
    // SAFETY: see above.
    unsafe { real!(file.xShmMap(page, size, extend, out)) }
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, at: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: see above.
    unsafe { real!(file.xShmLock(at, count, flags)) }
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: see above.
    unsafe { real!(file.xShmBarrier()) }
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    let stopped = WORLD.with_borrow(|world| world.reached && matches!(world.fault, Fault::Stop(_)));
    // SAFETY: see above.
    unsafe { real!(file.xShmUnmap(if stopped { 0 } else { delete })) }
}
