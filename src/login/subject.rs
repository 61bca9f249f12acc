//! Whose login it is: an identity of the configuration that has `login = true`, or one that is added by
//! it. PURE.
//!
//! It refuses to shadow an identity that the configuration opens otherwise: the proxy would go on with
//! what is configured, and the login would have been for nothing.

use std::sync::Arc;

use crate::secret::Secret;
use crate::settings::{ApplicationSettings, Credential, IdentitySettings, Settings};
use crate::store::Enrolment;

/// An identity that somebody logs in.
#[derive(Clone, Debug)]
pub struct Subject {
    /// As the proxy will know it.
    pub identity: Arc<IdentitySettings>,
    /// What is to be kept of it beside the session; nothing if it is configured.
    pub enrolment: Option<Enrolment>,
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish<'a> {
    /// The application that a new identity logs in with.
    pub application: Option<&'a str>,
    /// Its JWT, instead of a person's login.
    pub jwt: Option<Secret>,
}

/// The name to log in when none was given: that of the only identity with `login = true`, or, where
/// nothing is configured, `default`.
pub fn usual_name(settings: &Settings) -> Result<&str, SubjectError> {
    let logs_in = |it: &&Arc<IdentitySettings>| matches!(it.credential, Credential::Login);
    let names: Vec<_> = settings.identities.iter().filter(logs_in).map(|it| &*it.name).collect();
    match names[..] {
        [only] => Ok(only),
        [] if settings.identities.is_empty() => Ok(DEFAULT),
        [] => Err(SubjectError::NameMissing),
        _ => {
            let known = names.into_iter().map(str::to_owned).collect();
            Err(SubjectError::WhichIdentity { known })
        }
    }
}

impl Subject {
    /// The identity `name`; `known` is what was kept when it was added.
    pub fn choose(
        settings: &Settings,
        name: &str,
        wish: Wish<'_>,
        known: Option<&Enrolment>,
    ) -> Result<Self, SubjectError> {
        if !IdentitySettings::is_name(name) {
            return Err(SubjectError::Name);
        }
        if let Some(configured) = settings.identities.iter().find(|it| it.name == name) {
            return Self::configured(configured, &wish);
        }
        let application = application(&settings.applications, wish.application, known)?;
        let enrolment =
            Enrolment { client_id: application.client_id.clone(), jwt: wish.jwt.clone() };
        let identity = IdentitySettings::enrolled(name, Arc::clone(application), wish.jwt);
        Ok(Self { identity: Arc::new(identity), enrolment: Some(enrolment) })
    }

    fn configured(identity: &Arc<IdentitySettings>, wish: &Wish<'_>) -> Result<Self, SubjectError> {
        let name = || identity.name.clone();
        if !matches!(identity.credential, Credential::Login) {
            let key = key_of(&identity.credential);
            return Err(SubjectError::Shadow { identity: name(), key });
        }
        if wish.jwt.is_some() {
            return Err(SubjectError::ConfiguredJwt { identity: name() });
        }
        let application = &identity.application.name;
        if wish.application.is_some_and(|wished| wished != application) {
            let application = application.clone();
            return Err(SubjectError::OtherApplication { identity: name(), application });
        }
        Ok(Self { identity: Arc::clone(identity), enrolment: None })
    }
}

/// The application that was named, or that the identity was added with, or the only one.
fn application<'s>(
    applications: &'s [Arc<ApplicationSettings>],
    named: Option<&str>,
    known: Option<&Enrolment>,
) -> Result<&'s Arc<ApplicationSettings>, SubjectError> {
    let all = || applications.iter().map(|it| it.name.clone()).collect();
    if let Some(name) = named {
        let found = applications.iter().find(|it| it.name == name);
        let unknown = || SubjectError::UnknownApplication { name: name.to_owned(), known: all() };
        return found.ok_or_else(unknown);
    }
    let before = known.and_then(|known| {
        applications.iter().find(|application| application.client_id == known.client_id)
    });
    match (before, applications) {
        (Some(before), _) => Ok(before),
        (None, [only]) => Ok(only),
        (None, []) => Err(SubjectError::NoApplication),
        (None, _) => Err(SubjectError::WhichApplication { known: all() }),
    }
}

fn key_of(credential: &Credential) -> &'static str {
    match credential {
        Credential::Jwt(_) => "jwt",
        Credential::RefreshToken(_) => "refresh_token",
        Credential::AuthorizationCode { .. } => "authorization_code",
        Credential::Password { .. } => "username and password",
        Credential::ClientCredentials => "client_credentials",
        Credential::Login => "login",
    }
}

const DEFAULT: &str = "default";

