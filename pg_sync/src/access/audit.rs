//! `sync.audit`: what the rules hand out to a user against what the tables' policies show them.

use super::explain::bucket_key;
use super::viewer::{View, Viewer};
use super::{asked_by, named_by, viewer_of, Asked};
use crate::catalog::{self, Rule, SyncedTable};
use crate::pull::members::{self, Member};
use crate::pull::source::Source;
use crate::push::conflict::as_json;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::JsonB;
use serde_json::Value as Json;
use std::collections::HashSet;
use sync_shared::hash::BucketId;
use sync_shared::row;

/// A row in the difference: the rule's name and the bucket's key where it is handed out, its table and key, and by whom it is given.
type Line = (Option<String>, Option<JsonB>, Oid, JsonB, &'static str);

const BY_RULES: &str = "only by rules";
const BY_POLICIES: &str = "only by policies";

/// Rows that are looked up at once.
const CHUNK: usize = 1_000;

#[pg_extern(stable)]
#[allow(clippy::type_complexity)]
fn audit(
    claims: Option<JsonB>,
) -> TableIterator<
    'static,
    (
        name!(bucket, Option<String>),
        name!(bucket_key, Option<JsonB>),
        name!(table, Oid),
        name!(key, JsonB),
        name!(kind, &'static str),
    ),
> {
    let (user, claims) = named_by("audit", claims);
    let viewer = viewer_of(&Asked::now("audit"), &user, &claims);
    TableIterator::new(asked_by(&user, &claims, || lines(&viewer, &user)))
}

fn lines(viewer: &Viewer, user: &str) -> Vec<Line> {
    let (rules, tables) = (catalog::rules(), catalog::tables());
    let members = members::of(user, &rules, &[]);
    let mut lines = Vec::new();
    for table in &tables {
        let view = viewer.of(table);
        only_by_rules(table, &rules, &members, &view, &mut lines);
        only_by_policies(table, &rules, &members, &view, &mut lines);
    }
    lines
}

fn only_by_rules(table: &SyncedTable, rules: &[Rule], members: &[Member], view: &View<'_>, lines: &mut Vec<Line>) {
    for member in members {
        let rule = &rules[member.rule];
        // Of an enforced entry nothing is handed out that policies hide.
        for entry in rule.entries.iter().filter(|e| e.relation == table.relation && !e.enforced) {
            let mut add = |keys: &mut Vec<Vec<u8>>| {
                let named: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
                let seen = view.sees(&named);
                for (key, _) in keys.iter().zip(seen).filter(|(_, seen)| !seen) {
                    lines.push((
                        Some(rule.name.clone()),
                        bucket_key(&member.key),
                        table.relation,
                        key_json(table, key),
                        BY_RULES,
                    ));
                }
                keys.clear();
            };
            let mut keys = Vec::with_capacity(CHUNK);
            Source::new(rule, entry, table).keys(member, |key| {
                keys.push(key.to_vec());
                if keys.len() == CHUNK {
                    add(&mut keys);
                }
            });
            add(&mut keys);
        }
    }
}

fn only_by_policies(table: &SyncedTable, rules: &[Rule], members: &[Member], view: &View<'_>, lines: &mut Vec<Line>) {
    let held: HashSet<BucketId> = members.iter().map(|m| m.id).collect();
    let entries = rules.iter().flat_map(|rule| rule.entries.iter().map(move |entry| (rule, entry)));
    let mut sources: Vec<Source<'_>> =
        entries.filter(|(_, e)| e.relation == table.relation).map(|(rule, entry)| Source::new(rule, entry, table)).collect();
    if sources.is_empty() {
        return;
    }
    // First all of them: queries that are kept for the next time are not made while another's row is being read.
    let mut keys = Vec::new();
    view.all(|key| keys.push(key.to_vec()));
    for keys in keys.chunks(CHUNK) {
        let mut handed_out = vec![false; keys.len()];
        let named: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        for source in &mut sources {
            let rows = source.current(&named, None, &mut { usize::MAX }).unwrap_or_default();
            for (handed_out, row) in handed_out.iter_mut().zip(rows) {
                *handed_out |= row.is_some_and(|row| row.bucket.is_ok_and(|bucket| held.contains(&bucket)));
            }
        }
        for (key, _) in keys.iter().zip(handed_out).filter(|(_, handed_out)| !handed_out) {
            lines.push((None, None, table.relation, key_json(table, key), BY_POLICIES));
        }
    }
}

/// A primary key as `sync.explain` takes it.
fn key_json(table: &SyncedTable, key: &[u8]) -> JsonB {
    let values = row::decode(key).unwrap_or_default();
    let names = table.key.iter().map(|&i| table.columns[i].name.clone());
    JsonB(Json::Object(names.zip(values.iter().map(as_json)).collect()))
}
