//! Prometheus' text format, read strictly: what it does not allow, and what its conventions ask for,
//! panics with the line.

#![allow(clippy::float_cmp, reason = "counts are whole numbers")]

use std::collections::{BTreeMap, HashMap};

/// What a page says.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    /// Each sample by its series.
    pub(crate) samples: HashMap<String, f64>,
    /// Each family with its type.
    pub(crate) families: BTreeMap<String, String>,
}

/// Reads a page of format 0.0.4.
pub(crate) fn parsed(page: &str) -> Exposition {
    let mut all = Exposition::default();
    let (mut helped, mut family) = (String::new(), None::<(String, String)>);
    assert!(page.ends_with('\n'), "the last line ends");
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            assert!(is_name(name) && help.ends_with('.') && help.trim() == help, "{line}");
            name.clone_into(&mut helped);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert!(name == helped && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            let before = all.families.insert(name.to_owned(), kind.to_owned());
            assert!(before.is_none(), "twice: {line}");
            family = Some((name.to_owned(), kind.to_owned()));
        } else {
            let (name, kind) = family.as_ref().expect(line);
            sample(line, name, kind, &mut all.samples);
        }
    }
    for (name, _) in all.families.iter().filter(|(_, kind)| *kind == "histogram") {
        check_histogram(name, page, &all.samples);
    }
    all
}

fn sample(line: &str, family: &str, kind: &str, samples: &mut HashMap<String, f64>) {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}').expect(line))),
        None => (series, Vec::new()),
    };
    let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} is below {family}"));
    let suffixes = if kind == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
    assert!(suffixes.contains(&suffix), "{line}");
    assert_eq!(labels.iter().any(|(label, _)| label == "le"), suffix == "_bucket", "{line}");
    let mut names: Vec<_> = labels.iter().map(|(label, _)| label).collect();
    names.dedup();
    assert!(names.len() == labels.len() && names.iter().all(|it| is_name(it)), "{line}");
    let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
    assert!(value.is_finite() && value >= 0.0, "{line}");
    assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
}

/// `name="text",…` with `\\`, `\"` and `\n` in the text.
fn labels(text: &str) -> Vec<(String, String)> {
    let (mut labels, mut rest) = (Vec::new(), text);
    loop {
        let (name, after) = rest.split_once("=\"").expect(text);
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next().expect(text) {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().expect(text).1 {
                    'n' => '\n',
                    same @ ('\\' | '"') => same,
                    other => panic!("\\{other} in {text}"),
                }),
                (_, other) => value.push(other),
            }
        };
        labels.push((name.to_owned(), value));
        let Some(more) = after[end + 1..].strip_prefix(',') else {
            assert_eq!(&after[end + 1..], "", "{text}");
            return labels;
        };
        rest = more;
    }
}

/// `[a-z_]` only, which is stricter than the format.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Buckets rise in bound and count, the last is +Inf, and that is the count.
fn check_histogram(name: &str, page: &str, samples: &HashMap<String, f64>) {
    let prefix = format!("{name}_bucket{{le=\"");
    let buckets = page.lines().filter_map(|line| {
        let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect(line) };
        Some((bound, count.parse::<f64>().expect(line)))
    });
    let buckets: Vec<_> = buckets.collect();
    assert!(buckets.windows(2).all(|it| it[0].0 < it[1].0 && it[0].1 <= it[1].1), "{buckets:?}");
    let (bound, count) = buckets.last().expect(name);
    assert!(bound.is_infinite(), "{name}");
    assert_eq!(samples[&format!("{name}_count")], *count, "{name}");
    assert!(samples.contains_key(&format!("{name}_sum")), "{name}");
}

#[test]
fn the_reader_refuses_what_the_format_does() {
    let good =
        "# HELP a_total A.\n# TYPE a_total counter\na_total{b=\"x\\\"\\\\\\n,y\",c=\"\"} 1\n";
    assert_eq!(parsed(good).samples.len(), 1);
    for bad in [
        "a_total 1\n",
        "# TYPE a_total counter\na_total 1\n",
        "# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n",
        "# HELP a A.\n# TYPE a counter\na 1\n",
        "# HELP a A.\n# TYPE a gauge\nb 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"x} 1\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"\\x\"} 1\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"x\",b=\"y\"} 1\n",
        "# HELP a A.\n# TYPE a gauge\na one\n",
        "# HELP a A.\n# TYPE a gauge\na 1",
        "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 1\na_count 1\n",
        "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
        "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n",
    ] {
        assert!(std::panic::catch_unwind(|| parsed(bad)).is_err(), "{bad}");
    }
}
