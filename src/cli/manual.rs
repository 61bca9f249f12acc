//! `man` and `completions`: what the command line says of itself, in the forms that other programs read.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{AFTER_HELP, Cli, Failure};

/// Which manual pages, and where to.
#[derive(Debug, Args)]
pub(super) struct ManFlags {
    /// Write a page for each command into this directory, instead of one page to standard output
    #[arg(long, value_name = "DIR")]
    all: Option<PathBuf>,
}

/// For which shell.
#[derive(Debug, Args)]
pub(super) struct CompletionsFlags {
    /// The shell that is to complete command lines
    shell: Shell,
}

/// Writes the page of `ringbearer` itself to `out`, or all pages into a directory.
pub(super) fn man(flags: &ManFlags, out: &mut impl Write) -> Result<(), Failure> {
    match &flags.all {
        None => pass(&page(command()), out),
        Some(directory) => {
            all(directory).map_err(|(path, source)| Failure::Manual { path, source })
        }
    }
}

/// Writes a shell's completions to `out`.
pub(super) fn completions(flags: &CompletionsFlags, out: &mut impl Write) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut Cli::command(), NAME, &mut script);
    pass(&script, out)
}

/// A reader that has enough (`| head`) is no failure.
fn pass(text: &[u8], out: &mut impl Write) -> Result<(), Failure> {
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

fn command() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

fn all(directory: &Path) -> Result<(), (PathBuf, io::Error)> {
    let root = command();
    let of_root = (format!("{NAME}.1"), page(root.clone()));
    let each = root.get_subcommands().filter(|it| !it.is_hide_set());
    let each = each.map(|it| (format!("{NAME}-{}.1", it.get_name()), page(it.clone())));
    for (name, text) in each.chain([of_root]) {
        let path = directory.join(name);
        fs::write(&path, text).map_err(|source| (path, source))?;
    }
    Ok(())
}

/// What belongs to the whole program stands on its own page only.
fn page(command: Command) -> Vec<u8> {
    let is_root = command.get_name() == NAME;
    let title = command.get_display_name().unwrap_or(NAME).to_uppercase();
    let has_commands = command.has_subcommands();
    let man = Man::new(command);
    let mut text = Vec::new();
    let written = (|| {
        // The generator's leaves the date out, and what follows is taken for one.
        writeln!(text, ".TH {title} 1 \"\" \"ringbearer {VERSION}\"")?;
        man.render_name_section(&mut text)?;
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        man.render_options_section(&mut text)?;
        if has_commands {
            man.render_subcommands_section(&mut text)?;
        }
        text.write_all(if is_root { epilogue(AFTER_HELP) } else { SEE_ALSO.to_owned() }.as_bytes())
    })();
    written.expect("memory takes what is written");
    text
}

/// The help's last paragraphs, each a section whose lines stay as they are. (clap's own would run
/// them together.)
fn epilogue(help: &str) -> String {
    let section = |paragraph: &str| match paragraph.split_once(":\n") {
        Some((title, lines)) => {
            let lines = lines.lines().map(|line| escaped(line.strip_prefix("  ").unwrap_or(line)));
            let lines: Vec<_> = lines.collect();
            format!(".SH \"{}\"\n.nf\n{}\n.fi\n", title.to_uppercase(), lines.join("\n"))
        }
        None => format!(".SH SECRETS\n{}\n", escaped(paragraph)),
    };
    help.split("\n\n").map(section).collect::<String>() + FILES
}

/// Text that the formatter takes for nothing but text.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
const NAME: &str = "ringbearer";

const SEE_ALSO: &str = ".SH \"SEE ALSO\"\n.BR ringbearer (1)\n";

const FILES: &str = "\
.SH FILES
.TP
.I /etc/ringbearer/proxy.toml
The configuration, where the package's unit looks for it.
.TP
.I $XDG_STATE_HOME/ringbearer, ~/.local/state/ringbearer
Sessions, unless the configuration has a [store].
.SH ENVIRONMENT
.TP
.B RINGBEARER_CONFIG
The configuration, as with \\-\\-config.
.TP
.BR RC_APP_CLIENT_ID \", \" RC_APP_CLIENT_SECRET \", \" RC_USER_JWT \", \" RC_SERVER_URL
One application and one identity, where no configuration is named.
.TP
.BR NOTIFY_SOCKET \", \" WATCHDOG_USEC \", \" LISTEN_FDS
What systemd passes to a service: sd_notify(3), sd_listen_fds(3).
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_help_stay_lines_and_nothing_in_them_is_a_command() {
        let text = epilogue("Examples:\n  a --b \\n\n  .hidden\n  'quoted\n\nOne sentence.");
        assert!(
            text.starts_with(
                ".SH \"EXAMPLES\"\n.nf\na \\-\\-b \\en\n\\&.hidden\n\\&'quoted\n.fi\n.SH SECRETS\nOne sentence.\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn every_shell_is_told_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let mut out = Vec::new();
            completions(&CompletionsFlags { shell }, &mut out).unwrap();
            let script = String::from_utf8(out).unwrap();
            for command in command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {command}");
            }
        }
    }
}
