//! Which buckets the asking user may hold, in this snapshot.

use crate::catalog::Rule;
use crate::error::{named, raise};
use crate::identity::{as_role, asked_by, with_believed_settings, with_params};
use crate::query::Query;
use crate::quick::QuickSet;
use crate::rules::members_query;
use pgrx::prelude::*;
use sync_shared::hash::{bucket_id, BucketId};
use sync_shared::message::Subscription;
use sync_shared::{limits, row};

/// A bucket that the user may hold.
#[derive(Debug)]
pub struct Member {
    pub id: BucketId,
    pub priority: u8,
    /// Position in the rules.
    pub rule: usize,
    /// The key as wire values.
    pub key: Vec<u8>,
}

/// All of them, by priority and id.
pub fn of(user: &str, rules: &[Rule], subscriptions: &[Subscription]) -> Vec<Member> {
    if subscriptions.len() > limits::SUBSCRIPTIONS {
        let (most, has) = (limits::SUBSCRIPTIONS, subscriptions.len());
        raise(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a device may have {most} subscriptions, this one has {has}"),
        );
    }
    let mut members = asked_by(user, || with_believed_settings(|| all(rules, subscriptions)));
    members.sort_unstable_by_key(|m| (m.priority, m.id));
    members
}

fn all(rules: &[Rule], subscriptions: &[Subscription]) -> Vec<Member> {
    let mut members = Vec::new();
    let mut seen = QuickSet::default();
    for (position, rule) in rules.iter().enumerate() {
        let mut add = |key: &[u8]| {
            let id = bucket_id(&rule.name, key);
            if seen.insert(id) {
                if members.len() == limits::BUCKETS {
                    too_many(rule);
                }
                members.push(Member { id, priority: rule.priority, rule: position, key: key.to_vec() });
            }
        };
        match &rule.members {
            None => add(&[]),
            // Without a table there is no key type yet, and nothing to hold.
            Some(_) if rule.key_types.is_empty() => {}
            Some(sql) if takes_parameters(sql) => {
                for subscription in subscriptions.iter().filter(|s| s.rule == rule.name) {
                    with_params(&subscription.params, || evaluate(rule, sql, &mut add));
                }
            }
            Some(sql) => evaluate(rule, sql, &mut add),
        }
    }
    members
}

fn too_many(rule: &Rule) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        format!(
            "rule \"{}\": with it the user may hold more than {} buckets, and no device holds more: let its members give fewer keys, or let \
             a bucket's key stand for more rows",
            rule.name,
            limits::BUCKETS
        ),
    )
}

/// Whether members depend on what the device subscribes to.
pub fn takes_parameters(sql: &str) -> bool {
    sql.contains("sync.param(")
}

fn evaluate(rule: &Rule, sql: &str, add: &mut impl FnMut(&[u8])) {
    let mut key = Vec::new();
    let what = format!("rule \"{}\": members", rule.name);
    let run = || {
        Spi::connect(|_| {
            let mut query = Query::kept(&what, &members_query(sql, &rule.key_types), &[]);
            query.each(&[], |mut found| {
                if (0..rule.key_types.len()).all(|i| !found.is_null(i)) {
                    key.clear();
                    (0..rule.key_types.len()).for_each(|i| found.put(i, &mut key));
                    add(&key);
                }
                true
            });
        })
    };
    named(&what, || as_role(rule.owner, run))
}

/// A key as values, for the message.
pub fn key_values(key: &[u8]) -> Vec<sync_shared::Value> {
    row::decode(key).unwrap_or_default()
}
