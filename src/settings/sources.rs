//! Where the secrets of a configuration come from, without reading any: for whoever looks into why one
//! cannot be had.

use std::path::{Path, PathBuf};

use super::{ConfigSource, Settings, SettingsError};
use crate::secret::{Environment, SecretSource};

/// One secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Which, as in `identity sales: jwt`.
    pub key: String,
    /// Where it is to come from.
    pub place: SecretPlace,
}

/// Where a secret is to come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretPlace {
    /// It stands in the configuration.
    Text,
    /// An environment variable, and whether it is set to something.
    Variable {
        /// Its name.
        name: String,
        /// Whether it has a value.
        is_set: bool,
    },
    /// A file, in full.
    File(PathBuf),
    /// A credential of systemd's, where systemd has passed none.
    NoCredential {
        /// Its name.
        name: String,
    },
}

impl Settings {
    /// Every secret that the configuration names. Fails where the configuration cannot be read.
    pub fn sources(
        source: &ConfigSource,
        environment: Environment<'_>,
    ) -> Result<Vec<Source>, SettingsError> {
        let (config, _) = source.read(environment)?;
        let place = |written: &SecretSource| place(written, environment, source.directory());
        let all = config.sources().into_iter();
        Ok(all.map(|(key, written)| Source { key, place: place(written) }).collect())
    }
}

fn place(written: &SecretSource, environment: Environment<'_>, directory: &Path) -> SecretPlace {
    match written {
        SecretSource::Text(_) => SecretPlace::Text,
        SecretSource::File(path) => SecretPlace::File(directory.join(path)),
        SecretSource::Env(name) => {
            let is_set = environment(name).is_some_and(|value| !value.is_empty());
            SecretPlace::Variable { name: name.clone(), is_set }
        }
        SecretSource::Credential(name) => match environment("CREDENTIALS_DIRECTORY") {
            Some(credentials) => SecretPlace::File(Path::new(&credentials).join(name)),
            None => SecretPlace::NoCredential { name: name.clone() },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_secret_is_told_with_its_place_and_nothing_of_it() {
        let text = "[application.crm]\nclient_id = 'canary'\nclient_secret = { env = 'SECRET' }\n\
                    [identity.sales]\njwt = { file = 'jwt' }\n\
                    [identity.bot]\njwt = { credential = 'rc' }\nrefresh_token = { env = 'MISSING' }\n\
                    [store]\nredis = { file = '/run/redis' }\n\
                    encryption_keys = [{ file = 'a' }, { file = 'b' }]\n\
                    [facade]\nkeys = [{ file = 'c' }]";
        let environment = |name: &str| (name == "SECRET").then(|| "canary".to_owned());
        let source = ConfigSource::Text(text.to_owned());
        let sources = Settings::sources(&source, &environment).unwrap();
        assert!(!format!("{sources:?}").contains("canary"));
        let file = |path: &str| SecretPlace::File(path.into());
        let variable = |name: &str, is_set| SecretPlace::Variable { name: name.into(), is_set };
        let expected = [
            ("application crm: client_id", SecretPlace::Text),
            ("application crm: client_secret", variable("SECRET", true)),
            ("identity bot: jwt", SecretPlace::NoCredential { name: "rc".into() }),
            ("identity bot: refresh_token", variable("MISSING", false)),
            ("identity sales: jwt", file("jwt")),
            ("store.encryption_keys", file("a")),
            ("store.encryption_keys", file("b")),
            ("facade.keys", file("c")),
            ("store.redis", file("/run/redis")),
        ];
        let expected = expected.map(|(key, place)| Source { key: key.to_owned(), place });
        assert_eq!(sources, expected);
        let environment =
            |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| "/run/credentials".to_owned());
        let sources = Settings::sources(&source, &environment).unwrap();
        assert_eq!(sources[2].place, file("/run/credentials/rc"));
    }
}
