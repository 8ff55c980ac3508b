//! What is kept about conflicts and rejections: the result of each is what its policy declares, and both sides have the same.

use crate::peer::Peer;
use crate::server::Server;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

/// One row of `sync.conflict` with what became of its batch.
struct Record {
    table: String,
    column: Option<String>,
    base: Json,
    theirs: Json,
    mine: Json,
    result: Json,
    reason: String,
    policy: String,
    verdict: String,
    code: String,
}

/// Policies by table, column and event.
type Declared = BTreeMap<(String, String, String), String>;

/// Every record says what was declared, and no decision is without a record.
pub fn check(server: &mut Server<'_>) {
    let declared: Declared = server
        .rows("SELECT \"table\", coalesce(\"column\", ''), event, policy FROM sync.policies")
        .into_iter()
        .filter_map(|row| <[String; 4]>::try_from(row).ok())
        .map(|[table, column, event, policy]| ((table, column, event), policy))
        .collect();
    // Tables that were dropped since took their policies along.
    let sql = "SELECT c.relid::regclass, coalesce(c.column_name, ''), coalesce(c.base, 'null'), coalesce(c.theirs, 'null'),
            coalesce(c.mine, 'null'), coalesce(c.result, 'null'), c.reason, c.policy, b.verdict, b.code
        FROM sync.conflict c JOIN sync.batch b USING (device, number) JOIN pg_class r ON r.oid = c.relid";
    for row in server.rows(sql) {
        let record = Record::read(row);
        if let Err(why) = record.check(&declared) {
            let Record { table, column, base, theirs, mine, result, reason, policy, verdict, code } = record;
            panic!(
                "a conflict was not decided as declared: {why}\n{table} {column:?} {policy}: {base} -> {theirs}, {mine} -> {result}\n{reason}\n{verdict} {code}"
            );
        }
    }
    let silent =
        "SELECT device, number, verdict, code FROM sync.batch b WHERE NOT repeats AND (verdict = 'merged' OR code = 'SY010')
        AND NOT EXISTS (SELECT FROM sync.conflict c WHERE c.device = b.device AND c.number = b.number)";
    let silent = server.rows(silent);
    assert!(silent.is_empty(), "decided without a record: {silent:?}");
    let shown = "SELECT count(*) FROM sync.batch b WHERE verdict = 'rejected' AND NOT repeats AND NOT EXISTS
        (SELECT FROM sync.rejected r WHERE r.device = b.device AND r.number = b.number AND jsonb_array_length(r.batch) > 0 AND r.message <> '')";
    assert_eq!(server.value(shown), "0", "a rejected batch is not in sync.rejected, or without its content or reason");
}

/// A device has the same records about its batches as the server; not where it took another identity.
pub fn check_both_sides(server: &mut Server<'_>, peer: &Peer) {
    if peer.device.rows("SELECT 1 FROM sqlite_schema WHERE name = 'sync_meta'").is_empty() {
        return;
    }
    let device = peer.device.value("SELECT value FROM sync_meta WHERE name = 'device'");
    let pairs = [
        ("SELECT policy, reason FROM sync_conflicts", "SELECT policy, reason FROM sync.conflict WHERE device = '?'"),
        ("SELECT number, code, message FROM sync_rejected", "SELECT number, code, message FROM sync.rejected WHERE device = '?'"),
    ];
    for (here, there) in pairs {
        let (mut here, mut there) = (peer.device.rows(here), server.rows(&there.replace('?', &device)));
        here.sort();
        there.sort();
        assert_eq!(here, there, "the device and the server have other records of the device's batches");
    }
}

/// How batches ended, and by what their conflicts were decided: for the shares that a run tells.
pub fn count(server: &mut Server<'_>, mut add: impl FnMut(&'static str, String, u64)) {
    let number = |text: &str| text.parse().expect("a number");
    for row in server.rows("SELECT verdict, code, count(*) FROM sync.batch WHERE NOT repeats GROUP BY 1, 2") {
        add("batches", format!("{} {}", row[0], row[1]).trim().to_owned(), number(&row[2]));
    }
    for row in server.rows("SELECT policy, count(*) FROM sync.conflict GROUP BY 1") {
        add("conflicts", row[0].clone(), number(&row[1]));
    }
}

fn need(is: bool, why: &str) -> Result<(), String> {
    if is {
        Ok(())
    } else {
        Err(why.to_owned())
    }
}

impl Record {
    fn read(row: Vec<String>) -> Record {
        let mut row = row.into_iter();
        let mut text = || row.next().expect("ten columns");
        let (table, column) = (text(), Some(text()).filter(|c| !c.is_empty()));
        let mut json = || serde_json::from_str(&text()).expect("JSON");
        let [base, theirs, mine, result] = std::array::from_fn(|_| json());
        Record { table, column, base, theirs, mine, result, reason: text(), policy: text(), verdict: text(), code: text() }
    }

    fn check(&self, declared: &Declared) -> Result<(), String> {
        if self.policy == "constraint" {
            return need(
                self.verdict == "rejected" && ["23505", "23P01"].contains(&self.code.as_str()),
                "it is rejected with the constraint",
            );
        }
        let of = |column: &str, event: &str| declared.get(&(self.table.clone(), column.to_owned(), event.to_owned()));
        let delete = self.column.is_none() && (self.mine.is_null() || self.theirs.is_null());
        let want = match &self.column {
            _ if delete => of("", "delete").map_or("keep_update", String::as_str),
            Some(column) => of(column, "change").or_else(|| of("", "change")).map_or("merge", String::as_str),
            None => of("", "change").map_or("merge", String::as_str),
        };
        need(want == self.policy, &format!("{want} is declared"))?;
        match self.policy.as_str() {
            "reject" => return need(self.verdict == "rejected" && self.code == "SY010", "the batch is rejected"),
            "custom" if self.reason.contains("the handler says reject") => {
                return need(self.verdict == "rejected" && self.code == "SY010", "the batch is rejected")
            }
            _ if delete => return self.check_delete(),
            _ => need(self.verdict == "merged", "the batch is merged")?,
        }
        self.check_result()
    }

