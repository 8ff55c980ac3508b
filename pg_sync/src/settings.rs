//! Settings that the SQL reads. They are defined here so that `pg_settings` lists them, and so that only a superuser (or whoever is
//! granted it) can change them: how many numbers a device may lease is not for the device's transport to say.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::{CStr, CString};

/// An interval, as text. Its default is said here and where the SQL reads it, which may be before the library is loaded.
struct Interval {
    name: &'static CStr,
    what: &'static CStr,
    more: &'static CStr,
    value: GucSetting<Option<CString>>,
}

const fn interval(name: &'static CStr, what: &'static CStr, more: &'static CStr, default: &'static CStr) -> Interval {
    Interval { name, what, more, value: GucSetting::<Option<CString>>::new(Some(default)) }
}

static INTERVALS: [Interval; 5] = [
    interval(c"sync.lease", c"How long a device may stay away and still be served from the log.", c"", c"14 days"),
    interval(
        c"sync.verify_every",
        c"How often sync.maintain() compares a table's rows with its sums.",
        c"0: only where capture was found disabled.",
        c"30 days",
    ),
    interval(c"sync.keep_records", c"How long conflicts, and what merged and rejected batches did, are kept.", c"", c"90 days"),
    interval(c"sync.keep_devices", c"How long a device that sends nothing stays registered.", c"0: for ever.", c"1 year"),
    interval(c"sync.did_document_age", c"How long a DID document counts before it must be fetched again.", c"", c"1 day"),
];
static KEYS_PER_LEASE: GucSetting<i32> = GucSetting::<i32>::new(10_000);

/// Defines them.
pub fn init() {
    for setting in &INTERVALS {
        let Interval { name, what, more, value } = setting;
        GucRegistry::define_string_guc(name, what, more, value, GucContext::Suset, GucFlags::empty());
    }
    GucRegistry::define_int_guc(
        c"sync.keys_per_lease",
        c"How many numbers a device gets at once for keys of one table, and ten times as many in a day.",
        c"",
        &KEYS_PER_LEASE,
        0,
        1_000_000_000,
        GucContext::Suset,
        GucFlags::empty(),
    );
}
