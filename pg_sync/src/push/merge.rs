//! A change meets a row that is there: three ways, column by column. What the device had, what it wants, what is there now.

use super::author::{Author, Trace};
use super::batch::{Row, Wish};
use super::conflict::{self, Decision};
use super::policy::{counter, custom, keep_both, set, text, ColumnPolicy, RowPolicy};
use super::refusal::{Refusal, REJECTED_BY_POLICY};
use super::statements::Parameter;
use super::subtransaction::set_column;
use crate::capture::definition::changed_bit;
use crate::expr::quote;
use sync_shared::message::{Conflict, TableMode};
use sync_shared::Value;

/// A column that the device wants to be something else than it is.
pub struct Weighed<'w> {
    pub wish: &'w Wish<'w>,
    pub theirs: Value,
    pub mine: Parameter,
    /// Who else changed it, if anybody did.
    pub clash: Option<Author>,
}

impl Weighed<'_> {
    /// Somebody else than this device changed it.
    pub fn clashes(&self) -> bool {
        !matches!(self.clash, None | Some(Author::Device))
    }

    fn set(&self) -> (usize, Parameter) {
        (self.wish.column, self.mine)
    }
}

/// One value made of both sides' changes.
struct Joined {
    result: Value,
    reason: &'static str,
    /// A part of one side is not in it.
    gives_way: bool,
}

impl Joined {
    fn whole(result: Value, reason: &'static str) -> Self {
        Joined { result, reason, gives_way: false }
    }

    fn in_part(text: String, reason: &'static str) -> Self {
        Joined { result: Value::Text(text), reason, gives_way: true }
    }
}

/// Columns to be set.
pub type Set = Vec<(usize, Parameter)>;

