//! `export` and `import`: sessions from one store to another, sealed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::login::say;
use super::{Failure, SourceFlags, secret_file, serve, warn_of};
use crate::audit::{self, AuditLog, SessionChange};
use crate::clock::Clock;
use crate::login::transfer::{Brought, Collected, Transfer};
use crate::secret::Environment;
use crate::service;
use crate::settings::{Settings, SettingsError};
use crate::store::archive;
use crate::store::seal::Seal;

/// What goes into an archive.
#[derive(Debug, Args)]
#[command(after_help = EXPORT_HELP)]
pub(super) struct ExportFlags {
    /// The identities
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,
    /// All that have a session or were added by `login`
    #[arg(long)]
    all: bool,
    /// The key that seals the archive: 32 random bytes in base64 (openssl rand -base64 32)
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Where the archive goes, readable by you alone; standard output otherwise
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Log the sessions out here, without ending them: they go on where the archive is imported
    #[arg(long = "move", requires = "output")]
    moves: bool,
    #[command(flatten)]
    source: SourceFlags,
}

/// What is taken out of an archive.
#[derive(Debug, Args)]
pub(super) struct ImportFlags {
    /// The archive, `-` or nothing for standard input
    file: Option<PathBuf>,
    /// The key that the archive was exported with
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Take the archive's session also where the store has a newer one
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    source: SourceFlags,
}

pub(super) fn export(flags: ExportFlags, environment: Environment<'_>) -> Result<(), Failure> {
    let (settings, seal) = prepared(&flags.source, &flags.key_file, environment)?;
    let audit = super::audit(&settings)?;
    let exported = serve::runtime()?.block_on(async {
        let transfer = transfer(&settings)?;
        let names = if flags.all { transfer.names().await? } else { flags.names };
        if names.is_empty() {
            return Err(Failure::NothingToExport);
        }
        let collected = transfer.collect(&names, flags.moves).await?;
        write(&archive::write(&collected.items, &seal), flags.output.as_deref())?;
        for item in &collected.items {
            let what = match (&item.session, &item.enrolment) {
                (None, _) => "without a session",
                (Some(_), _) if flags.moves => "moved: logged out here",
                (Some(_), _) => "copied",
            };
            remark(&format!("{}: {what}", item.identity));
        }
        for item in collected.items.iter().filter(|item| item.session.is_some()) {
            note(&audit, &item.identity, SessionChange::Exported, "export");
        }
        if flags.moves {
            let moved: Vec<_> = collected.items.iter().map(|it| it.identity.clone()).collect();
            transfer.leave(collected).await?;
            for identity in &moved {
                note(&audit, identity, SessionChange::Ended, "export");
            }
            return Ok(());
        }
        warn_of_sharing(&collected);
        Ok(())
    });
    audit.close();
    exported
}

pub(super) fn import(flags: &ImportFlags, environment: Environment<'_>) -> Result<(), Failure> {
    let (settings, seal) = prepared(&flags.source, &flags.key_file, environment)?;
    let content = read(flags.file.as_deref())?;
    let items = archive::read(&content, &seal)?;
    let audit = super::audit(&settings)?;
    let imported = serve::runtime()?.block_on(async {
        let transfer = transfer(&settings)?;
        let mut refused = 0;
        for item in &items {
            let brought = transfer.bring(&settings, item, flags.replace).await?;
            refused += usize::from(!brought.is_here());
            if matches!(brought, Brought::Session(_)) {
                note(&audit, &item.identity, SessionChange::Imported, "import");
            }
            say(&format!("{}: {brought}", item.identity.escape_debug()))?;
        }
        match refused {
            0 => Ok(()),
            refused => Err(Failure::NotImported { refused, of: items.len() }),
        }
    });
    audit.close();
    imported
}

fn note(audit: &AuditLog, identity: &str, change: SessionChange, by: &str) {
    let session = audit::Session { identity, change, grant: None, generation: None, by };
    audit.note(&audit::Event::Session(session));
}

fn prepared(
    source: &SourceFlags,
    key_file: &Path,
    environment: Environment<'_>,
) -> Result<(Settings, Seal), Failure> {
    let (source, overrides) = source.split();
    let (settings, _) = Settings::load(&source, overrides, environment)?;
    let mut warnings = Vec::new();
    let key = secret_file("--key-file", key_file, environment, &mut warnings)?;
    warn_of(&warnings);
    let bad = |source| Failure::Key { path: key_file.to_owned(), source };
    Ok((settings, Seal::new(&[key]).map_err(bad)?))
}

fn transfer(settings: &Settings) -> Result<Transfer, Failure> {
    let clock = Clock::system();
    Ok(Transfer::new(service::lasting_store(settings, &clock)?, clock))
}

/// Who has the archive has whole sessions, so it is this user's alone; and whole or not there at all.
fn write(archive: &[u8], output: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = output else {
        let mut out = io::stdout().lock();
        return out.write_all(archive).and_then(|()| out.flush()).map_err(Failure::Output);
    };
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let written = || -> io::Result<()> {
        let mut file = NamedTempFile::new_in(directory)?;
        file.write_all(archive)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(directory)?.sync_all()
    };
    written().map_err(|source| Failure::Archive { path: path.to_owned(), source })
}

fn read(file: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut content = Zeroizing::new(Vec::new());
    match file.filter(|path| *path != Path::new("-")) {
        None => {
            let input = io::stdin().lock().take(MOST_ARCHIVE_BYTES).read_to_end(&mut content);
            input.map_err(crate::login::LoginError::Input)?;
        }
        Some(path) => {
            let file = File::open(path);
            let read = file.and_then(|it| it.take(MOST_ARCHIVE_BYTES).read_to_end(&mut content));
            read.map_err(|source| SettingsError::Unreadable {
                what: "archive",
                path: path.to_owned(),
                source,
            })?;
        }
    }
    Ok(content)
}

fn warn_of_sharing(collected: &Collected) {
    let shared: Vec<_> = collected.shared().collect();
    if !shared.is_empty() {
        remark(&format!(
            "A session can live in one place only: {} would end in both stores with the first renewal in \
             either. Use it here or there, not both; --move exports and logs out here.",
            shared.join(", ")
        ));
    }
}

/// Standard output may be the archive.
fn remark(text: &str) {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(io::stderr(), "{text}");
}

const MOST_ARCHIVE_BYTES: u64 = 256 * 1024 * 1024;

const EXPORT_HELP: &str = "\
A session can live in one place only: where two stores hold it, the first renewal in either ends it in
the other. --move takes it from here; without it, be sure that only one of the two is used.

Examples:
  (umask 077; openssl rand -base64 32 > archive.key)
  ringbearer export --all --move --key-file archive.key --output sessions.archive
  ringbearer import --key-file archive.key sessions.archive";
