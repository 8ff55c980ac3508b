//! Deferred constraints: checked at the end of each batch, then back in their declared mode for the next.

use super::role;
use crate::error::spi;
use crate::query::Kept;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

/// What the deferrable constraints of this database have been declared as.
pub struct Modes {
    any_deferred: bool,
    /// Qualified names of those that are INITIALLY IMMEDIATE.
    immediate: Option<String>,
    /// Two constraints of one name in one schema differ, and SET CONSTRAINTS cannot tell them apart.
    ambiguous: bool,
}

impl Modes {
    /// Reads them.
    pub fn read() -> Self {
        let found = Spi::connect(|c| {
            c.select(
                Kept(
                    "SELECT coalesce(bool_or(c.deferred), false),
                        string_agg(format('%I.%I', c.nspname, c.conname), ', ') FILTER (WHERE c.immediate AND NOT c.deferred),
                        coalesce(bool_or(c.deferred AND c.immediate), false)
                 FROM (SELECT n.nspname, k.conname, bool_or(k.condeferred) AS deferred, bool_or(NOT k.condeferred) AS immediate
                       FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
                       WHERE k.condeferrable AND (n.nspname NOT LIKE 'pg_temp_%' OR n.oid = pg_my_temp_schema())
                       GROUP BY 1, 2) AS c",
                ),
                Some(1),
                &[],
            )?
            .first()
            .get_three::<bool, String, bool>()
        });
        let (any_deferred, immediate, ambiguous) = spi("reading deferrable constraints", found);
        Modes { any_deferred: any_deferred.unwrap_or(false), immediate, ambiguous: ambiguous.unwrap_or(false) }
    }

    /// Checks everything that was deferred, as the user who caused it.
    pub fn check(&self, writer: Oid) {
        role::closing(writer, || set("SET CONSTRAINTS ALL IMMEDIATE"));
    }

    /// Gives each constraint its declared mode again. False: it could not be done for all, so this batch must be the
    /// transaction's last.
    pub fn restore(&self) -> bool {
        if self.any_deferred {
            set("SET CONSTRAINTS ALL DEFERRED");
            if let Some(names) = &self.immediate {
                set(&format!("SET CONSTRAINTS {names} IMMEDIATE"));
            }
        }
        !self.ambiguous
    }
}

fn set(sql: &str) {
    spi("setting constraints", Spi::run(sql));
}