impl Row<'_> {
    /// The row is locked, and `current` holds the columns of `wishes`.
    pub fn merge(&mut self, key: &[Parameter], wishes: &[Wish<'_>], current: Vec<Value>) -> Result<(), Refusal> {
        let mut trace = None;
        let mut set = Set::new();
        let mut for_the_row = Vec::new();
        for (wish, theirs) in wishes.iter().zip(current) {
            let own = self.target.policies.of_column(self.target.table.columns[wish.column].position as i16);
            let policy = match self.target.policies.row {
                RowPolicy::Columns(policy) => own.or(Some(policy)),
                _ => own,
            };
            // A row that only comes in once has nothing to count on.
            let counts = own == Some(ColumnPolicy::Counter) && self.target.table.mode != TableMode::InsertOnly;
            match (self.weigh(&mut trace, key, wish, theirs, counts)?, policy) {
                (None, _) => {}
                (Some(weighed), Some(policy)) => set.extend(self.decide_column(policy, weighed)?),
                (Some(weighed), None) => for_the_row.push(weighed),
            }
        }
        self.decide_row(key, &for_the_row, &mut set)?;
        self.write(key, &set)
    }

    /// None: both sides are the same, which for a counter means nothing.
    fn weigh<'w>(
        &mut self,
        trace: &mut Option<Trace>,
        key: &[Parameter],
        wish: &'w Wish<'w>,
        theirs: Value,
        counts: bool,
    ) -> Result<Option<Weighed<'w>>, Refusal> {
        let mine = self.target.read(self.statements, wish.column, wish.mine)?;
        if *wish.mine == theirs && !counts {
            return Ok(None);
        }
        if wish.known && *wish.base == theirs {
            return Ok(Some(Weighed { wish, theirs, mine, clash: None }));
        }
        // The same, written in another way.
        if !counts && self.statements.render(&mut self.target.renderers[wish.column], mine)? == theirs {
            return Ok(None);
        }
        let clash = Some(self.author(trace, key, wish.column)?);
        Ok(Some(Weighed { wish, theirs, mine, clash }))
    }

    pub fn author(&mut self, trace: &mut Option<Trace>, key: &[Parameter], column: usize) -> Result<Author, Refusal> {
        let trace = match trace {
            Some(trace) => trace,
            None => trace.insert(self.authors.trace(self.statements, self.target, key)?),
        };
        let bit = changed_bit(self.target.table.columns[column].position as i16);
        Ok(self.authors.of(trace, bit, self.edited))
    }

    /// What the column is to be set to, if it changes.
    fn decide_column(&mut self, policy: ColumnPolicy, weighed: Weighed<'_>) -> Result<Option<(usize, Parameter)>, Refusal> {
        let Some(author) = weighed.clash else { return Ok(Some(weighed.set())) };
        if policy.joins() {
            let name = self.target.table.columns[weighed.wish.column].name.clone();
            let joined = self.join(policy, &weighed, author).map_err(|refusal| Refusal {
                message: format!("table {}, column \"{name}\": {}", self.target.table.name, refusal.message),
                subject: name,
                ..refusal
            })?;
            if let Some(joined) = joined {
                return self.take_joined(policy, &weighed, author, joined);
            }
        }
        if author == Author::Device {
            return Ok(Some(weighed.set()));
        }
        let what = quote(&self.target.table.columns[weighed.wish.column].name);
        let (mine, reason) = match conflict::choose(policy, &what, author, self.edited) {
            Decision::Keep { mine, reason } => (mine, reason),
            Decision::Reject { reason } => {
                let conflict = self.column_conflict(policy, &weighed, weighed.theirs.clone(), reason);
                return Err(self.rejected(conflict));
            }
        };
        let result = if mine { weighed.wish.mine.clone() } else { weighed.theirs.clone() };
        let conflict = self.column_conflict(policy, &weighed, result, reason);
        self.conflicts.push(conflict);
        Ok(mine.then(|| weighed.set()))
    }

    /// One value of both sides' changes, and why; None where there is no such value.
    fn join(&mut self, policy: ColumnPolicy, weighed: &Weighed<'_>, author: Author) -> Result<Option<Joined>, Refusal> {
        let column = weighed.wish.column;
        let base = self.target.read(self.statements, column, weighed.wish.base)?;
        let theirs = self.target.read(self.statements, column, &weighed.theirs)?;
        let renderer = &mut self.target.renderers[column];
        set_column(Some(&self.target.table.columns[column].name));
        let joined = match policy {
            ColumnPolicy::Counter => counter::add(self.statements, renderer, base, theirs, weighed.mine)?
                .map(|sum| Joined::whole(sum, "the device's difference was added to the server's value")),
            ColumnPolicy::Max | ColumnPolicy::Min => {
                let collation = self.target.policies.collation(self.target.table.columns[column].position as i16);
                let reason = if policy == ColumnPolicy::Max { "the greater value stays" } else { "the smaller value stays" };
                counter::extreme(self.statements, renderer, policy, collation, theirs, weighed.mine)?
                    .map(|value| Joined::whole(value, reason))
            }
            ColumnPolicy::Set => {
                let base = self.statements.render(renderer, base)?;
                let mine = self.statements.render(renderer, weighed.mine)?;
                set::merge(self.owner, &base, &weighed.theirs, &mine)
                    .map(|merged| Joined::whole(merged, "what either side added or removed was added or removed"))
            }
            _ => {
                let base = self.statements.render(renderer, base)?;
                let mine = self.statements.render(renderer, weighed.mine)?;
                let base = if base.is_null() { Value::Text(String::new()) } else { base };
                let (Value::Text(base), Value::Text(theirs), Value::Text(mine)) = (&base, &weighed.theirs, &mine) else {
                    return Ok(None);
                };
                let later = conflict::later(author, self.edited);
                Some(match text::merge(base, theirs, mine, later, self.texts) {
                    Some(merged) if merged.overlaps => Joined::in_part(
                        merged.text,
                        "the text was merged, and where both changed the same words the later edit stays",
                    ),
                    Some(merged) => Joined::whole(Value::Text(merged.text), "both sides' changes of the text were merged"),
                    None => {
                        let text = if later { mine } else { theirs };
                        Joined::in_part(text.clone(), "the texts are too long or too unlike to be merged, the later edit stays")
                    }
                })
            }
        };
        set_column(None);
        Ok(joined)
    }

    /// Recorded, unless nobody but this device has changed the column and its value stays. What its earlier batch was merged with is
    /// other people's and unknown to it: where it gives way, that is recorded too.
    fn take_joined(
        &mut self,
        policy: ColumnPolicy,
        weighed: &Weighed<'_>,
        author: Author,
        joined: Joined,
    ) -> Result<Option<(usize, Parameter)>, Refusal> {
        let column = weighed.wish.column;
        let Joined { result, reason, gives_way } = joined;
        let mine = self.statements.render(&mut self.target.renderers[column], weighed.mine)?;
        if author == Author::Device && result == mine && !gives_way {
            return Ok(Some(weighed.set()));
        }
        let name = quote(&self.target.table.columns[column].name);
        let reason = format!("both changed {name} ({}): {reason}", conflict::sides(author, self.edited));
        let conflict = self.column_conflict(policy, weighed, result.clone(), reason);
        self.conflicts.push(conflict);
        if result == weighed.theirs {
            return Ok(None);
        }
        Ok(Some((column, self.target.read(self.statements, column, &result)?)))
    }

    fn column_conflict(&self, policy: ColumnPolicy, weighed: &Weighed<'_>, result: Value, reason: String) -> Conflict {
        Conflict {
            column: Some(self.target.table.columns[weighed.wish.column].tag),
            base: weighed.wish.base.clone(),
            theirs: weighed.theirs.clone(),
            mine: weighed.wish.mine.clone(),
            result,
            ..conflict::of_row(self.change, policy.name(), reason)
        }
    }

    /// A batch that its table's or column's policy rejects.
    pub fn rejected(&self, conflict: Conflict) -> Refusal {
        let table = &self.target.table;
        let column = conflict.column.and_then(|tag| table.columns.iter().find(|c| c.tag == tag));
        let message = format!(
            "table {}: {}, and its policy rejects that: look at the row as it is now and write again",
            table.name, conflict.reason
        );
        let subject = column.map_or(String::new(), |c| c.name.clone());
        Refusal { conflicts: vec![conflict], ..Refusal::new(REJECTED_BY_POLICY, message, subject) }
    }

    /// Columns without a policy of their own, in a table whose policy is for whole rows.
    fn decide_row(&mut self, key: &[Parameter], row: &[Weighed<'_>], set: &mut Set) -> Result<(), Refusal> {
        let clashes: Vec<&Weighed<'_>> = row.iter().filter(|w| w.clashes()).collect();
        let Some(author) = clashes.iter().filter_map(|w| w.clash).max_by_key(|author| author.at()) else {
            set.extend(row.iter().map(Weighed::set));
            return Ok(());
        };
        let names: Vec<String> = clashes.iter().map(|w| quote(&self.target.table.columns[w.wish.column].name)).collect();
        let what = names.join(", ");
        match self.target.policies.row.clone() {
            RowPolicy::Reject => {
                let reason = format!("both changed {what} ({})", conflict::sides(author, self.edited));
                let conflict = self.row_conflict("reject", row, &[], reason);
                Err(self.rejected(conflict))
            }
            RowPolicy::Custom(handler) => {
                let answer = custom::ask(self, &handler, key, row, author)?;
                let conflict = self.row_conflict("custom", row, &answer.set, answer.reason);
                self.conflicts.push(conflict);
                set.extend(answer.set);
                Ok(())
            }
            policy => {
                let mine = conflict::later(author, self.edited);
                let Decision::Keep { mut reason, .. } = conflict::later_wins(&what, author, self.edited) else { return Ok(()) };
                let mut name = "last_writer";
                let winner: Set = row.iter().filter(|_| mine).map(Weighed::set).collect();
                if let RowPolicy::KeepBoth(link) = policy {
                    name = "keep_both";
                    if let Some(link) = link {
                        let loser: Set = row.iter().filter(|_| !mine).map(Weighed::set).collect();
                        let copy = keep_both::copy(self, link, key, &loser)?;
                        reason += &format!("; the other version was kept as the row {copy}");
                    }
                }
                let conflict = self.row_conflict(name, row, &winner, reason);
                self.conflicts.push(conflict);
                set.extend(winner);
                Ok(())
            }
        }
    }

    /// `set` is what the row's columns become.
    pub fn row_conflict(&mut self, policy: &str, row: &[Weighed<'_>], set: &[(usize, Parameter)], reason: String) -> Conflict {
        let mut result: Vec<(usize, Value)> = row.iter().map(|w| (w.wish.column, w.theirs.clone())).collect();
        for (column, parameter) in set {
            // What cannot be rendered is refused when it is written.
            let value = self.statements.render(&mut self.target.renderers[*column], *parameter).unwrap_or_default();
            match result.iter_mut().find(|(c, _)| c == column) {
                Some((_, there)) => *there = value,
                None => result.push((*column, value)),
            }
        }
        let target = &*self.target;
        Conflict {
            base: conflict::version(target, row.iter().map(|w| (w.wish.column, w.wish.base))),
            theirs: conflict::version(target, row.iter().map(|w| (w.wish.column, &w.theirs))),
            mine: conflict::version(target, row.iter().map(|w| (w.wish.column, w.wish.mine))),
            result: conflict::version(target, result.iter().map(|(c, v)| (*c, v))),
            ..conflict::of_row(self.change, policy, reason)
        }
    }

    fn write(&mut self, key: &[Parameter], set: &[(usize, Parameter)]) -> Result<(), Refusal> {
        if set.is_empty() {
            return Ok(());
        }
        let columns = &self.target.table.columns;
        let parts: Vec<String> =
            set.iter().enumerate().map(|(i, (c, _))| format!("{} = ${}", quote(&columns[*c].name), i + 1)).collect();
        let sql = format!("UPDATE {} SET {} {}", self.target.table.name, parts.join(", "), self.target.where_key(set.len() + 1));
        let parameters: Vec<Parameter> = set.iter().map(|(_, p)| *p).chain(key.iter().copied()).collect();
        match self.statements.run(&sql, &parameters, &mut [])?.count {
            0 => Err(self.denied("change")),
            _ => Ok(()),
        }
    }
}
