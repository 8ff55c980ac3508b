//! Applies one batch, inside its subtransaction and as the end user.

use super::author::{Author, Authors};
use super::orphan::PutBack;
use super::policy::text::Budget;
use super::refusal::Refusal;
use super::statements::{Parameter, Statements};
use super::subtransaction::{set_place, Place};
use super::target::Target;
use super::unmade::Unmade;
use super::witness;
use pgrx::pg_sys::Oid;
use std::collections::HashMap;
use sync_shared::clock::EditTime;
use sync_shared::encrypted::is_encrypted;
use sync_shared::hash::Tag;
use sync_shared::message::{Batch, Change, ChangeKind, Conflict, TableMode};
use sync_shared::{limits, Value};
use uuid::Uuid;

/// What an update locks a row with before it looks at it.
const LOCK: &str = "FOR NO KEY UPDATE";

/// What applying needs to know beside the batch.
pub struct Context<'a> {
    pub targets: &'a mut HashMap<Tag, Target>,
    pub authors: &'a Authors,
    pub owner: Oid,
    /// When the batch was made, with the clock's skew bounded.
    pub edited: EditTime,
    pub origin: Origin<'a>,
    pub unmade: &'a Unmade,
    pub findings: &'a mut Findings,
}

/// What was found on the way through a batch, also where it was refused in the end.
#[derive(Default)]
pub struct Findings {
    /// Updates whose rows are gone, and that do not say what they were.
    pub missing: Vec<u32>,
    /// Rows that were put back.
    pub put_back: Vec<PutBack>,
    /// What is to be told of changes that had nothing to do.
    pub idle: Vec<String>,
}

/// Who sends.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    pub user: &'a str,
    pub device: Uuid,
}

/// A column to be set: its position, what the device had, what it has now.
pub struct Wish<'a> {
    pub column: usize,
    /// NULL where nothing is known.
    pub base: &'a Value,
    pub known: bool,
    pub mine: &'a Value,
}

/// Applies all changes. Returns the conflicts that were decided on the way.
pub fn apply(context: &mut Context<'_>, batch: &Batch) -> Result<Vec<Conflict>, Refusal> {
    let mut statements = Statements::connect();
    let mut conflicts = Vec::new();
    let mut texts = Budget::of_batch();
    let Context { targets, authors, owner, edited, origin, unmade, findings } = context;
    for (position, change) in batch.changes.iter().enumerate() {
        pgrx::check_for_interrupts!();
        witness::set_change(Some(position));
        let Some(target) = targets.get_mut(&change.table) else {
            let message = format!("no table with the tag {} is synced (any longer)", change.table);
            return Err(Refusal::new("42P01", message, change.table.to_string()));
        };
        let subject = target.table.device_name.clone();
        set_place(Some(Place { table: target.table.name.clone(), device_name: subject.clone(), column: None, handler: None }));
        let row = Row {
            authors,
            owner: *owner,
            edited: *edited,
            statements: &mut statements,
            target,
            batch,
            change,
            position: position as u32,
            conflicts: &mut conflicts,
            origin: *origin,
            unmade,
            findings,
            texts: &mut texts,
        };
        let name = |refusal: Refusal| if refusal.subject.is_empty() { Refusal { subject, ..refusal } } else { refusal };
        row.apply().map_err(name)?;
        statements.forget();
    }
    set_place(None);
    witness::set_change(None);
    statements.finish();
    if findings.missing.is_empty() {
        Ok(conflicts)
    } else {
        Err(Refusal::asks_for(&findings.missing))
    }
}

/// One change on its way into one row.
pub struct Row<'r> {
    pub authors: &'r Authors,
    pub owner: Oid,
    pub edited: EditTime,
    pub statements: &'r mut Statements,
    pub target: &'r mut Target,
    pub batch: &'r Batch,
    pub change: &'r Change,
    /// The change's place in the batch.
    pub position: u32,
    pub conflicts: &'r mut Vec<Conflict>,
    pub origin: Origin<'r>,
    pub unmade: &'r Unmade,
    pub findings: &'r mut Findings,
    /// What texts of this batch may still cost.
    pub texts: &'r mut Budget,
}

impl<'r> Row<'r> {
    fn apply(self) -> Result<(), Refusal> {
        let (n, change) = (self.change.columns.len(), self.change);
        let shape = match change.kind {
            ChangeKind::Insert => change.old.is_empty() && change.new.len() == n,
            ChangeKind::Update => change.old.len() == n && change.new.len() == n,
            ChangeKind::Delete => change.old.len() == n && change.new.is_empty(),
        };
        let aside = change.below.len().max(change.rest.as_ref().map_or(0, Vec::len));
        if !shape || aside > limits::COLUMNS {
            return Err(self.malformed("its values do not match its columns"));
        }
        self.target.allows(change.kind)?;
        self.refuse_plain()?;
        match change.kind {
            ChangeKind::Insert => self.insert(),
            ChangeKind::Update => self.update(),
            ChangeKind::Delete => self.delete(),
        }
    }

    /// What a device sends to an encrypted column must be ciphertext: one that has not heard of it must not give its content away.
    fn refuse_plain(&self) -> Result<(), Refusal> {
        let Row { change, target, .. } = self;
        let new = change.columns.iter().zip(&change.new);
        let rest = change.rest.iter().flatten().map(|(tag, value)| (tag, value));
        for column in target.table.columns.iter().filter(|c| c.encrypted) {
            if new.clone().chain(rest.clone()).any(|(tag, value)| *tag == column.tag && !is_encrypted(value)) {
                let message = format!(
                    "table {}, column \"{}\": devices encrypt it, and this value is not encrypted: sync once, then write it again",
                    target.table.name, column.name
                );
                return Err(Refusal::new("22023", message, &column.name));
            }
        }
        Ok(())
    }

    pub fn malformed(&self, why: &str) -> Refusal {
        Refusal::new("22P03", format!("a change of table {} is malformed: {why}", self.target.table.name), "")
    }

    pub fn denied(&self, what: &str) -> Refusal {
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
                let below = change.below(tag).filter(|_| change.old.is_empty() || !self.target.differs(column));
                let base = below.or(change.old.get(i));
                wishes.push(Wish { column, base: base.unwrap_or(&Value::Null), known: base.is_some(), mine: &change.new[i] });
            }
        }
        Ok(wishes)
    }

    /// Whether the row is there, whoever may see it.
    pub fn exists(&mut self, key: &[Parameter]) -> Result<bool, Refusal> {
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
        let leased = self.target.sequence.as_ref().is_some_and(|s| s.always) && self.is_leased();
        self.insert_row(&columns, &parameters, leased)
    }

    /// `leased`: the key is the sequence's own.
    pub fn insert_row(&mut self, columns: &[usize], parameters: &[Parameter], leased: bool) -> Result<(), Refusal> {
        let places: Vec<String> = (1..=columns.len()).map(|i| format!("${i}")).collect();
        let (table, names) = (&self.target.table.name, self.target.names(columns));
        let overriding = if leased { " OVERRIDING SYSTEM VALUE" } else { "" };
        let sql = format!("INSERT INTO {table} ({names}){overriding} VALUES ({})", places.join(", "));
        match self.statements.run(&sql, parameters, &mut [])?.count {
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
        // The row that the device could not delete.
        let is_known = wishes.iter().zip(current).all(|(wish, theirs)| wish.known && wish.base == theirs);
        if self.target.sequence.is_none() || (is_known && !wishes.is_empty()) || self.is_leased() {
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
        self.update_of_nothing(&key, &wishes)
    }
}
