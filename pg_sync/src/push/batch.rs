//! Applies one batch, inside its subtransaction and as the end user.

use super::author::{Author, Authors, Trace};
use super::conflict::{self, Decision};
use super::refusal::Refusal;
use super::statements::{Parameter, Statements};
use super::subtransaction::{set_place, Place};
use super::target::Target;
use crate::capture::definition::changed_bit;
use pgrx::pg_sys::Oid;
use std::collections::HashMap;
use sync_shared::clock::EditTime;
use sync_shared::hash::Tag;
use sync_shared::message::{Batch, Change, ChangeKind, Conflict, TableMode};
use sync_shared::Value;

/// How often a delete looks again at a row that others change at the same time.
const TRIES: usize = 8;
/// What an update locks a row with before it looks at it.
const LOCK: &str = "FOR NO KEY UPDATE";

/// What applying needs to know beside the batch.
pub struct Context<'a> {
    pub targets: &'a mut HashMap<Tag, Target>,
    pub authors: &'a Authors,
    pub owner: Oid,
    /// When the batch was made, with the clock's skew bounded.
    pub edited: EditTime,
}

/// A column to be set: its position, what the device had, what it has now.
struct Wish<'a> {
    column: usize,
    base: &'a Value,
    mine: &'a Value,
}

/// Applies all changes. Returns the conflicts that were decided on the way.
pub fn apply(context: &mut Context<'_>, batch: &Batch) -> Result<Vec<Conflict>, Refusal> {
    let mut statements = Statements::connect();
    let mut conflicts = Vec::new();
    let Context { targets, authors, owner, edited } = context;
    for change in &batch.changes {
        pgrx::check_for_interrupts!();
        let Some(target) = targets.get_mut(&change.table) else {
            let message = format!("no table with the tag {} is synced (any longer)", change.table);
            return Err(Refusal::new("42P01", message, change.table.to_string()));
        };
        let subject = target.table.device_name.clone();
        set_place(Some(Place { table: target.table.name.clone(), device_name: subject.clone(), column: None }));
        let row = Row {
            authors,
            owner: *owner,
            edited: *edited,
            statements: &mut statements,
            target,
            change,
            conflicts: &mut conflicts,
        };
        let name = |refusal: Refusal| if refusal.subject.is_empty() { Refusal { subject, ..refusal } } else { refusal };
        row.apply().map_err(name)?;
        statements.forget();
    }
    set_place(None);
    statements.finish();
    Ok(conflicts)
}

/// One change on its way into one row.
struct Row<'r> {
    authors: &'r Authors,
    owner: Oid,
    edited: EditTime,
    statements: &'r mut Statements,
    target: &'r mut Target,
    change: &'r Change,
    conflicts: &'r mut Vec<Conflict>,
}

impl<'r> Row<'r> {
    fn apply(self) -> Result<(), Refusal> {
        let (n, change) = (self.change.columns.len(), self.change);
        let shape = match change.kind {
            ChangeKind::Insert => change.old.is_empty() && change.new.len() == n,
            ChangeKind::Update => change.old.len() == n && change.new.len() == n,
            ChangeKind::Delete => change.old.len() == n && change.new.is_empty(),
        };
        if !shape {
            return Err(self.malformed("its values do not match its columns"));
        }
        self.target.allows(change.kind)?;
        match change.kind {
            ChangeKind::Insert => self.insert(),
            ChangeKind::Update => self.update(),
            ChangeKind::Delete => self.delete(),
        }
    }

    fn malformed(&self, why: &str) -> Refusal {
        Refusal::new("22P03", format!("a change of table {} is malformed: {why}", self.target.table.name), "")
    }

    fn denied(&self, what: &str) -> Refusal {
        let message =
            format!("table {}: row level security or a trigger did not let you {what} this row", self.target.table.name);
        Refusal::new("42501", message, "")
    }