/// Why it is not clear who is to be logged in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum SubjectError {
    #[error("a name is at most 64 letters, digits, - and _, and begins with a letter or a digit")]
    Name,
    #[error(
        "no configured identity has login = true: name a new one, as in `ringbearer login NAME`"
    )]
    NameMissing,
    #[error("several identities have login = true: name one of {}", known.join(", "))]
    WhichIdentity { known: Vec<String> },
    #[error(
        "identity {identity:?} is configured with {key}, and a login would not be used: write \
         login = true instead of {key}, or log in under another name"
    )]
    Shadow { identity: String, key: &'static str },
    #[error(
        "identity {identity:?} is configured with login = true: write jwt = {{ file = … }} instead of \
         it, or add the JWT under another name"
    )]
    ConfiguredJwt { identity: String },
    #[error(
        "identity {identity:?} is configured with application {application:?}: leave --application out"
    )]
    OtherApplication { identity: String, application: String },
    #[error(
        "no application is configured: add [application.NAME] with client_id and client_secret"
    )]
    NoApplication,
    #[error("there are the applications {}: choose with --application NAME", known.join(", "))]
    WhichApplication { known: Vec<String> },
    #[error("application {name:?} is not configured: the names are {}", known.join(", "))]
    UnknownApplication { name: String, known: Vec<String> },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ConfigSource, Overrides};

    fn settings(toml: &str) -> Settings {
        let home = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        let source = ConfigSource::Text(toml.to_owned());
        Settings::load(&source, Overrides::default(), &home).unwrap().0
    }

    const APPLICATION: &str = "[application.crm]\nclient_id = 'a'\n";

    fn chosen(toml: &str, name: &str, wish: Wish<'_>, known: Option<&Enrolment>) -> String {
        match Subject::choose(&settings(toml), name, wish, known) {
            Ok(Subject { identity, enrolment }) => {
                let added = enrolment.map(|it| (it.client_id, it.jwt.is_some()));
                format!("{} by {} {added:?}", identity.name, identity.application.name)
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn without_a_name_it_is_the_only_one_that_logs_in() {
        let name = |toml: &str| match usual_name(&settings(&format!("{APPLICATION}{toml}"))) {
            Ok(name) => name.to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(name(""), "default");
        assert_eq!(name("[identity.a]\njwt = 'j'\n[identity.b]\nlogin = true"), "b");
        assert_eq!(
            name("[identity.a]\nlogin = true\n[identity.b]\nlogin = true"),
            "several identities have login = true: name one of a, b"
        );
        assert_eq!(
            name("[identity.a]\njwt = 'j'"),
            "no configured identity has login = true: name a new one, as in `ringbearer login NAME`"
        );
    }

    #[test]
    fn a_new_name_is_added_with_the_application_that_was_named_or_is_the_only_one() {
        let two = format!("{APPLICATION}[application.bot]\nclient_id = 'b'\n");
        let jwt = || Some(Secret::new("j"));
        let by = |application| Wish { application, jwt: None };
        assert_eq!(chosen(APPLICATION, "new", by(None), None), "new by crm Some((\"a\", false))");
        assert_eq!(
            chosen(&two, "new", Wish { application: Some("bot"), jwt: jwt() }, None),
            "new by bot Some((\"b\", true))"
        );
        let known = Enrolment { client_id: "b".into(), jwt: jwt() };
        assert_eq!(chosen(&two, "old", by(None), Some(&known)), "old by bot Some((\"b\", false))");
        assert_eq!(
            chosen(&two, "new", by(None), None),
            "there are the applications bot, crm: choose with --application NAME"
        );
        assert_eq!(
            chosen(&two, "new", by(Some("x")), None),
            "application \"x\" is not configured: the names are bot, crm"
        );
        assert_eq!(
            chosen(APPLICATION, "../x", by(None), None),
            "a name is at most 64 letters, digits, - and _, and begins with a letter or a digit"
        );
    }

    #[test]
    fn what_the_configuration_opens_itself_is_not_shadowed() {
        let with = |line: &str| format!("{APPLICATION}[identity.sales]\n{line}");
        let login = with("login = true");
        let by = |application, jwt: Option<&str>| Wish { application, jwt: jwt.map(Secret::new) };
        assert_eq!(chosen(&login, "sales", by(Some("crm"), None), None), "sales by crm None");
        assert_eq!(
            chosen(&login, "sales", by(Some("bot"), None), None),
            "identity \"sales\" is configured with application \"crm\": leave --application out"
        );
        assert_eq!(
            chosen(&login, "sales", by(None, Some("j")), None),
            "identity \"sales\" is configured with login = true: write jwt = { file = … } instead of \
             it, or add the JWT under another name"
        );
        assert_eq!(
            chosen(&with("jwt = 'j'"), "sales", by(None, None), None),
            "identity \"sales\" is configured with jwt, and a login would not be used: write \
             login = true instead of jwt, or log in under another name"
        );
    }
}
