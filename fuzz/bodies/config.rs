//! Whatever a configuration is, it is refused in words or understood; and what is understood can be shown.

use std::error::Error;

use ringbearer::settings::{ConfigSource, Overrides, Settings};

pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // What is read from files is another matter, and might be read for ever.
    if text.contains("file") || text.contains("/dev") {
        return;
    }
    let environment = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
    let source = ConfigSource::Text(text.to_owned());
    match Settings::load(&source, Overrides::default(), &environment) {
        Ok((settings, warnings)) => {
            assert!(!format!("{settings:?}{warnings:?}").is_empty());
            assert!(!settings.proxy.listen.is_empty() && !settings.applications.is_empty());
        }
        Err(error) => {
            let told = ringbearer::telemetry::chain(&error);
            assert!(!told.contains('\u{1b}'), "a terminal would obey: {told:?}");
            assert!(error.source().is_none_or(|cause| !cause.to_string().is_empty()));
        }
    }
}
