//! Errors as Postgres reports them.

use pgrx::prelude::*;

/// Raises a Postgres ERROR. The message names the object and says what to do.
pub fn raise(code: PgSqlErrorCode, message: impl Into<String>) -> ! {
    ereport!(ERROR, code, message.into());
}

/// Unwraps the result of an SPI call; `doing` says what failed.
pub fn spi<T>(doing: &str, result: Result<T, pgrx::spi::Error>) -> T {
    match result {
        Ok(value) => value,
        Err(e) => raise(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("pg_sync: {doing}: {e}")),
    }
}

/// Runs `f`; an ERROR in it is raised again with the place (`rule "x", table y`) in front of its message.
pub fn named<R>(place: &str, f: impl FnOnce() -> R) -> R {
    use pgrx::pg_sys::panic::CaughtError;
    let place = place.to_owned();
    // Nothing goes on after the ERROR, which is only given its place: no subtransaction is needed, and nothing is left to see
    // in a broken state.
    PgTryBuilder::new(std::panic::AssertUnwindSafe(f))
        .catch_others(move |error| match error {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) if !report.message().starts_with("rule ") => {
                raise(report.sql_error_code(), format!("{place}: {}", report.message()))
            }
            other => other.rethrow(),
        })
        .execute()
}
