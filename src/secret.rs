//! Text that must not leak, and the places it may come from.
//!
//! A [`Secret`] prints as a mask, is wiped when dropped, and is read only by an explicit
//! [`Secret::expose`], so that every use can be found by searching for that word. A [`SecretSource`]
//! says where one is kept; [`Sources`] fetches it. There is no source "command line argument":
//! every user of a machine can list those.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::mark::{Mark, Marked};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Unexpected, Visitor};
use zeroize::Zeroizing;

mod key;

pub use key::{KEY_BYTES, NoKey, SecretKey};

/// A piece of text that never reaches a log, an error or a response by accident.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself. Every call is a place where the secret may leak.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret is kept: in the configuration as text, or elsewhere.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// Written in the configuration itself.
    Text(Secret),
    /// `{ file = "…" }`: the content of a file, without the line break at its end.
    File(PathBuf),
    /// `{ env = "…" }`: an environment variable.
    Env(String),
    /// `{ credential = "…" }`: a credential that systemd passes (`LoadCredential=`).
    Credential(String),
}

/// Looks up an environment variable; tests pass their own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The [`Environment`] of this process. A variable that is not UTF-8 counts as not set.
pub fn process_environment(name: &str) -> Option<String> {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    std::env::var(name).ok()
}

/// All variables of this process, for a command that is to have some of them.
pub fn process_variables() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

/// Fetches secrets, and remembers which of their files are open to everybody.
pub struct Sources<'a> {
    environment: Environment<'a>,
    directory: &'a Path,
    files: Vec<Marked>,
    world_readable: Vec<PathBuf>,
}

impl<'a> Sources<'a> {
    /// Relative files are taken from `directory`.
    pub fn new(environment: Environment<'a>, directory: &'a Path) -> Self {
        Self { environment, directory, files: Vec::new(), world_readable: Vec::new() }
    }

    /// Reads one secret; `name` is the key it is configured under, for the error.
    pub fn read(
        &mut self,
        name: &'static str,
        source: &SecretSource,
    ) -> Result<Secret, SecretError> {
        let (place, text) = match source {
            SecretSource::Text(secret) => ("as it is written".into(), secret.clone()),
            SecretSource::File(path) => self.read_file(name, &self.directory.join(path))?,
            SecretSource::Env(variable) => self.read_variable(name, variable)?,
            SecretSource::Credential(credential) => {
                let path = self.credential_path(name, credential)?;
                self.read_file(name, &path)?
            }
        };
        checked(name, place, &text)
    }

    /// [`Sources::read`] for a secret that need not be there.
    pub fn read_given(
        &mut self,
        name: &'static str,
        source: Option<&SecretSource>,
    ) -> Result<Option<Secret>, SecretError> {
        source.map(|source| self.read(name, source)).transpose()
    }

    /// The files read so far.
    pub fn files(&self) -> &[Marked] {
        &self.files
    }

    /// The files read so far that every user of the machine can read.
    pub fn into_world_readable(self) -> Vec<PathBuf> {
        self.world_readable
    }

    fn read_variable(
        &self,
        name: &'static str,
        variable: &str,
    ) -> Result<(String, Secret), SecretError> {
        let text = (self.environment)(variable)
            .ok_or_else(|| SecretError::NotSet { name, variable: variable.to_owned() })?;
        Ok((format!("in the environment variable {variable}"), Secret::new(text)))
    }

    fn credential_path(
        &self,
        name: &'static str,
        credential: &str,
    ) -> Result<PathBuf, SecretError> {
        if credential.is_empty() || credential.starts_with('.') || credential.contains('/') {
            return Err(SecretError::CredentialName { name });
        }
        let directory = (self.environment)("CREDENTIALS_DIRECTORY").ok_or_else(|| {
            SecretError::NoCredentials { name, credential: credential.to_owned() }
        })?;
        Ok(Path::new(&directory).join(credential))
    }

    fn read_file(
        &mut self,
        name: &'static str,
        path: &Path,
    ) -> Result<(String, Secret), SecretError> {
        let unreadable = |source| SecretError::File { name, path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        self.files.push((path.to_owned(), Some(Mark::from(&metadata))));
        // One byte more than allowed, so that a longer file (or /dev/zero) shows.
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_SECRET_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
        if metadata.is_file() && metadata.mode() & 0o004 != 0 {
            self.world_readable.push(path.to_owned());
        }
        Ok((format!("in the file {}", path.display()), Secret(text)))
    }
}

/// Cuts the line break at the end, and refuses what cannot be a secret.
fn checked(name: &'static str, place: String, text: &Secret) -> Result<Secret, SecretError> {
    let line = text.expose().trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        Err(SecretError::Empty { name, place })
    } else if line.len() as u64 > MAX_SECRET_BYTES {
        Err(SecretError::TooLong { name, place })
    } else if line.contains(char::is_control) {
        Err(SecretError::SeveralLines { name, place })
    } else {
        Ok(Secret::new(line))
    }
}

