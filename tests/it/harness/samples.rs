//! What `/metrics` says.

use std::collections::BTreeMap;

/// What `/metrics` says, by the text of name and labels.
#[derive(Debug)]
pub(crate) struct Samples(BTreeMap<String, f64>);

impl Samples {
    pub(crate) fn read(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        Self(
            lines
                .map(|line| {
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    let series = series.strip_prefix("clickpesa_relay_").unwrap_or_else(|| {
                        panic!("a metric without our prefix: {line}");
                    });
                    (series.to_owned(), value.parse().unwrap())
                })
                .collect(),
        )
    }

    /// The sum of all series of a metric that have all these labels, such as `reason="busy"`.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.series(name, labels).sum()
    }

    fn series(&self, name: &str, labels: &[&str]) -> impl Iterator<Item = f64> {
        let is_meant = |series: &str| {
            series.split('{').next() == Some(name)
                && labels.iter().all(|label| series.contains(label))
        };
        self.0.iter().filter(move |(series, _)| is_meant(series)).map(|(_, value)| *value)
    }

    pub(crate) fn has_series(&self, name: &str, labels: &[&str]) -> bool {
        self.series(name, labels).next().is_some()
    }

    /// How many requests ended so.
    pub(crate) fn ended(&self, outcome: &str, reason: &str) -> f64 {
        let labels = [format!("outcome=\"{outcome}\""), format!("reason=\"{reason}\"")];
        self.sum("outcomes_total", &[&labels[0], &labels[1]])
    }

    #[track_caller]
    pub(crate) fn assert_balanced(&self) {
        let received = self.sum("received_total", &[]);
        let ended = self.sum("outcomes_total", &[]);
        let in_flight = self.sum("in_flight", &[]);
        assert!((received - ended - in_flight).abs() < 0.5, "{self:#?}");
    }
}
