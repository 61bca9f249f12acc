//! The environment of the command: ours, but for the secrets. PURE over the variables that there are.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use crate::secret::{Environment, Secret};
use crate::settings::{Credential, Settings, StoreSettings};

/// What the command finds instead.
#[derive(Debug)]
pub(super) struct StandIns {
    pub(super) url: String,
    pub(super) client_id: Option<String>,
    /// The command's key, where clients show one; otherwise anything does.
    pub(super) client_secret: Option<Secret>,
}

/// The variables that the configuration asked for, and what they held.
#[derive(Default)]
pub(super) struct Asked(RefCell<BTreeMap<String, Option<Secret>>>);

impl Asked {
    /// Looks one up, and remembers it.
    pub(super) fn ask(&self, name: &str, environment: Environment<'_>) -> Option<String> {
        let value = environment(name);
        self.0.borrow_mut().insert(name.to_owned(), value.clone().map(Secret::new));
        value
    }
}

/// Which variables lead to the server, by the samples' names and by others that are about. The first
/// two are always set.
const SERVERS: [&str; 5] = [
    "RC_SERVER_URL",
    "RINGCENTRAL_SERVER_URL",
    "RC_APP_SERVER_URL",
    "RINGCENTRAL_SERVER",
    "RC_SERVER",
];
const CLIENT_IDS: [&str; 3] = ["RC_APP_CLIENT_ID", "RINGCENTRAL_CLIENT_ID", "RC_CLIENT_ID"];
const CLIENT_SECRETS: [&str; 3] =
    ["RC_APP_CLIENT_SECRET", "RINGCENTRAL_CLIENT_SECRET", "RC_CLIENT_SECRET"];
const JWTS: [&str; 6] = [
    "RC_USER_JWT",
    "RINGCENTRAL_JWT_TOKEN",
    "RINGCENTRAL_JWT",
    "RC_JWT",
    "RC_JWT_TOKEN",
    "RC_JWT_KEY",
];
/// Set only where they were.
const OTHERS: [&str; 4] =
    ["RINGCENTRAL_PASSWORD", "RC_PASSWORD", "RINGCENTRAL_REFRESH_TOKEN", "RC_REFRESH_TOKEN"];

/// What the settings ask for that is no secret and stays as it is.
const STAY: [&str; 2] = ["HOME", "XDG_STATE_HOME"];

/// Where systemd puts secrets. Whoever knows the directory can read them.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Accepted by the facade, and worth nothing.
const ANYTHING: &str = "held-by-ringbearer";

/// A shorter secret is compared as a whole: everything contains an "a".
const LEAST_CONTAINED: usize = 8;

/// The command's variables.
pub(super) fn of_child(
    ours: impl Iterator<Item = (OsString, OsString)>,
    stand_ins: &StandIns,
    settings: &Settings,
    asked: &Asked,
) -> Vec<(OsString, OsString)> {
    let mut variables: BTreeMap<OsString, OsString> = ours.collect();
    variables.remove(&OsString::from(CREDENTIALS));
    let asked = asked.0.borrow();
    hide_values(&mut variables, &secrets(settings, &asked), stand_ins);
    let names: BTreeSet<&str> = asked.keys().map(String::as_str).collect();
    for name in names.into_iter().filter(|name| !STAY.contains(name)).chain(OTHERS) {
        if let Some(value) = variables.get_mut(&OsString::from(name)) {
            *value = ANYTHING.into();
        }
    }
    let id = stand_ins.client_id.as_deref().unwrap_or(ANYTHING);
    for (names, value) in [
        (&SERVERS[..], &*stand_ins.url),
        (&CLIENT_IDS, id),
        (&CLIENT_SECRETS, stand_ins.client_secret()),
        (&JWTS, ANYTHING),
    ] {
        for (index, name) in names.iter().map(OsString::from).enumerate() {
            if index < 2 || variables.contains_key(&name) {
                variables.insert(name, value.into());
            }
        }
    }
    reach_directly(&mut variables);
    variables.into_iter().collect()
}

