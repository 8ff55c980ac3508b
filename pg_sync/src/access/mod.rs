//! Who gets which rows, for people who ask: on behalf of a user whose claims are given, and with the code that serves devices.
//!
//! # Layout
//! - this file: the user that is asked about
//! - [`explain`]: `sync.explain`, why a row is or is not on a user's devices
//! - [`audit`]: `sync.audit`, what the rules hand out against what policies show; [`viewer`]: a user as policies see them

mod audit;
mod explain;
pub mod viewer;

use crate::error::raise;
use crate::identity;
use crate::pull;
use crate::push::subtransaction;
use crate::render::pinned;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::Value as Json;
use viewer::{Session, Viewer};

/// The user that given claims name.
fn named_by(function: &str, claims: Option<JsonB>) -> (String, Json) {
    let refuse = |why: &str| -> ! {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("sync.{function}: {why}; claims look like {{\"sub\": \"ann\", \"role\": \"app_user\"}}"),
        )
    };
    let Some(JsonB(claims @ Json::Object(_))) = claims else { refuse("the claims are not a JSON object") };
    let user = match &claims["sub"] {
        Json::String(sub) if !sub.is_empty() => sub.clone(),
        Json::Number(sub) => sub.to_string(),
        _ => refuse("the claims name no user: \"sub\" is missing or empty"),
    };
    (user, claims)
}

/// The role that claims name, as policies see it. Policies call functions of those who own the tables, and these run with the rights of
/// that role: so it must be named, the caller must be one who may take it, and it is no superuser, to whom policies do not apply.
fn viewer_of(asked: &Asked, user: &str, claims: &Json) -> Viewer {
    let code = PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE;
    let function = asked.function;
    let Some(name) = claims["role"].as_str() else {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("sync.{function}: the claims name no role: give \"role\", the database role that the user reads as"),
        )
    };
    let Some(role) = identity::role_named(name) else {
        raise(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("sync.{function}: there is no role \"{name}\""))
    };
    if !identity::is_member(asked.caller, role) {
        raise(code, format!("sync.{function}: you may not take the role \"{name}\": GRANT it, or ask somebody who may"));
    }
    if identity::is_superuser(role) {
        raise(
            code,
            format!("sync.{function}: the role \"{name}\" is a superuser, to whom policies do not apply: name the users' role"),
        );
    }
    Viewer::new(user.to_owned(), role, Some(claims), asked.session.clone())
}

/// What is asked, by whom, and in which session.
struct Asked {
    function: &'static str,
    caller: Oid,
    session: Session,
}

impl Asked {
    /// To be made before anything is switched.
    fn now(function: &'static str) -> Self {
        Asked { function, caller: identity::current_user(), session: Session::now() }
    }
}

/// Runs `f` as if a user asked, with the rights of the owner of the schema, where nothing can be written: members of rules and policies
/// of tables are other people's code.
fn asked_by<R>(user: &str, claims: &Json, f: impl FnOnce() -> R) -> R {
    let owner = identity::owner();
    subtransaction::read_only(|| {
        identity::acting_as(user, Some(claims.clone()), || {
            identity::as_owner(owner, || {
                pinned(|| {
                    pull::refuse_if_moved(crate::catalog::has_moved());
                    Spi::connect(|_| f())
                })
            })
        })
    })
}
