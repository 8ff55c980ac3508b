//! Who asks. Any SQL user can set `request.jwt.claims`, so they count only where the session itself may be believed; a token that
//! [`crate::auth`] has verified counts in any session, before them.
#![allow(unsafe_code)]

use crate::error::{raise, spi};
use crate::query::Kept;
use crate::render::{pinned, with_settings};
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::Value as Json;
use std::cell::RefCell;
use std::ffi::CStr;

/// The setting in which a transport hands over a token's claims.
const CLAIMS: &CStr = c"request.jwt.claims";

thread_local! {
    /// While members are evaluated for a subscription: its parameters.
    static PARAMS: RefCell<Vec<(String, String)>> = const { RefCell::new(Vec::new()) };
    /// The last claims' text and what it says: members may ask for the user once per row.
    static READ: RefCell<Option<(String, Json)>> = const { RefCell::new(None) };
    /// While members are evaluated: who asks, which they may ask once per row.
    static ASKING: RefCell<Option<String>> = const { RefCell::new(None) };
    /// While a batch of somebody else is applied again: who that is.
    static ACTING: RefCell<Option<(String, Option<Json>)>> = const { RefCell::new(None) };
}

/// The session user's claims, if they may be believed.
pub fn believed_claims() -> Option<Json> {
    if let Some(claims) = ACTING.with(|a| a.borrow().as_ref().map(|(_, claims)| claims.clone())) {
        return claims;
    }
    if let Some(claims) = crate::auth::proven_claims() {
        return Some(claims);
    }
    if !is_believed() {
        return None;
    }
    let text = setting(CLAIMS).filter(|t| !t.is_empty())?;
    if let Some((_, claims)) = READ.with(|read| read.borrow().clone()).filter(|(known, _)| *known == text) {
        return Some(claims);
    }
    match serde_json::from_str(&text) {
        Ok(claims @ Json::Object(_)) => {
            READ.with(|read| *read.borrow_mut() = Some((text, Json::clone(&claims))));
            Some(claims)
        }
        _ => raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "request.jwt.claims is not a JSON object: the transport must set it to the verified token's claims",
        ),
    }
}

/// What the settings are to say in which functions written for PostgREST and Supabase look for claims, as far as they say something else:
/// anybody may have set them. The older ones, of all claims and of one each, are left alone where they say nothing; but `sub` is given.
pub fn claim_settings(claims: Option<&Json>) -> Vec<(&'static CStr, String)> {
    const OLDER: [(&CStr, &str); 4] = [
        (c"request.jwt.claim", ""),
        (c"request.jwt.claim.sub", "sub"),
        (c"request.jwt.claim.role", "role"),
        (c"request.jwt.claim.email", "email"),
    ];
    let whole = || claims.map(Json::to_string).unwrap_or_default();
    let mut settings = vec![(CLAIMS, whole())];
    for (name, claim) in OLDER {
        let says = setting(name).unwrap_or_default();
        if says.is_empty() && claim != "sub" {
            continue;
        }
        let value = match (claim, claims.and_then(|claims| claims.get(claim))) {
            ("", _) => whole(),
            (_, None | Some(Json::Null)) => String::new(),
            (_, Some(Json::String(text))) => text.clone(),
            (_, Some(other)) => other.to_string(),
        };
        if says != value {
            settings.push((name, value));
        }
    }
    settings
}

/// Runs `f` where these settings say what is believed of who asks.
pub fn with_believed_settings<R>(f: impl FnOnce() -> R) -> R {
    let mut settings = claim_settings(believed_claims().as_ref());
    let acted = ACTING.with(|a| a.borrow().is_some());
    if !acted && is_believed() && crate::auth::proven_claims().is_none() {
        // It was believed as it is.
        settings.retain(|(name, _)| *name != CLAIMS);
    }
    match settings.is_empty() {
        true => f(),
        false => with_settings(&settings, f),
    }
}

/// Whether the session's claims may be believed.
fn is_believed() -> bool {
    // SAFETY: look-ups of the session's user and of a role by name.
    unsafe {
        let session = pg_sys::GetSessionUserId();
        let transport = pg_sys::get_role_oid(c"sync_transport".as_ptr(), true);
        pg_sys::superuser_arg(session) || (transport != pg_sys::InvalidOid && pg_sys::is_member_of_role(session, transport))
    }
}

