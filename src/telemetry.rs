//! Logs: one subscriber, started once, that can neither block start-up nor panic.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::iter;
use std::panic;
use std::thread;

use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use crate::settings::{LogFormat, LogSettings};

/// The target of the line that each request gets, so that `log.requests` can switch it alone.
pub const REQUEST_TARGET: &str = "ringbearer::request";

/// Starts logging to standard error. The first call in a process counts.
pub fn start(settings: &LogSettings) {
    let colours = io::stderr().is_terminal();
    // A second subscriber is refused; the first goes on.
    let _ = tracing::subscriber::set_global_default(subscriber(settings, io::stderr, colours));
}

/// From now on a panic is a line of the log, or of standard error before there is a log. It says where,
/// and what only if that stands in the source: a message that was put together at run time may hold
/// a value (the standard library's about text that is cut badly hold the text).
pub fn watch_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        let words = panic.payload().downcast_ref::<&'static str>();
        let words = words.copied().unwrap_or("(its message may hold a value)");
        let thread = thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
        if tracing::dispatcher::has_been_set() {
            let backtrace = backtrace.map(|it| it.to_string());
            tracing::error!(place, thread, backtrace, "a bug: {words}");
        } else {
            let trace = backtrace.map_or_else(String::new, |it| format!("\n{it}"));
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(io::stderr(), "ringbearer: a bug at {place}: {words}{trace}");
        }
    }));
}

/// The subscriber that [`start`] installs, writing elsewhere: lines for people or JSON for
/// machines, with RFC 3339 timestamps in UTC.
pub fn subscriber<W>(
    settings: &LogSettings,
    writer: W,
    colours: bool,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(writer)
        // Its complaint about a closed standard error would go to standard error, and panic.
        .log_internal_errors(false);
    match settings.format {
        LogFormat::Text => Box::new(lines.with_ansi(colours).finish().with(filter(settings))),
        LogFormat::Json => {
            let lines = lines.with_ansi(false).json().flatten_event(true);
            Box::new(lines.finish().with(filter(settings)))
        }
    }
}

/// Request lines are switched off by a static filter: then their callsite is disabled for good,
/// which costs one load and a branch. `Targets` and not `EnvFilter`, which brings a library of
/// regular expressions for spans that there are none of here.
fn filter(settings: &LogSettings) -> Targets {
    let filter: Targets = settings.filter.parse().expect("checked with the settings");
    if settings.requests { filter } else { filter.with_target(REQUEST_TARGET, LevelFilter::OFF) }
}

/// An error with all its causes, in one line: `identity "sales": jwt file "/run/rc" is not
/// readable: permission denied`. A cause that only repeats what is there is left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = words(error);
    for cause in iter::successors(error.source(), |&cause| cause.source()) {
        let words = words(cause);
        if !line.ends_with(&words) {
            line = format!("{line}: {words}");
        }
    }
    line
}

/// The operating system's messages say "Permission denied (os error 13)"; ours have no such tail.
fn words(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) else {
        return text;
    };
    let mut text = text.replace(&format!(" (os error {code})"), "");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;
    use tracing::{Level, debug, enabled, info};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Standard error after its reader has gone.
    struct BrokenPipe;

    impl Write for BrokenPipe {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    fn settings(format: LogFormat, filter: &str, requests: bool) -> LogSettings {
        LogSettings { filter: filter.to_owned(), format, requests }
    }

    fn logged(settings: &LogSettings, act: impl FnOnce()) -> String {
        let page = Page::default();
        let writer = page.clone();
        with_default(subscriber(settings, move || writer.clone(), false), act);
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn text_lines_hold_time_level_target_and_fields() {
        let line = logged(&settings(LogFormat::Text, "info", true), || {
            info!(identity = "sales", "renewed");
            debug!("not this one");
        });
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(
            line.ends_with(" INFO ringbearer::telemetry::tests: renewed identity=\"sales\"\n"),
            "{line}"
        );
        let time = line.split(' ').next().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok() && time.ends_with('Z'), "{time}");
    }

    #[test]
    fn json_lines_hold_the_fields_beside_the_message() {
        let line = logged(&settings(LogFormat::Json, "info", true), || {
            info!(identity = "sales", status = 200, "renewed");
        });
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&object["level"], &object["message"], &object["identity"], &object["status"]),
            (&"INFO".into(), &"renewed".into(), &"sales".into(), &200.into())
        );
        assert!(humantime::parse_rfc3339(object["timestamp"].as_str().unwrap()).is_ok());
    }

    #[test]
    fn request_lines_are_switched_on_their_own_whatever_the_filter_says() {
        for filter in ["info", "trace", "ringbearer::request=info"] {
            for requests in [true, false] {
                logged(&settings(LogFormat::Text, filter, requests), || {
                    assert_eq!(enabled!(target: REQUEST_TARGET, Level::INFO), requests, "{filter}");
                });
            }
        }
    }

    /// The child's part: it panics with a canary in the ways that hold values.
    fn panic_with_a_canary(is_watched: bool) {
        if is_watched {
            watch_panics();
        }
        let secret = "canary-é-secret".to_owned();
        let refused = Some(secret.clone()).map_or(Ok(()), Err);
        for panicking in [
            Box::new(move || refused.expect("it is granted")) as Box<dyn FnOnce() + Send>,
            Box::new(move || drop(secret[8..].to_owned())),
            Box::new(|| panic!("a literal")),
        ] {
            assert!(thread::spawn(panicking).join().is_err());
        }
    }

    #[test]
    fn a_panic_tells_where_and_nothing_of_values() {
        const ROLE: &str = "RINGBEARER_TEST_PANICS";
        if let Some(role) = std::env::var_os(ROLE) {
            return panic_with_a_canary(role == "watched");
        }
        let said = |role: &str| {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args([
                "--exact",
                "--nocapture",
                "telemetry::tests::a_panic_tells_where_and_nothing_of_values",
            ]);
            let output = child.env(ROLE, role).env("RUST_BACKTRACE", "1").output().unwrap();
            assert!(output.status.success());
            String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
        };
        let unwatched = said("unwatched");
        assert_eq!(unwatched.matches("canary-é-secret").count(), 2, "{unwatched}");
        let watched = said("watched");
        assert_eq!(
            watched.matches("canary").count() - watched.matches("panic_with_a_canary").count(),
            0,
            "{watched}"
        );
        assert_eq!(
            watched.matches("ringbearer: a bug at src/telemetry.rs:").count(),
            3,
            "{watched}"
        );
        assert_eq!(watched.matches(": (its message may hold a value)\n").count(), 2, "{watched}");
        assert_eq!(watched.matches(": a literal\n").count(), 1, "{watched}");
    }

    #[test]
    fn a_closed_standard_error_stops_nothing() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let subscriber = subscriber(&settings(format, "info", true), || BrokenPipe, false);
            with_default(subscriber, || info!("nobody reads this"));
        }
    }

    #[test]
    fn a_chain_is_one_line_without_repetitions_and_error_numbers() {
        #[derive(Debug, thiserror::Error)]
        #[error("jwt file is not readable")]
        struct Unreadable(#[source] io::Error);
        let denied = || Unreadable(io::Error::from_raw_os_error(13));
        assert_eq!(chain(&denied()), "jwt file is not readable: permission denied");
        assert_eq!(
            chain(&io::Error::other(denied())),
            "jwt file is not readable: permission denied"
        );
    }
}
