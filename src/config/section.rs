//! A table of settings from which each is taken once: what is left over is unknown.

use std::{
    cell::RefCell, collections::BTreeMap, ops::RangeInclusive, path::PathBuf, time::Duration,
};

use config::{Map, Value, ValueKind};
use jiff::{Span, SpanRelativeTo};

use super::{Mistake, Mistakes};

/// What is noted while settings are read.
#[derive(Default)]
pub(super) struct Notes {
    mistakes: RefCell<Vec<Mistake>>,
    /// Files that settings name, and that were read.
    files: RefCell<Vec<PathBuf>>,
}

impl Notes {
    /// What was read, unless there is a mistake; and the files.
    pub(super) fn unless_mistaken<T>(self, read: T) -> Result<(T, Vec<PathBuf>), Mistakes> {
        let mistakes = self.mistakes.into_inner();
        match mistakes.is_empty() {
            true => Ok((read, self.files.into_inner())),
            false => Err(Mistakes(mistakes)),
        }
    }
}

/// A table, its path, and where mistakes go.
pub(super) struct Section<'m> {
    path: String,
    /// `None` where something else stands for the table: said once, not again for each setting.
    table: Option<Map<String, Value>>,
    notes: &'m Notes,
}

/// A setting whose name is the user's own.
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) origin: String,
}

impl<'m> Section<'m> {
    /// The table at a path; `""` is the whole.
    pub(super) fn new(path: &str, table: Map<String, Value>, notes: &'m Notes) -> Self {
        Self { path: path.to_owned(), table: Some(table), notes }
    }

    /// A table inside this one.
    pub(super) fn section(&mut self, name: &str) -> Self {
        let value = self.table.as_mut().map(|table| table.remove(name));
        if let Some(None) = value {
            self.mistake(name, "is missing: allowed is a table of settings".to_owned());
        }
        self.subsection(name, value.flatten())
    }

    /// All tables inside this one.
    pub(super) fn sections(mut self) -> impl Iterator<Item = (String, Self)> {
        let table = self.table.take().unwrap_or_default();
        table.into_iter().map(move |(name, value)| {
            let section = self.subsection(&name, Some(value));
            (name, section)
        })
    }

    fn subsection(&self, name: &str, value: Option<Value>) -> Self {
        let table = value.and_then(|value| {
            let (what, origin) = (sort(&value), origin(&value));
            if let ValueKind::Table(table) = value.kind {
                return Some(table);
            }
            let problem = format!("is {what} in {origin}: allowed is a table of settings");
            self.mistake(name, problem);
            None
        });
        Self { path: self.key(name), table, notes: self.notes }
    }

    /// A setting read by `parse`; what it allows is said where it gives nothing.
    pub(super) fn read<T: Default>(
        &mut self,
        name: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let Some(table) = &mut self.table else { return T::default() };
        let Some(value) = table.remove(name) else {
            self.mistake(name, format!("is missing: allowed is {allowed}"));
            return T::default();
        };
        let (what, origin) = (sort(&value), origin(&value));
        let written = value.into_string().ok();
        written.as_deref().and_then(parse).unwrap_or_else(|| {
            let what = written.map_or_else(|| what.to_owned(), |written| format!("`{written}`"));
            self.mistake(name, format!("is {what} in {origin}: allowed is {allowed}"));
            T::default()
        })
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

    /// All that is left, by dotted names, numbers and flags as their text.
    pub(super) fn dotted(&mut self) -> BTreeMap<String, Entry> {
        self.texts(with_dots, |value| value.into_string().ok())
    }

    /// All that is left, by name. Only texts: TOML's `1e5` would be read as 100000.
    pub(super) fn entries(&mut self) -> BTreeMap<String, Entry> {
        self.texts(BTreeMap::from_iter, |value| {
            if let ValueKind::String(text) = value.kind { Some(text) } else { None }
        })
    }

    fn texts(
        &mut self,
        by_name: impl Fn(Vec<(String, Value)>) -> BTreeMap<String, Value>,
        text: impl Fn(Value) -> Option<String>,
    ) -> BTreeMap<String, Entry> {
        let mut flat = Vec::new();
        flatten("", self.table.take().unwrap_or_default(), &mut flat);
        let mut texts = BTreeMap::new();
        for (name, value) in by_name(flat) {
            let (what, origin) = (sort(&value), origin(&value));
            match text(value) {
                Some(text) => drop(texts.insert(name, Entry { text, origin })),
                // Not the value, which may be secret.
                None => self
                    .mistake(&name, format!("is {what} in {origin}: allowed is a text in quotes")),
            }
        }
        texts
    }

    /// Notes a file that a setting names, and that was read.
    pub(super) fn file(&self, path: &str) {
        self.notes.files.borrow_mut().push(PathBuf::from(path));
    }

    /// Notes a mistake in one of this table's settings.
    pub(super) fn mistake(&self, name: &str, problem: String) {
        self.notes.mistakes.borrow_mut().push(Mistake { key: self.key(name), problem });
    }

    /// Ends the reading: what was not taken is unknown.
    pub(super) fn end(mut self) {
        let mut left = Vec::new();
        flatten("", self.table.take().unwrap_or_default(), &mut left);
        for (name, value) in left {
            self.mistake(&name, format!("in {} is no setting of the relay", origin(&value)));
        }
    }

    fn key(&self, name: &str) -> String {
        let parts = [self.path.as_str(), name];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
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

/// Values by their dotted name: the environment, which knows no dots, says `a_b` for `a.b`, and
/// wins.
pub(super) fn with_dots(
    flat: impl IntoIterator<Item = (String, Value)>,
) -> BTreeMap<String, Value> {
    let (undotted, dotted): (Vec<_>, Vec<_>) =
        flat.into_iter().partition(|(name, _)| name.contains('_'));
    let dots = |(name, value): (String, Value)| (name.replace('_', "."), value);
    dotted.into_iter().chain(undotted.into_iter().map(dots)).collect()
}

/// Where a value, or the first of a table, was set.
pub(super) fn origin(value: &Value) -> String {
    match (&value.kind, value.origin()) {
        (_, Some(origin)) => origin.to_owned(),
        (ValueKind::Table(table), None) => {
            table.values().next().map_or_else(|| "a file".to_owned(), origin)
        }
        (_, None) => "the defaults".to_owned(),
    }
}

/// What sort of value it is, where the value itself is not to be shown.
fn sort(value: &Value) -> &'static str {
    match value.kind {
        ValueKind::Table(_) => "a table",
        ValueKind::Array(_) => "a list",
        ValueKind::String(_) => "a text",
        ValueKind::Nil
        | ValueKind::Boolean(_)
        | ValueKind::I64(_)
        | ValueKind::I128(_)
        | ValueKind::U64(_)
        | ValueKind::U128(_)
        | ValueKind::Float(_) => "a number or a flag",
    }
}