/// A setting's value.
pub fn setting(name: &CStr) -> Option<String> {
    // SAFETY: returns NULL or a C string that stays valid until the setting changes; it is copied at once.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// The asking user: the claim `sub`, else the name of the role outside of any SECURITY DEFINER function.
pub fn asking_user() -> String {
    if let Some(user) = ACTING.with(|a| a.borrow().as_ref().map(|(user, _)| user.clone())) {
        return user;
    }
    if let Some(claims) = believed_claims() {
        return match claims.get("sub") {
            Some(Json::String(sub)) if !sub.is_empty() => sub.clone(),
            Some(Json::Number(sub)) => sub.to_string(),
            _ => raise(
                PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
                "the claims name no user: \"sub\" is missing or empty",
            ),
        };
    }
    outer_user()
}

/// The name of the role outside of any SECURITY DEFINER function.
fn outer_user() -> String {
    // SAFETY: reads the state of this backend.
    role_name(unsafe { pg_sys::GetOuterUserId() })
}

/// The name of a role, which exists.
pub fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: an unknown role is an ERROR; the name is copied.
    unsafe { CStr::from_ptr(pg_sys::GetUserNameFromId(role, false)).to_string_lossy().into_owned() }
}

/// Who writes, for records: as [`asking_user`], but no writer fails for claims that name nobody.
pub fn writing_user() -> String {
    if let Some(user) = ACTING.with(|a| a.borrow().as_ref().map(|(user, _)| user.clone())) {
        return user;
    }
    let told = || serde_json::from_str::<Json>(&setting(CLAIMS).filter(|_| is_believed())?).ok();
    let sub = crate::auth::proven_claims().or_else(told).and_then(|mut claims| claims.get_mut("sub").map(Json::take));
    match sub {
        Some(Json::String(sub)) if !sub.is_empty() => sub,
        Some(Json::Number(sub)) => sub.to_string(),
        _ => outer_user(),
    }
}

/// The role that push writes as: the claim `role` if the session may take it, else the role outside of this function.
pub fn writing_role() -> pg_sys::Oid {
    // SAFETY: look-ups of roles.
    unsafe {
        let outer = pg_sys::GetOuterUserId();
        let Some(Json::String(role)) = believed_claims().and_then(|mut c| c.get_mut("role").map(Json::take)) else {
            return outer;
        };
        let Ok(name) = std::ffi::CString::new(role.as_str()) else { error!("the claim role contains NUL") };
        let oid = pg_sys::get_role_oid(name.as_ptr(), true);
        if oid == pg_sys::InvalidOid || !pg_sys::is_member_of_role(pg_sys::GetSessionUserId(), oid) {
            raise(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("the claims ask for role \"{role}\", which this session may not take: GRANT it to the transport's role"),
            );
        }
        oid
    }
}

/// Runs `f` with `sync.user_id()` answering `user`, who is known already.
pub fn asked_by<R>(user: &str, f: impl FnOnce() -> R) -> R {
    /// Puts an end to it also when an ERROR unwinds.
    struct Clear;
    impl Drop for Clear {
        fn drop(&mut self) {
            ASKING.with(|a| *a.borrow_mut() = None);
        }
    }
    let _clear = Clear;
    ASKING.with(|a| *a.borrow_mut() = Some(user.to_owned()));
    f()
}

/// Runs `f` with `sync.param()` answering from `params`.
pub fn with_params<R>(params: &[(String, String)], f: impl FnOnce() -> R) -> R {
    /// Clears the parameters also when an ERROR unwinds.
    struct Clear;
    impl Drop for Clear {
        fn drop(&mut self) {
            PARAMS.with(|p| p.borrow_mut().clear());
        }
    }
    let _clear = Clear;
    PARAMS.with(|p| *p.borrow_mut() = params.to_vec());
    f()
}

