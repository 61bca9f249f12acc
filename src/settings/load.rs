//! Where a configuration comes from: a file, text, or the environment of RingCentral's samples.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Place, Settings, SettingsError, Warning, resolve};
use crate::config::{ApplicationConfig, Config, IdentityConfig};
use crate::mark::Mark;
use crate::secret::{Environment, SecretSource};

/// Where to read the configuration.
#[derive(Clone, Debug)]
pub enum ConfigSource {
    /// A TOML file. Relative paths in it start at its directory.
    File(PathBuf),
    /// TOML text, as tests have it. Relative paths in it start at the working directory.
    Text(String),
    /// No file: the variables that RingCentral's sample apps use make one application and, if a JWT is
    /// among them, one identity, both named `default`.
    Environment,
}

/// What the command line says instead of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Replaces `proxy.listen` unless empty.
    pub listen: Vec<Place>,
    /// Sets `proxy.allow_remote_clients`.
    pub allow_remote_clients: bool,
    /// Replaces `upstream.url`.
    pub upstream: Option<String>,
    /// Replaces `log.format`.
    pub log_format: Option<String>,
    /// Replaces `log.filter`.
    pub log_filter: Option<String>,
}

impl Settings {
    /// Reads the configuration, applies the overrides, fetches the secrets and checks the whole.
    pub fn load(
        source: &ConfigSource,
        overrides: Overrides,
        environment: Environment<'_>,
    ) -> Result<(Self, Vec<Warning>), SettingsError> {
        let directory = source.directory();
        let mark = match source {
            ConfigSource::File(path) => Some((path.clone(), Mark::of(path))),
            ConfigSource::Text(_) | ConfigSource::Environment => None,
        };
        let (mut config, warning) = source.read(environment)?;
        overrides.apply(&mut config);
        let (mut settings, mut warnings) = resolve::settings(config, environment, directory)?;
        warnings.extend(warning);
        settings.files.extend(mark);
        Ok((settings, warnings))
    }
}

impl ConfigSource {
    /// What is written there.
    pub(super) fn read(
        &self,
        environment: Environment<'_>,
    ) -> Result<(Config, Option<Warning>), SettingsError> {
        Ok(match self {
            Self::File(path) => read_file(path)?,
            Self::Text(text) => (parse(text, Path::new("configuration"))?, None),
            Self::Environment => (from_environment(environment)?, None),
        })
    }

    pub(super) fn directory(&self) -> &Path {
        match self {
            Self::File(path) => path.parent().unwrap_or(Path::new("")),
            Self::Text(_) | Self::Environment => Path::new(""),
        }
    }
}

impl Overrides {
    fn apply(self, config: &mut Config) {
        if !self.listen.is_empty() {
            config.proxy.listen = Some(self.listen);
        }
        if self.allow_remote_clients {
            config.proxy.allow_remote_clients = Some(true);
        }
        config.upstream.url = self.upstream.or(config.upstream.url.take());
        config.log.format = self.log_format.or(config.log.format.take());
        config.log.filter = self.log_filter.or(config.log.filter.take());
    }
}

fn read_file(path: &Path) -> Result<(Config, Option<Warning>), SettingsError> {
    let read = || -> io::Result<_> {
        Ok((fs::metadata(path)?.mode(), Zeroizing::new(fs::read_to_string(path)?)))
    };
    let (mode, text) = read().map_err(|source| SettingsError::Unreadable {
        what: "configuration file",
        path: path.to_owned(),
        source,
    })?;
    let config = parse(&text, path)?;
    let exposed = mode & 0o004 != 0 && config.holds_secrets();
    Ok((config, exposed.then(|| Warning::WorldReadable { path: path.to_owned() })))
}

fn parse(text: &str, path: &Path) -> Result<Config, SettingsError> {
    Config::parse(text).map_err(|source| SettingsError::Config { path: path.to_owned(), source })
}

/// What today's sample apps call it, and what older ones do.
type Names = [&'static str; 2];
const SERVER_URL: Names = ["RC_SERVER_URL", "RINGCENTRAL_SERVER_URL"];
const CLIENT_ID: Names = ["RC_APP_CLIENT_ID", "RINGCENTRAL_CLIENT_ID"];
const CLIENT_SECRET: Names = ["RC_APP_CLIENT_SECRET", "RINGCENTRAL_CLIENT_SECRET"];
const JWT: Names = ["RC_USER_JWT", "RINGCENTRAL_JWT_TOKEN"];

fn from_environment(environment: Environment<'_>) -> Result<Config, SettingsError> {
    let value = |name: &str| environment(name).filter(|value| !value.is_empty());
    let set = |names: Names| names.into_iter().find(|name| value(name).is_some());
    let [client_id, client_secret, jwt] = [CLIENT_ID, CLIENT_SECRET, JWT].map(set);
    // Without a JWT it is enough to log in with, and a public client has no secret then.
    if client_id.is_none() || (jwt.is_some() && client_secret.is_none()) {
        let required = [CLIENT_ID, CLIENT_SECRET, JWT].into_iter();
        let missing = required.filter(|names| set(*names).is_none()).map(|names| names[0]);
        return Err(SettingsError::NoConfiguration { missing: missing.collect() });
    }
    let secret = |name: Option<&str>| name.map(|name| SecretSource::Env(name.to_owned()));
    let application = ApplicationConfig {
        client_id: secret(client_id),
        client_secret: secret(client_secret),
        ..ApplicationConfig::default()
    };
    let identity = |jwt| IdentityConfig { jwt: secret(Some(jwt)), ..IdentityConfig::default() };
    let mut config = Config {
        application: BTreeMap::from([("default".to_owned(), application)]),
        identity: jwt.map(|jwt| ("default".to_owned(), identity(jwt))).into_iter().collect(),
        ..Config::default()
    };
    config.upstream.url = set(SERVER_URL).and_then(value);
    Ok(config)
}
