//! The report for people: aligned columns, times as one says them. PURE but for the writing.

use std::io::{self, Write};
use std::time::Duration;

use super::Report;
use crate::clock::Timestamp;
use crate::token::roster::{Line, Moment};

/// Writes everything there is to say.
pub(super) fn write(report: &Report, now: Timestamp, out: &mut impl Write) -> io::Result<()> {
    let mut head = vec![
        "IDENTITY",
        "APPLICATION",
        "STATE",
        "TOKEN ENDS",
        "REFRESH DIES",
        "RENEWED",
        "GENERATION",
    ];
    if report.live {
        head.push("WAITING");
    }
    let cells = |line| row(line, report.live, now);
    columns(&head, report.identities.iter().map(cells).collect(), out)?;
    writeln!(out)?;
    let budget = |it: &super::Budget| {
        vec![it.name.clone(), format!("{} of {} in this minute", it.left, it.limit)]
    };
    let budgets = report.applications.iter().map(budget).collect();
    columns(&["APPLICATION", "TOKEN REQUESTS LEFT"], budgets, out)?;
    remarks(report, out)
}

fn remarks(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let error = |line: &Line| {
        let error = line.live.as_ref()?.last_error.as_ref()?;
        Some(format!("error: {}: {error}", line.name))
    };
    let note = |line: &Line| line.note.as_ref().map(|note| format!("note: {note}"));
    let silent = report.silent.iter().map(|url| {
        format!("note: no proxy answers at {url} (admin.listen), so this is what the store knows")
    });
    let lines = report.identities.iter();
    let remarks: Vec<_> =
        lines.clone().filter_map(error).chain(lines.filter_map(note)).chain(silent).collect();
    if !remarks.is_empty() {
        writeln!(out)?;
    }
    remarks.iter().try_for_each(|remark| writeln!(out, "{remark}"))
}

fn row(line: &Line, waiting: bool, now: Timestamp) -> Vec<String> {
    let none = || "-".to_owned();
    let time = |at: Option<Moment>| at.map_or_else(none, |Moment(at)| said(at, now));
    let mut cells = vec![
        line.name.clone(),
        line.application.clone().unwrap_or_else(none),
        line.state.to_string(),
        time(line.expires_at),
        time(line.refresh_expires_at),
        time(line.issued_at),
        line.generation.map_or_else(none, |generation| generation.to_string()),
    ];
    if waiting {
        cells.push(line.live.as_ref().map_or_else(none, |live| live.waiting.to_string()));
    }
    cells
}

/// Each column as wide as its widest cell; nothing trails.
fn columns(head: &[&str], rows: Vec<Vec<String>>, out: &mut impl Write) -> io::Result<()> {
    let head = head.iter().map(|&cell| cell.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let widest = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows[0].len()).map(widest).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// "in 42m", "3h 5m ago", "now".
fn said(at: Timestamp, now: Timestamp) -> String {
    let (ahead, behind) = (now.until(at).as_secs(), at.until(now).as_secs());
    match (ahead, behind) {
        (0, 0) => "now".to_owned(),
        (0, behind) => format!("{} ago", span(Duration::from_secs(behind))),
        (ahead, _) => format!("in {}", span(Duration::from_secs(ahead))),
    }
}

/// The two largest units, and from an hour down no more than helps.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |large: u64, small: u64, units: [&str; 2]| match small {
        0 => format!("{large}{}", units[0]),
        small => format!("{large}{} {small}{}", units[0], units[1]),
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => two(seconds / 3600, seconds % 3600 / 60, ["h", "m"]),
        _ => two(seconds / 86_400, seconds % 86_400 / 3600, ["d", "h"]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Budget;
    use super::*;
    use crate::token::roster::{Live, Origin, State};

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

    #[test]
    fn times_are_said_as_people_say_them() {
        for (seconds, expected) in [
            (30, "in 30s"),
            (42 * 60 + 59, "in 42m"),
            (3600, "in 1h"),
            (5 * 3600 + 12 * 60, "in 5h 12m"),
            (6 * 86_400 + 4 * 3600 + 59 * 60, "in 6d 4h"),
            (7 * 86_400, "in 7d"),
        ] {
            let by = Duration::from_secs(seconds);
            assert_eq!(said(NOW + by, NOW), expected);
            assert_eq!(said(NOW - by, NOW), expected.replacen("in ", "", 1) + " ago");
        }
        assert_eq!(said(NOW + Duration::from_millis(999), NOW), "now");
    }

    fn line(name: &str, state: State) -> Line {
        Line {
            name: name.into(),
            application: Some("crm".into()),
            origin: Origin::Configured,
            state,
            generation: None,
            issued_at: None,
            expires_at: None,
            refresh_expires_at: None,
            note: None,
            live: None,
        }
    }

    fn report() -> Report {
        let at = |minutes: u64| Some(Moment(NOW + Duration::from_secs(minutes * 60)));
        let sales = Line {
            generation: Some(7),
            issued_at: Some(Moment(NOW - Duration::from_secs(18 * 60))),
            expires_at: at(42),
            refresh_expires_at: at(6 * 24 * 60 + 4 * 60),
            ..line("sales", State::Live)
        };
        Report {
            identities: vec![sales, line("a-longer-name", State::NoSession)],
            applications: vec![Budget { name: "crm".into(), left: 4, limit: 5 }],
            live: false,
            silent: None,
        }
    }

    fn written(report: &Report) -> String {
        let mut out = Vec::new();
        write(report, NOW, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_stand_below_each_other() {
        assert_eq!(
            written(&report()),
            "\
IDENTITY       APPLICATION  STATE       TOKEN ENDS  REFRESH DIES  RENEWED  GENERATION
sales          crm          live        in 42m      in 6d 4h      18m ago  7
a-longer-name  crm          no session  -           -             -        -

APPLICATION  TOKEN REQUESTS LEFT
crm          4 of 5 in this minute
"
        );
    }

    #[test]
    fn what_a_running_proxy_knows_is_added_and_a_silent_one_is_named() {
        let mut report = report();
        report.live = true;
        let failed = Some("the token endpoint cannot be reached: check token_url".to_owned());
        report.identities[1].live =
            Some(Live { usable: false, waiting: 3, until: None, last_error: failed });
        report.identities[0].note = Some("refresh token of sales dies in 5 h: log in".into());
        let text = written(&report);
        assert!(text.contains("  GENERATION  WAITING\n"), "{text}");
        assert!(text.contains("  7           -\n"), "{text}");
        assert!(text.contains("  -           3\n"), "{text}");
        assert!(
            text.ends_with(
                "\n\nerror: a-longer-name: the token endpoint cannot be reached: check token_url\n\
                 note: refresh token of sales dies in 5 h: log in\n"
            ),
            "{text}"
        );
        report.silent = Some("http://127.0.0.1:9090".into());
        assert!(written(&report).ends_with(
            "note: no proxy answers at http://127.0.0.1:9090 (admin.listen), so this is what the store knows\n"
        ));
    }
}