    /// Columns that may be written, each once. Generated ones are the server's.
    fn wishes(&self) -> Result<Vec<Wish<'r>>, Refusal> {
        let change = self.change;
        let mut wishes: Vec<Wish<'r>> = Vec::with_capacity(change.columns.len());
        for (i, &tag) in change.columns.iter().enumerate() {
            let column = self.target.position(tag)?;
            if wishes.iter().any(|w| w.column == column) {
                return Err(self.malformed("a column is named twice"));
            }
            if !self.target.table.columns[column].generated {
                wishes.push(Wish { column, base: change.old.get(i).unwrap_or(&Value::Null), mine: &change.new[i] });
            }
        }
        Ok(wishes)
    }

    /// Whether the row is there, whoever may see it.
    fn exists(&mut self, key: &[Parameter]) -> Result<bool, Refusal> {
        let sql = format!("SELECT 1 FROM {} {}", self.target.table.name, self.target.where_key(1));
        let statements = &mut *self.statements;
        Ok(crate::identity::as_owner(self.owner, || statements.run(&sql, key, &mut []))?.count > 0)
    }

    fn insert(mut self) -> Result<(), Refusal> {
        let key = self.target.read_key(self.statements, &self.change.key)?;
        let (in_key, wishes): (Vec<_>, Vec<_>) =
            self.wishes()?.into_iter().partition(|w| self.target.table.key.contains(&w.column));
        for wish in in_key {
            let place = self.target.table.key.iter().position(|&k| k == wish.column);
            if place.is_some_and(|place| self.change.key[place] != *wish.mine) {
                return Err(self.malformed("the key is not the one among the values"));
            }
        }
        if self.exists(&key)? {
            let columns: Vec<usize> = wishes.iter().map(|w| w.column).collect();
            if let Some(current) = self.target.current(self.statements, &columns, &key, false, LOCK)? {
                if !self.may_merge(&key, &wishes, &current)? {
                    return Err(self.target.taken());
                }
                return self.merge(&key, &wishes, current);
            }
            // Not visible to the user: the insert says what Postgres says to that.
        }
        let mut columns = self.target.table.key.clone();
        let mut parameters = key;
        for wish in &wishes {
            columns.push(wish.column);
            parameters.push(self.target.read(self.statements, wish.column, wish.mine)?);
        }
        let places: Vec<String> = (1..=columns.len()).map(|i| format!("${i}")).collect();
        let (table, names) = (&self.target.table.name, self.target.names(&columns));
        let overriding = if self.is_leased() && self.target.sequence.as_ref().is_some_and(|s| s.always) {
            " OVERRIDING SYSTEM VALUE"
        } else {
            ""
        };
        let sql = format!("INSERT INTO {table} ({names}){overriding} VALUES ({})", places.join(", "));
        match self.statements.run(&sql, &parameters, &mut [])?.count {
            0 => Err(self.denied("insert")),
            _ => Ok(()),
        }
    }

    /// Whether an insert may be merged into the row that has its key. Not where that row is a stranger's, whose key comes from the
    /// same sequence, and not where rows do not change.
    fn may_merge(&mut self, key: &[Parameter], wishes: &[Wish<'_>], current: &[Value]) -> Result<bool, Refusal> {
        if self.target.table.mode == TableMode::InsertOnly {
            for (wish, theirs) in wishes.iter().zip(current) {
                let mine = self.target.read(self.statements, wish.column, wish.mine)?;
                if self.statements.render(&mut self.target.renderers[wish.column], mine)? != *theirs {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        if self.target.sequence.is_none() || self.is_leased() {
            return Ok(true);
        }
        let column = self.target.table.key[0];
        Ok(self.author(&mut None, key, column)? == Author::Device)
    }

    /// Whether the key is a number that was leased to this device, or to another of the same user.
    fn is_leased(&self) -> bool {
        match (&self.target.sequence, self.change.key.as_slice()) {
            (Some(_), [Value::Integer(key)]) => self.authors.has_leased(self.target.table.relation, *key),
            _ => false,
        }
    }

    fn update(mut self) -> Result<(), Refusal> {
        let key = self.target.read_key(self.statements, &self.change.key)?;
        let wishes = self.wishes()?;
        if wishes.iter().any(|w| self.target.table.key.contains(&w.column)) {
            return Err(self.malformed("an update must not change the key"));
        }
        let columns: Vec<usize> = wishes.iter().map(|w| w.column).collect();
        if let Some(current) = self.target.current(self.statements, &columns, &key, false, LOCK)? {
            return self.merge(&key, &wishes, current);
        }
        if self.exists(&key)? {
            return Err(self.denied("change"));
        }
        let message = format!("table {}: the row was deleted on the server", self.target.table.name);
        Err(Refusal::new("02000", message, ""))
    }

    /// Three ways, column by column: what the device had, what it wants, what is there. The row is locked.
    fn merge(&mut self, key: &[Parameter], wishes: &[Wish<'_>], current: Vec<Value>) -> Result<(), Refusal> {
        let mut trace = None;
        let mut set = Vec::new();
        for (wish, theirs) in wishes.iter().zip(current) {
            let mine = self.target.read(self.statements, wish.column, wish.mine)?;
            if *wish.mine == theirs {
                continue;
            }
            let wins = if self.change.kind == ChangeKind::Update && *wish.base == theirs {
                true
            } else if self.statements.render(&mut self.target.renderers[wish.column], mine)? == theirs {
                // The same, written in another way.
                continue;
            } else {
                match self.decide(&mut trace, key, wish.column)? {
                    None => true,
                    Some(Decision { mine, reason }) => {
                        self.conflicts.push(Conflict {
                            table: self.change.table,
                            key: self.change.key.clone(),
                            column: Some(self.target.table.columns[wish.column].tag),
                            base: wish.base.clone(),
                            theirs: theirs.clone(),
                            mine: wish.mine.clone(),
                            result: if mine { wish.mine.clone() } else { theirs },
                            reason,
                            policy: "merge".into(),
                        });
                        mine
                    }
                }
            };
            if wins {
                set.push((wish.column, mine));
            }
        }
        if set.is_empty() {
            return Ok(());
        }
        let columns = &self.target.table.columns;
        let parts: Vec<String> =
            set.iter().enumerate().map(|(i, (c, _))| format!("{} = ${}", crate::expr::quote(&columns[*c].name), i + 1)).collect();
        let sql = format!("UPDATE {} SET {} {}", self.target.table.name, parts.join(", "), self.target.where_key(set.len() + 1));
        let parameters: Vec<Parameter> = set.iter().map(|(_, p)| *p).chain(key.iter().copied()).collect();
        match self.statements.run(&sql, &parameters, &mut [])?.count {
            0 => Err(self.denied("change")),
            _ => Ok(()),
        }
    }

    /// None: the device's own earlier batch set the column, so there is nothing to decide.
    fn decide(&mut self, trace: &mut Option<Trace>, key: &[Parameter], column: usize) -> Result<Option<Decision>, Refusal> {
        let author = self.author(trace, key, column)?;
        Ok(conflict::decide(&self.target.table.columns[column].name, author, self.edited))
    }

    fn author(&mut self, trace: &mut Option<Trace>, key: &[Parameter], column: usize) -> Result<Author, Refusal> {
        let trace = match trace {
            Some(trace) => trace,
            None => trace.insert(self.authors.trace(self.statements, self.target, key)?),
        };
        let bit = changed_bit(self.target.table.columns[column].position as i16);
        Ok(self.authors.of(trace, bit, self.edited))
    }

    fn delete(mut self) -> Result<(), Refusal> {
        let key = self.target.read_key(self.statements, &self.change.key)?;
        // A column that is gone cannot have been changed.
        let known: Vec<(usize, &Value)> = self
            .change
            .columns
            .iter()
            .zip(&self.change.old)
            .filter_map(|(&tag, old)| Some((self.target.position(tag).ok()?, old)))
            .collect();
        let mut columns: Vec<usize> = known.iter().map(|(column, _)| *column).collect();
        columns.sort_unstable();
        columns.dedup();
        if columns.len() != known.len() {
            return Err(self.malformed("a column is named twice"));
        }
        let columns: Vec<usize> = known.iter().map(|(column, _)| *column).collect();
        let base: Vec<Value> = known.iter().map(|(_, old)| (*old).clone()).collect();
        // Locking the row would need the right to update it; its version tells as well whether it is still the same.
        let by_version = self.target.version();
        let clause = if by_version { "" } else { "FOR UPDATE" };
        let mut tried = None;
        for _ in 0..TRIES {
            let Some(mut current) = self.target.current(self.statements, &columns, &key, by_version, clause)? else {
                return if self.exists(&key)? { Err(self.denied("delete")) } else { Ok(()) };
            };
            let version = if by_version { current.pop() } else { None };
            if tried.is_some() && tried == version {
                return Err(self.denied("delete"));
            }
            let mut trace = None;
            for (i, theirs) in current.iter().enumerate() {
                if base[i] == *theirs || self.author(&mut trace, &key, columns[i])? == Author::Device {
                    continue;
                }
                self.conflicts.push(conflict::whole_row(self.target, self.change, &columns, &base, &current));
                return Ok(());
            }
            let mut sql = format!("DELETE FROM {} {}", self.target.table.name, self.target.where_key(1));
            let mut parameters = key.clone();
            if let Some(Value::Integer(xid)) = version {
                sql += &format!(" AND xmin OPERATOR(pg_catalog.=) ${}", key.len() + 1);
                parameters.push(self.statements.xid(xid as u32));
            }
            if self.statements.run(&sql, &parameters, &mut [])?.count > 0 {
                return Ok(());
            }
            if !by_version {
                return Err(self.denied("delete"));
            }
            tried = version;
        }
        let message = format!("table {}: the row is being changed by others all the time", self.target.table.name);
        Err(Refusal { passing: true, ..Refusal::new("40001", message, "") })
    }
}
