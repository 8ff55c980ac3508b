//! Making rows what they were: found in the history under pinned settings, written as the caller would write.

use crate::error::{raise, spi};
use crate::expr::relation_name;
use crate::render::pinned;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::Uuid;

/// A row and what it should be again, both as JSON; None: not there.
struct Image {
    relation: Oid,
    key: String,
    row: Option<String>,
    /// When somebody changed it again, and who.
    later: Option<(String, String)>,
}

#[pg_extern]
fn restore_row(table: Option<Oid>, key: Option<String>, moment: Option<TimestampWithTimeZone>) -> String {
    let Some(relation) = table else { error!("sync.restore_row needs a table") };
    let found = pinned(|| {
        Spi::connect_mut(|c| {
            c.update("SELECT sync.check_reach($1::oid::regclass, $2)", None, &[relation.into(), moment.into()])?;
            let sql = "SELECT k.key::text, r.changed, r.image::text FROM sync.history_key($1::oid::regclass, $2) AS k (key),
                           sync.row_at($1::oid::regclass, k.key, $3) AS r";
            c.select(sql, Some(1), &[relation.into(), key.into(), moment.into()])?.first().get_three::<String, bool, String>()
        })
    });
    let (key, changed, row) = spi("reading the history of a row", found);
    if changed != Some(true) {
        return "unchanged".into();
    }
    let Some(key) = key else { error!("sync.restore_row needs a key") };
    put(&Image { relation, key, row, later: None }).into()
}

#[pg_extern]
fn restore_batch(device: Option<Uuid>, number: Option<i64>, force: Option<bool>) -> i32 {
    let images = pinned(|| images(device, number));
    if images.is_empty() {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "nothing is known of this batch: it changed no table with a history, or its time is over",
        );
    }
    let changed_again = images.iter().find(|image| image.later.is_some() && force != Some(true));
    if let Some(Image { relation, key, later: Some((at, by)), .. }) = changed_again {
        let message = format!("table {}: row {key} was changed again at {at} by {by}", relation_name(*relation));
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{message}: restore rows one by one with sync.restore_row, or all of them with force => true"),
        );
    }
    images.iter().filter(|image| put(image) != "unchanged").count() as i32
}

fn images(device: Option<Uuid>, number: Option<i64>) -> Vec<Image> {
    let read = Spi::connect(|c| {
        let mut images = Vec::new();
        let sql = "SELECT rel::oid, key::text, image::text, later::text, later_by FROM sync.batch_images($1, $2)";
        for row in c.select(sql, None, &[device.into(), number.into()])? {
            images.push(Image {
                relation: row.get(1)?.unwrap_or(Oid::INVALID),
                key: row.get(2)?.unwrap_or_default(),
                row: row.get(3)?,
                later: row.get::<String>(4)?.zip(row.get::<String>(5)?),
            });
        }
        Ok::<_, spi::Error>(images)
    });
    spi("reading the history of a batch", read)
}

/// Writes with the caller's rights and settings. The statements name everything in full.
fn put(image: &Image) -> &'static str {
    let statements = pinned(|| {
        let sql = "SELECT sync.restore_statements($1::oid::regclass, $2::jsonb)";
        Spi::connect(|c| {
            c.select(sql, Some(1), &[image.relation.into(), image.row.clone().into()])?.first().get_one::<Vec<String>>()
        })
    });
    for sql in spi("writing SQL that restores a row", statements).unwrap_or_default() {
        let arguments = [image.key.clone().into(), image.row.clone().into()];
        let done = Spi::connect_mut(|c| Ok(c.update(&sql, None, &arguments)?.len()));
        if spi("restoring a row", done) > 0 {
            return if image.row.is_some() { "restored" } else { "removed" };
        }
    }
    "unchanged"
}