impl StandIns {
    fn client_secret(&self) -> &str {
        self.client_secret.as_ref().map_or(ANYTHING, Secret::expose)
    }
}

/// A secret, and whether it is a client secret, which the command may need one of.
type Hidden<'a> = (&'a str, bool);

/// Everything that opens a session or a store.
fn secrets<'a>(
    settings: &'a Settings,
    asked: &'a BTreeMap<String, Option<Secret>>,
) -> Vec<Hidden<'a>> {
    let mut secrets: Vec<Hidden<'_>> = Vec::new();
    let applications = settings.applications.iter().filter_map(|it| it.client_secret.as_ref());
    secrets.extend(applications.map(|secret| (secret.expose(), true)));
    let identities = settings.identities.iter();
    for credential in identities.flat_map(|it| [&it.credential].into_iter().chain(&it.fallback)) {
        match credential {
            Credential::Jwt(secret) | Credential::RefreshToken(secret) => {
                secrets.push((secret.expose(), false));
            }
            Credential::AuthorizationCode { code, code_verifier, .. } => {
                let all = std::iter::once(code).chain(code_verifier);
                secrets.extend(all.map(|secret| (secret.expose(), false)));
            }
            Credential::Password { password, .. } => secrets.push((password.expose(), false)),
            Credential::ClientCredentials | Credential::Login => {}
        }
    }
    if let StoreSettings::Redis { server, .. } = &settings.store {
        let password = server.login.password.as_ref();
        secrets.extend(password.map(|secret| (secret.expose(), false)));
    }
    let open = [&STAY[..], &SERVERS, &CLIENT_IDS].concat();
    let others = asked.iter().filter(|(name, _)| !open.contains(&name.as_str()));
    secrets.extend(others.filter_map(|(_, value)| Some((value.as_ref()?.expose(), false))));
    secrets.retain(|(secret, _)| !secret.is_empty());
    secrets
}

