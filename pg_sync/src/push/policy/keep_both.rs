//! The losing version of a row becomes a row of its own, with a new key and a link to the winner.

use super::Link;
use crate::expr::quote;
use crate::push::batch::Row;
use crate::push::refusal::{Refusal, UNUSABLE_POLICY};
use crate::push::statements::Parameter;
use crate::render::Renderer;
use sync_shared::Value;

/// Copies the row as it is now, as the end user, with the columns in `instead` set to other values. Answers the copy's key.
pub fn copy(row: &mut Row<'_>, link: Link, key: &[Parameter], instead: &[(usize, Parameter)]) -> Result<String, Refusal> {
    let copied = row.target.columns_for(row.owner, "SELECT, INSERT");
    let table = &row.target.table;
    let place = |attnum| table.columns.iter().position(|c| c.position as i16 == attnum);
    let (Some(fresh), Some(linked)) = (link.fresh.and_then(place), place(link.link)) else {
        let message = format!(
            "table {}: keep_both cannot make a row of the losing version, since the key's or the link's column is gone or not sent to devices: declare a policy anew with sync.set_policy",
            table.name
        );
        return Err(Refusal::new(UNUSABLE_POLICY, message, ""));
    };
    let fresh_name = quote(&table.columns[fresh].name);
    let mut parameters = key.to_vec();
    let (mut names, mut values) = (vec![quote(&table.columns[linked].name)], vec![fresh_name.clone()]);
    for column in copied.into_iter().filter(|&c| c != fresh && c != linked && !table.columns[c].identity) {
        names.push(quote(&table.columns[column].name));
        values.push(match instead.iter().find(|(c, _)| *c == column) {
            Some((_, parameter)) => {
                parameters.push(*parameter);
                format!("${}", parameters.len())
            }
            None => quote(&table.columns[column].name),
        });
    }
    // One with a default or an identity is left to it.
    if table.columns[fresh].default.is_none() && !table.columns[fresh].identity {
        names.push(fresh_name.clone());
        values.push("pg_catalog.gen_random_uuid()".into());
    }
    let sql = format!(
        "INSERT INTO {0} ({1}) SELECT {2} FROM {0} {3} RETURNING {fresh_name}",
        table.name,
        names.join(", "),
        values.join(", "),
        row.target.where_key(1)
    );
    let mut renderer = Renderer::new(table.columns[fresh].type_oid);
    match row.statements.run(&sql, &parameters, &mut [&mut renderer])?.row.as_deref() {
        Some([Value::Text(key)]) => Ok(key.clone()),
        Some([Value::Integer(key)]) => Ok(key.to_string()),
        Some(_) => Ok("with a key of its own".into()),
        None => Err(row.denied("keep the losing version of")),
    }
}
