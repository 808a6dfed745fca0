//! A table of settings from which each is taken once: what is left over is unknown.

use std::{
    cell::RefCell, collections::BTreeMap, fmt::Display, ops::RangeInclusive, time::Duration,
};

use config::{Map, Value, ValueKind};
use jiff::{Span, SpanRelativeTo};

use super::Mistake;

/// A table, its path, and where mistakes go.
pub(super) struct Section<'m> {
    path: String,
    table: Map<String, Value>,
    mistakes: &'m RefCell<Vec<Mistake>>,
}

impl<'m> Section<'m> {
    /// The table at a path; `""` is the whole.
    pub(super) fn new(
        path: &str,
        table: Map<String, Value>,
        mistakes: &'m RefCell<Vec<Mistake>>,
    ) -> Self {
        Self { path: path.to_owned(), table, mistakes }
    }

    /// A table inside this one.
    pub(super) fn section(&mut self, name: &str) -> Self {
        let path = self.key(name);
        let table = match self.table.remove(name).map(|value| value.kind) {
            Some(ValueKind::Table(table)) => table,
            Some(_) => {
                self.mistake(name, "is a single value: allowed is a table of settings".to_owned());
                Map::new()
            }
            None => Map::new(),
        };
        Self { path, table, mistakes: self.mistakes }
    }

    /// A setting read by `parse`; what it allows is said where it gives nothing.
    pub(super) fn read<T: Default>(
        &mut self,
        name: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let Some(value) = self.table.remove(name) else {
            self.mistake(name, format!("is missing: allowed is {allowed}"));
            return T::default();
        };
        let origin = origin(&value);
        let written = value.into_string().unwrap_or_else(|_table| "a table".to_owned());
        parse(&written).unwrap_or_else(|| {
            self.mistake(name, format!("is `{written}` in {origin}: allowed is {allowed}"));
            T::default()
        })
    }

    pub(super) fn text(&mut self, name: &str) -> String {
        self.read(name, "a text", |written| Some(written.to_owned()))
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        self.read(name, "true or false", |written| written.parse().ok())
    }

    pub(super) fn number(&mut self, name: &str, range: RangeInclusive<usize>) -> usize {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.read(name, &allowed, |written| {
            written.parse().ok().filter(|number| range.contains(number))
        })
    }

    pub(super) fn duration(&mut self, name: &str) -> Duration {
        let allowed = "a duration over zero, such as 250ms, 8s or 1h 30m";
        self.read(name, allowed, parse_duration)
    }

    /// One of several words.
    pub(super) fn choice<T: Copy + Default>(&mut self, name: &str, words: &[(&str, T)]) -> T {
        let allowed = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
        self.read(name, &allowed, |written| {
            words.iter().find(|(word, _)| *word == written).map(|(_, choice)| *choice)
        })
    }

    /// All that is left, by dotted names: `a.b = 1`, a table `a` with `b = 1`, and from the
    /// environment, which knows no dots, `a_b = 1`; the last wins.
    pub(super) fn dotted(&mut self) -> BTreeMap<String, String> {
        let mut flat = Vec::new();
        flatten("", std::mem::take(&mut self.table), &mut flat);
        let (undotted, dotted): (Vec<_>, Vec<_>) =
            flat.into_iter().partition(|(name, _)| name.contains('_'));
        let dots = |(name, value): (String, Value)| (name.replace('_', "."), value);
        let all = dotted.into_iter().chain(undotted.into_iter().map(dots));
        all.filter_map(|(name, value)| Some((name, value.into_string().ok()?))).collect()
    }

    /// All that is left, by name.
    pub(super) fn entries(&mut self) -> BTreeMap<String, String> {
        let mut flat = Vec::new();
        flatten("", std::mem::take(&mut self.table), &mut flat);
        flat.into_iter()
            .filter_map(|(name, value)| Some((name, value.into_string().ok()?)))
            .collect()
    }

    /// Notes a mistake in one of this table's settings.
    pub(super) fn mistake(&self, name: &str, problem: String) {
        self.mistakes.borrow_mut().push(Mistake { key: self.key(name), problem });
    }

    /// Ends the reading: what was not taken is unknown.
    pub(super) fn end(mut self) {
        let mut left = Vec::new();
        flatten("", std::mem::take(&mut self.table), &mut left);
        for (name, value) in left {
            self.mistake(&name, format!("in {} is no setting of the relay", origin(&value)));
        }
    }

    fn key(&self, name: impl Display) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }
}

/// Reads a duration as jiff writes them; days are of 24 hours.
pub(super) fn parse_duration(written: &str) -> Option<Duration> {
    let span: Span = written.parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok().filter(|duration| !duration.is_zero())
}

/// The values of a table and of those inside it, by their dotted path.
pub(super) fn flatten(path: &str, table: Map<String, Value>, flat: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let path = if path.is_empty() { name } else { format!("{path}.{name}") };
        if let ValueKind::Table(table) = value.kind {
            flatten(&path, table, flat);
        } else {
            flat.push((path, value));
        }
    }
}

/// Where a value was set.
pub(super) fn origin(value: &Value) -> String {
    value.origin().map_or_else(|| "the defaults".to_owned(), str::to_owned)
}
