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
