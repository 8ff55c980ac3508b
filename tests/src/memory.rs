//! SQLite's allocator, failing when it is told to. It must be put in place before SQLite is used, so in a process of its own.
//!
//! Only what SQLite allocates fails: Rust's own allocations end the process where there is no memory, by design.

use rusqlite::ffi;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

thread_local! {
    /// Allocations that still succeed; none are counted when it is negative.
    static LEFT: Cell<i64> = const { Cell::new(-1) };
    static FOR_GOOD: Cell<bool> = const { Cell::new(false) };
    static COUNTED: Cell<u32> = const { Cell::new(0) };
    static REACHED: Cell<bool> = const { Cell::new(false) };
}

type Malloc = unsafe extern "C" fn(c_int) -> *mut c_void;
type Realloc = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;

/// What SQLite would use by itself.
static REAL: OnceLock<(Malloc, Realloc)> = OnceLock::new();

/// Puts the allocator in place, and switches off the small buffers that connections keep, so that every allocation counts.
pub fn install() {
    let mut methods = MaybeUninit::<ffi::sqlite3_mem_methods>::uninit();
    // SAFETY: SQLite was not used yet in this process, fills in the structure, and copies the one that it is given.
    unsafe {
        assert_eq!(ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, methods.as_mut_ptr()), ffi::SQLITE_OK);
        let mut methods = methods.assume_init();
        let real = methods.xMalloc.zip(methods.xRealloc).expect("SQLite has an allocator");
        assert!(REAL.set(real).is_ok(), "the allocator is put in place once");
        methods.xMalloc = Some(malloc);
        methods.xRealloc = Some(realloc);
        assert_eq!(ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &mut methods as *mut _), ffi::SQLITE_OK);
        assert_eq!(ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOOKASIDE, 0 as c_int, 0 as c_int), ffi::SQLITE_OK);
    }
}

/// The allocation of this number fails, and with `for_good` every one behind it.
pub fn fail(number: i64, for_good: bool) {
    LEFT.set(number - 1);
    FOR_GOOD.set(for_good);
    REACHED.set(false);
    COUNTED.set(0);
}

/// How many allocations there were since the failure was set; before it was met.
pub fn counted() -> u32 {
    COUNTED.get()
}

/// Nothing fails any more. Answers whether something did.
pub fn calm() -> bool {
    LEFT.set(-1);
    REACHED.take()
}

fn fails() -> bool {
    match LEFT.get() {
        ..0 => false,
        0 => {
            LEFT.set(if FOR_GOOD.get() { 0 } else { -1 });
            REACHED.set(true);
            true
        }
        left => {
            LEFT.set(left - 1);
            COUNTED.set(COUNTED.get() + 1);
            false
        }
    }
}

unsafe extern "C" fn malloc(size: c_int) -> *mut c_void {
    match REAL.get() {
        // SAFETY: SQLite's own argument.
        Some((malloc, _)) if !fails() => unsafe { malloc(size) },
        _ => std::ptr::null_mut(),
    }
}

unsafe extern "C" fn realloc(old: *mut c_void, size: c_int) -> *mut c_void {
    match REAL.get() {
        // SAFETY: SQLite's own arguments.
        Some((_, realloc)) if !fails() => unsafe { realloc(old, size) },
        _ => std::ptr::null_mut(),
    }
}