/// Copies under other names, such as a database URL with the same password.
fn hide_values(
    variables: &mut BTreeMap<OsString, OsString>,
    secrets: &[Hidden<'_>],
    stand_ins: &StandIns,
) {
    for value in variables.values_mut() {
        let bytes = value.as_bytes();
        let shows = |secret: &str| {
            let secret = secret.trim_end().as_bytes();
            bytes.trim_ascii() == secret
                || secret.len() >= LEAST_CONTAINED && memchr::memmem::find(bytes, secret).is_some()
        };
        let hit = secrets.iter().find(|(secret, _)| shows(secret)).map(|(_, is_client)| *is_client);
        match hit {
            Some(true) => *value = stand_ins.client_secret().into(),
            Some(false) => *value = ANYTHING.into(),
            None => {}
        }
    }
}

/// An HTTP proxy on the way to the network is none on the way to this machine.
fn reach_directly(variables: &mut BTreeMap<OsString, OsString>) {
    let goes_elsewhere = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        .iter()
        .any(|name| variables.contains_key(&OsString::from(name)));
    if !goes_elsewhere {
        return;
    }
    for name in ["no_proxy", "NO_PROXY"] {
        let value = variables.entry(name.into()).or_default();
        if !value.is_empty() {
            value.push(",");
        }
        value.push("127.0.0.1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ConfigSource, Overrides};

    const URL: &str = "http://127.0.0.1:1";

    fn child(
        toml: &str,
        ours: &[(&str, &str)],
        client_secret: Option<&str>,
    ) -> BTreeMap<String, String> {
        let asked = Asked::default();
        let lookup = |name: &str| {
            let found = ours.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let recording = |name: &str| asked.ask(name, &lookup);
        let source = match toml {
            "" => ConfigSource::Environment,
            toml => ConfigSource::Text(toml.to_owned()),
        };
        let (settings, _) = Settings::load(&source, Overrides::default(), &recording).unwrap();
        let stand_ins = StandIns {
            url: URL.into(),
            client_id: None,
            client_secret: client_secret.map(Secret::new),
        };
        let ours = ours.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let text = |text: OsString| text.into_string().unwrap();
        let variables = of_child(ours, &stand_ins, &settings, &asked).into_iter();
        variables.map(|(name, value)| (text(name), text(value))).collect()
    }

    const SAMPLE: [(&str, &str); 5] = [
        ("HOME", "/home/me"),
        ("RC_APP_CLIENT_ID", "real-id"),
        ("RC_APP_CLIENT_SECRET", "real-secret"),
        ("RC_USER_JWT", "real-jwt-text"),
        ("RC_SERVER_URL", "https://platform.ringcentral.com"),
    ];

    #[test]
    fn the_samples_variables_lead_to_the_proxy_and_hold_nothing() {
        let child = child("", &SAMPLE, None);
        let expected = [
            ("HOME", "/home/me"),
            ("RC_APP_CLIENT_ID", ANYTHING),
            ("RC_APP_CLIENT_SECRET", ANYTHING),
            ("RC_SERVER_URL", URL),
            ("RC_USER_JWT", ANYTHING),
            ("RINGCENTRAL_CLIENT_ID", ANYTHING),
            ("RINGCENTRAL_CLIENT_SECRET", ANYTHING),
            ("RINGCENTRAL_JWT_TOKEN", ANYTHING),
            ("RINGCENTRAL_SERVER_URL", URL),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(child, BTreeMap::from(expected));
    }

    #[test]
    fn a_secret_is_hidden_under_every_name_and_inside_other_text() {
        let toml = "[application.crm]\nclient_id = 'id'\nclient_secret = { env = 'MINE' }\n\
             [identity.sales]\nusername = 'me'\npassword = { env = 'SHORT' }\n\
             [store]\nencryption_keys = [{ env = 'SEALING' }]\n\
             [facade]\nkeys = [{ env = 'SEALING' }]\n";
        let key = "A".repeat(43);
        let ours = [
            ("HOME", "/home/me"),
            ("MINE", "real-secret"),
            ("COPY", "real-secret\n"),
            ("URL", "https://id:real-secret@elsewhere.test/"),
            ("SHORT", "a"),
            ("ALSO_SHORT", "a"),
            ("PATH", "/usr/bin:/a"),
            ("SEALING", &key),
            ("SEALING_TOO", &key),
            ("RC_JWT", "of another configuration"),
            ("RINGCENTRAL_PASSWORD", "of another configuration"),
            ("CREDENTIALS_DIRECTORY", "/run/credentials"),
            ("RC_SERVER", "https://platform.ringcentral.com"),
        ];
        let child = child(toml, &ours, Some("the-key"));
        for (name, value) in [
            ("MINE", ANYTHING),
            ("COPY", "the-key"),
            ("URL", "the-key"),
            ("SHORT", ANYTHING),
            ("ALSO_SHORT", ANYTHING),
            ("PATH", "/usr/bin:/a"),
            ("SEALING", ANYTHING),
            ("SEALING_TOO", ANYTHING),
            ("RC_JWT", ANYTHING),
            ("RINGCENTRAL_PASSWORD", ANYTHING),
            ("RC_APP_CLIENT_SECRET", "the-key"),
            ("RC_SERVER", URL),
        ] {
            assert_eq!(child.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(child.get("CREDENTIALS_DIRECTORY"), None);
        assert_eq!(child.get("RC_CLIENT_SECRET"), None, "it was not there");
    }

    #[test]
    fn an_http_proxy_is_passed_by() {
        let with = |more: &[_]| child("", &[&SAMPLE[..], more].concat(), None);
        let bare = with(&[("HTTP_PROXY", "http://proxy.test")]);
        assert_eq!((&*bare["no_proxy"], &*bare["NO_PROXY"]), ("127.0.0.1", "127.0.0.1"));
        let listed = with(&[("all_proxy", "http://proxy.test"), ("no_proxy", "a.test")]);
        assert_eq!(listed["no_proxy"], "a.test,127.0.0.1");
        assert_eq!(with(&[]).get("no_proxy"), None);
    }
}
