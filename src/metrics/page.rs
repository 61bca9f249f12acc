//! A page in Prometheus' text format, written family by family.

use std::fmt::{self, Display, Write};

use super::histogram::{BOUNDS, Distribution};

/// What a figure does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many were how long.
    Histogram,
}

/// A page in Prometheus' text format, version 0.0.4.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// What the format calls itself.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family: all samples of one name stand together, below its description.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { page: self, name }
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to a String cannot fail");
    }
}

/// A family that samples are added to.
#[derive(Debug)]
pub struct Family<'p> {
    page: &'p mut Page,
    name: &'static str,
}

impl Family<'_> {
    /// Adds a sample with its labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    /// Adds the samples of a histogram, in seconds.
    pub fn distribution(&mut self, distribution: &Distribution) {
        let mut below = 0;
        for (count, (_, bound)) in distribution.counts().zip(BOUNDS) {
            below += count;
            self.line("_bucket", &[("le", bound)], below);
        }
        self.line("_bucket", &[("le", "+Inf")], distribution.count());
        self.line("_sum", &[], distribution.sum().as_secs_f64());
        self.line("_count", &[], distribution.count());
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.page.write(format_args!("{}{suffix}", self.name));
        for (index, (label, text)) in labels.iter().enumerate() {
            let opening = if index == 0 { '{' } else { ',' };
            self.page.write(format_args!("{opening}{label}=\"{}\"", escaped(text)));
        }
        let closing = if labels.is_empty() { "" } else { "}" };
        self.page.write(format_args!("{closing} {value}\n"));
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::histogram::Histogram;

    #[test]
    fn a_family_says_what_it_is_before_its_samples() {
        let mut page = Page::default();
        page.family("up", Kind::Gauge, "Whether it is.").sample(&[], 1);
        let mut family = page.family("done_total", Kind::Counter, "What was done.");
        family.sample(&[("by", "a\"b\\c\nd"), ("how", "well")], 2.5);
        assert_eq!(
            page.into_text(),
            "# HELP up Whether it is.\n# TYPE up gauge\nup 1\n\
             # HELP done_total What was done.\n# TYPE done_total counter\n\
             done_total{by=\"a\\\"b\\\\c\\nd\",how=\"well\"} 2.5\n"
        );
    }

    #[test]
    fn a_histogram_counts_all_that_were_no_longer() {
        let histogram = Histogram::default();
        for micros in [10, 11, 99_999_999] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut page = Page::default();
        page.family("took_seconds", Kind::Histogram, "Time.").distribution(&histogram.read());
        let text = page.into_text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[1..5],
            [
                "# TYPE took_seconds histogram",
                "took_seconds_bucket{le=\"0.00001\"} 1",
                "took_seconds_bucket{le=\"0.000025\"} 2",
                "took_seconds_bucket{le=\"0.00005\"} 2",
            ]
        );
        assert_eq!(
            lines[lines.len() - 4..],
            [
                "took_seconds_bucket{le=\"60\"} 2",
                "took_seconds_bucket{le=\"+Inf\"} 3",
                "took_seconds_sum 100.00002",
                "took_seconds_count 3",
            ]
        );
    }
}