/// Why a secret cannot be had. Never holds any of its text.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum SecretError {
    #[error("{name} file {path:?} is not readable")]
    File { name: &'static str, path: PathBuf, source: io::Error },
    #[error("{name} is to come from the environment variable {variable}, which is not set")]
    NotSet { name: &'static str, variable: String },
    #[error(
        "{name} is to come from the systemd credential {credential:?}, but CREDENTIALS_DIRECTORY is not set: \
         add LoadCredential={credential}:PATH to the unit"
    )]
    NoCredentials { name: &'static str, credential: String },
    #[error("{name} names a systemd credential that is not a plain file name")]
    CredentialName { name: &'static str },
    #[error("{name} is empty {place}")]
    Empty { name: &'static str, place: String },
    #[error("{name} is longer than 64 KiB {place}: that is something else")]
    TooLong { name: &'static str, place: String },
    #[error(
        "{name} has a line break or another control character {place}: it must be a single line"
    )]
    SeveralLines { name: &'static str, place: String },
}

/// No token or key comes near it.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

struct SourceVisitor;

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = SecretSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the secret as text, { file = \"PATH\" }, { env = \"NAME\" } or { credential = \"NAME\" }",
        )
    }

    fn visit_str<E>(self, text: &str) -> Result<SecretSource, E> {
        Ok(SecretSource::Text(Secret::new(text)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretSource, A::Error> {
        let refuse = || A::Error::invalid_value(Unexpected::Map, &self);
        let source = match map.next_key::<String>()?.as_deref() {
            Some("file") => SecretSource::File(map.next_value()?),
            Some("env") => SecretSource::Env(map.next_value()?),
            Some("credential") => SecretSource::Credential(map.next_value()?),
            _ => return Err(refuse()),
        };
        if map.next_key::<String>()?.is_some() { Err(refuse()) } else { Ok(source) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(source: &SecretSource, directory: &Path) -> Result<Secret, SecretError> {
        let environment = |name: &str| match name {
            "FULL" => Some("from-environment\n".to_owned()),
            "EMPTY" => Some(String::new()),
            "CREDENTIALS_DIRECTORY" => Some(directory.join("credentials").display().to_string()),
            _ => None,
        };
        Sources::new(&environment, directory).read("jwt", source)
    }

    fn message(source: &SecretSource, directory: &Path) -> String {
        read(source, directory).expect_err("must be refused").to_string()
    }

    #[test]
    fn each_source_gives_its_text_without_the_line_break_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("credentials")).unwrap();
        fs::write(directory.path().join("credentials/rc"), "from-systemd").unwrap();
        fs::write(directory.path().join("jwt"), "from-file\r\n").unwrap();
        for (source, text) in [
            (SecretSource::Text(Secret::new("as-text")), "as-text"),
            (SecretSource::File("jwt".into()), "from-file"),
            (SecretSource::Env("FULL".into()), "from-environment"),
            (SecretSource::Credential("rc".into()), "from-systemd"),
        ] {
            assert_eq!(read(&source, directory.path()).unwrap().expose(), text, "{source:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_secret_is_refused_by_place() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("jwt");
        fs::write(&file, "two\nlines").unwrap();
        let place = format!("in the file {}", file.display());
        for (source, expected) in [
            (SecretSource::Text(Secret::new("")), "jwt is empty as it is written".into()),
            (
                SecretSource::Env("EMPTY".into()),
                "jwt is empty in the environment variable EMPTY".into(),
            ),
            (
                SecretSource::Env("MISSING".into()),
                "jwt is to come from the environment variable MISSING, which is not set".into(),
            ),
            (
                SecretSource::File("jwt".into()),
                format!(
                    "jwt has a line break or another control character {place}: it must be a single line"
                ),
            ),
            (
                SecretSource::File("/dev/zero".into()),
                "jwt is longer than 64 KiB in the file /dev/zero: that is something else".into(),
            ),
            (
                SecretSource::Credential("../jwt".into()),
                "jwt names a systemd credential that is not a plain file name".into(),
            ),
        ] {
            assert_eq!(message(&source, directory.path()), expected, "{source:?}");
        }
    }

    #[test]
    fn a_file_that_everybody_can_read_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let mut sources = Sources::new(&|_| None, directory.path());
        for (name, mode) in [("open", 0o644), ("closed", 0o640)] {
            let path = directory.path().join(name);
            fs::write(&path, "secret").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            sources.read("jwt", &SecretSource::File(path)).unwrap();
        }
        assert_eq!(sources.into_world_readable(), [directory.path().join("open")]);
    }

    #[test]
    fn debug_prints_a_mask() {
        let source = SecretSource::Text(Secret::new("canary"));
        assert_eq!(format!("{source:?}"), "Text(***)");
    }
}