    fn check_delete(&self) -> Result<(), String> {
        if self.theirs.is_null() {
            return self.check_update_of_nothing();
        }
        let deletes = match self.policy.as_str() {
            "keep_update" => false,
            "delete_wins" => true,
            _ => !self.reason.contains("not later"),
        };
        need(
            self.verdict == "merged" && self.result == if deletes { Json::Null } else { self.theirs.clone() },
            "the row stays or goes",
        )
    }

    fn check_update_of_nothing(&self) -> Result<(), String> {
        if self.verdict == "rejected" {
            let unknown = self.code == "02000" || self.code == "23503" && self.reason.contains("is not there");
            return need(
                self.policy != "delete_wins" && unknown,
                "a row that the device does not know any longer, or without its parent",
            );
        }
        let again = match self.policy.as_str() {
            "delete_wins" => false,
            "keep_update" => true,
            _ => !self.reason.contains("not earlier"),
        };
        let want = if again { &self.mine } else { &Json::Null };
        need(self.verdict == "merged" && self.result == *want, "the row is made again or stays deleted")
    }

    fn check_result(&self) -> Result<(), String> {
        let (mine, theirs, result) = (&self.mine, &self.theirs, &self.result);
        let number = |value: &Json| value.as_i64().unwrap_or(0);
        match self.policy.as_str() {
            "server_wins" => need(result == theirs, "the server's stays"),
            "client_wins" => need(result == mine, "the device's is taken"),
            "counter" if mine.is_null() => self.check_later(),
            "counter" => need(number(result) == number(theirs) + number(mine) - number(&self.base), "differences are added"),
            "max" | "min" if mine.is_null() || theirs.is_null() => {
                need(result == if mine.is_null() { theirs } else { mine }, "the other one stays")
            }
            "max" => need(number(result) == number(mine).max(number(theirs)), "the greater one stays"),
            "min" => need(number(result) == number(mine).min(number(theirs)), "the smaller one stays"),
            "set" => self.check_set(),
            "text" if self.reason.contains("the text") => self.check_text(),
            "custom" => self.check_custom(),
            _ => self.check_later(),
        }
    }

    /// The later edit wins, and the reason says when both were made.
    fn check_later(&self) -> Result<(), String> {
        let time = |behind: &str| {
            let rest = self.reason.split_once(behind)?.1;
            Some(rest.split([',', ';', ' ']).next()?.trim_end_matches('Z').to_owned())
        };
        if let Some(won) = time("the device's edit of ").filter(|_| self.reason.contains(" won, it is later")) {
            let lost = time("than the server's of ").ok_or("the reason does not say when the server's was made")?;
            return need(won > lost && self.result == self.mine, "the device's is later and wins");
        }
        if let Some(won) = time("the server's edit of ") {
            let lost = time("the device's of ").ok_or("the reason does not say when the device's was made")?;
            return need(won >= lost && self.result == self.theirs, "the server's is later and wins");
        }
        need(self.reason.contains("further back") && self.result == self.mine, "the later edit wins")
    }

    fn check_set(&self) -> Result<(), String> {
        let set = |value: &Json| -> BTreeSet<String> {
            value
                .as_str()
                .and_then(|text| serde_json::from_str::<Vec<String>>(text).ok())
                .unwrap_or_default()
                .into_iter()
                .collect()
        };
        let [base, theirs, mine, result] = [&self.base, &self.theirs, &self.mine, &self.result].map(set);
        let gone: BTreeSet<_> = base.iter().filter(|tag| !mine.contains(*tag)).collect();
        let want: BTreeSet<_> = theirs.iter().filter(|tag| !gone.contains(tag)).chain(mine.difference(&base)).cloned().collect();
        need(want == result, "both sides' changes of the set")
    }

    /// New words of both sides stay, unless the reason says that they are in each other's place.
    fn check_text(&self) -> Result<(), String> {
        let words = |value: &Json| -> BTreeSet<String> {
            value.as_str().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        };
        let [base, theirs, mine, result] = [&self.base, &self.theirs, &self.mine, &self.result].map(words);
        let lost: Vec<_> = mine.union(&theirs).filter(|word| !base.contains(*word) && !result.contains(*word)).collect();
        need(lost.is_empty() || self.reason.contains("same words"), &format!("{lost:?} should be in the text"))
    }

    fn check_custom(&self) -> Result<(), String> {
        let side = |row: &Json, column: &str| row.get(column).cloned().unwrap_or(Json::Null);
        let columns = self.result.as_object().ok_or("the result is a row")?;
        for (column, value) in columns {
            let (mine, theirs) = (side(&self.mine, column), side(&self.theirs, column));
            let fits = match &self.reason {
                reason if reason.contains("the handler says mine") => *value == mine,
                reason if reason.contains("the handler says theirs") => *value == theirs,
                _ => *value == mine || *value == theirs,
            };
            need(fits, &format!("column {column} is as the handler says"))?;
        }
        Ok(())
    }
}
