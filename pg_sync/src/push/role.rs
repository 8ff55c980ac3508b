//! Whose rights and whose settings a part of push runs with.
#![allow(unsafe_code)]

use crate::identity::switched;
use pgrx::pg_sys;

/// Runs `f` as the end user: policies, grants and triggers see what they would see if the user's session had written itself.
///
/// Settings that triggers leave behind are undone. The operation is not a restricted one, because Postgres refuses to queue
/// deferred constraints in those; [`closing`] is, so that none of them is left to be run later with other rights.
pub fn as_writer<R>(role: pg_sys::Oid, f: impl FnOnce() -> R) -> R {
    // SAFETY: the level opened here is closed here, or by the subtransaction's abort.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        let result = switched(role, 0, f);
        pg_sys::AtEOXact_GUC(false, level);
        result
    }
}

/// Runs `f` as the end user in a restricted operation: anything that would be deferred is an ERROR.
pub fn closing<R>(role: pg_sys::Oid, f: impl FnOnce() -> R) -> R {
    switched(role, pg_sys::SECURITY_RESTRICTED_OPERATION, f)
}

/// Whether `role` may read every column of a table, system columns included.
pub fn may_select(relation: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // From Postgres 16 on the two are not of one type.
    #[allow(clippy::useless_conversion)]
    let mode: pg_sys::AclMode = pg_sys::ACL_SELECT.into();
    // SAFETY: a look-up by OID.
    unsafe { pg_sys::pg_class_aclcheck(relation, role, mode) == pg_sys::AclResult::ACLCHECK_OK }
}

/// Whether `role` may insert into a table, or into some of its columns.
pub fn may_insert(relation: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    #[allow(clippy::useless_conversion)]
    let mode: pg_sys::AclMode = pg_sys::ACL_INSERT.into();
    // SAFETY: look-ups by OID.
    unsafe {
        pg_sys::pg_class_aclcheck(relation, role, mode) == pg_sys::AclResult::ACLCHECK_OK
            || pg_sys::pg_attribute_aclcheck_all(relation, role, mode, pg_sys::AclMaskHow::ACLMASK_ANY)
                == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Keeps a table's columns as they are until the transaction ends.
pub fn keep_columns(relation: pg_sys::Oid) {
    // SAFETY: takes a lock by OID, also of a relation that is gone.
    unsafe { pg_sys::LockRelationOid(relation, pg_sys::AccessShareLock as i32) }
}

/// Whether nothing can be written here: a standby, or a read-only transaction.
pub fn read_only() -> bool {
    // SAFETY: reads the state of this backend.
    unsafe { pg_sys::XactReadOnly || pg_sys::RecoveryInProgress() }
}
