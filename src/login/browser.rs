//! Opening the person's browser: `$BROWSER`, then the desktop's own opener.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::secret::Environment;

/// Whether there is likely a browser at all.
pub fn is_likely(environment: Environment<'_>) -> bool {
    let is_set = |name| environment(name).is_some_and(|value| !value.is_empty());
    cfg!(target_os = "macos") || ["BROWSER", "DISPLAY", "WAYLAND_DISPLAY"].into_iter().any(is_set)
}

/// Starts a browser at `url`; false if none could be started. It does not wait for it, and gives it
/// nothing of this terminal.
pub fn open(url: &str, environment: Environment<'_>) -> bool {
    candidates(url, environment).iter().any(|words| {
        let Some((program, arguments)) = words.split_first() else { return false };
        // A group of its own, so that Ctrl-C here does not end the browser.
        let mut command = Command::new(program);
        command.args(arguments).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().is_ok()
    })
}

/// The command lines to try, in words. `$BROWSER` may list several with `:` between them, each with a
/// `%s` where the address goes.
fn candidates(url: &str, environment: Environment<'_>) -> Vec<Vec<String>> {
    let configured = environment("BROWSER").unwrap_or_default();
    let line = |text: &str| {
        let words = text.split_whitespace().map(|word| word.replace("%s", url));
        let mut words: Vec<_> = words.collect();
        if !text.contains("%s") && !words.is_empty() {
            words.push(url.to_owned());
        }
        words
    };
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    configured.split(':').chain([opener]).map(line).filter(|words| !words.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(browser: &str) -> Vec<String> {
        let environment = |name: &str| (name == "BROWSER").then(|| browser.to_owned());
        candidates("http://x/?a=%s&b", &environment).iter().map(|words| words.join(" ")).collect()
    }

    #[test]
    fn the_variable_comes_before_the_desktop() {
        assert_eq!(tried(""), ["xdg-open http://x/?a=%s&b"]);
        assert_eq!(
            tried("firefox --new-tab %s:lynx"),
            [
                "firefox --new-tab http://x/?a=%s&b",
                "lynx http://x/?a=%s&b",
                "xdg-open http://x/?a=%s&b"
            ]
        );
    }

    #[test]
    fn without_variable_and_display_there_is_none() {
        assert!(!is_likely(&|_| None));
        assert!(!is_likely(&|name| (name == "BROWSER").then(String::new)));
        assert!(is_likely(&|name| (name == "WAYLAND_DISPLAY").then(|| "wayland-0".to_owned())));
    }
}