/// Runs `f` as if `user` asked, with these claims.
pub fn acting_as<R>(user: &str, claims: Option<Json>, f: impl FnOnce() -> R) -> R {
    /// Puts an end to it also when an ERROR unwinds.
    struct Clear;
    impl Drop for Clear {
        fn drop(&mut self) {
            ACTING.with(|a| *a.borrow_mut() = None);
        }
    }
    let settings = claim_settings(claims.as_ref());
    let _clear = Clear;
    ACTING.with(|a| *a.borrow_mut() = Some((user.to_owned(), claims)));
    with_settings(&settings, f)
}

/// The role whose rights this function runs with.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: reads the state of this backend.
    unsafe { pg_sys::GetUserId() }
}

/// The number of the subtransaction that runs; 1 outside of any.
pub fn current_subtransaction() -> pg_sys::SubTransactionId {
    // SAFETY: reads the state of this backend.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// A role by its name.
pub fn role_named(name: &str) -> Option<pg_sys::Oid> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: a look-up by name.
    let oid = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// Whether nothing is denied to `role`.
pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: a look-up by OID.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Whether `role` may become `other`.
pub fn is_member(role: pg_sys::Oid, other: pg_sys::Oid) -> bool {
    // SAFETY: a look-up of roles.
    unsafe { pg_sys::is_member_of_role(role, other) }
}

/// The owner of the schema `sync`: catalog, op log and devices are read and written with its rights.
pub fn owner() -> pg_sys::Oid {
    let found = pinned(|| {
        Spi::connect(|c| {
            c.select(Kept("SELECT nspowner FROM pg_catalog.pg_namespace WHERE nspname = 'sync'"), Some(1), &[])?.first().get_one()
        })
    });
    spi("reading the owner of the schema sync", found).unwrap_or(pg_sys::Oid::INVALID)
}

/// Runs `f` with the rights of `owner`. An ERROR restores the user with the (sub)transaction.
pub fn as_owner<R>(owner: pg_sys::Oid, f: impl FnOnce() -> R) -> R {
    switched(owner, 0, f)
}

/// Runs `f` as `role`, unable to change to another or to leave anything behind.
pub fn as_role<R>(role: pg_sys::Oid, f: impl FnOnce() -> R) -> R {
    switched(role, pg_sys::SECURITY_RESTRICTED_OPERATION, f)
}

/// The same for a table's owner, who sees all of its rows, also where row level security is forced on owners.
pub fn as_table_owner<R>(owner: pg_sys::Oid, f: impl FnOnce() -> R) -> R {
    switched(owner, pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_NOFORCE_RLS, f)
}

/// Runs `f` as `role` with further flags of miscadmin.h. An ERROR restores the user with the (sub)transaction.
///
/// What a function of somebody else's sets in a restricted operation, a search_path for instance, ends with it: it would count for what
/// follows with other rights.
pub fn switched<R>(role: pg_sys::Oid, flags: u32, f: impl FnOnce() -> R) -> R {
    // SAFETY: the previous state is put back; on ERROR the (sub)transaction's abort does it.
    unsafe {
        let (mut user, mut security) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut security);
        // That a table's owner sees everything is not so for whoever is asked meanwhile.
        let kept = security & !(pg_sys::SECURITY_NOFORCE_RLS as i32);
        let level = (flags & pg_sys::SECURITY_RESTRICTED_OPERATION != 0).then(|| pg_sys::NewGUCNestLevel());
        pg_sys::SetUserIdAndSecContext(role, kept | (flags | pg_sys::SECURITY_LOCAL_USERID_CHANGE) as i32);
        let result = f();
        if let Some(level) = level {
            pg_sys::AtEOXact_GUC(false, level);
        }
        pg_sys::SetUserIdAndSecContext(user, security);
        result
    }
}

#[pg_extern(stable)]
fn claims() -> Option<JsonB> {
    believed_claims().map(JsonB)
}

#[pg_extern(stable)]
fn user_id() -> String {
    ASKING.with(|a| a.borrow().clone()).unwrap_or_else(asking_user)
}

#[pg_extern(stable, strict)]
fn param(name: &str) -> Option<String> {
    PARAMS.with(|p| p.borrow().iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()))
}
