//! Settings from TOML text and from an environment that each test makes up.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::telemetry::chain;

mod example;
mod refused;

/// The least that is a configuration.
const LEAST: &str = r#"
[application.crm]
client_id = "the-id"
client_secret = "canary-client-secret"
[identity.sales]
jwt = "canary-jwt"
"#;

fn environment(name: &str) -> Option<String> {
    match name {
        "HOME" => Some("/home/me".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn load(toml: &str) -> Result<(Settings, Vec<Warning>), SettingsError> {
    let source = ConfigSource::Text(toml.to_owned());
    Settings::load(&source, Overrides::default(), &environment)
}

fn loaded(toml: &str) -> Settings {
    load(toml).unwrap_or_else(|error| panic!("{}\n{toml}", chain(&error))).0
}

#[test]
fn the_least_configuration_gets_every_default() {
    let (settings, warnings) = load(LEAST).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(settings.proxy.listen, [SocketAddr::from(([127, 0, 0, 1], 8080))]);
    assert_eq!(settings.proxy.token_wait, Duration::from_secs(15));
    assert_eq!(settings.proxy.max_replay_bytes, 1 << 20);
    assert_eq!(settings.proxy.replay_memory, 64 << 20);
    assert_eq!(settings.upstream.origin.to_string(), "https://platform.ringcentral.com");
    assert_eq!(settings.upstream.connect_timeout, Duration::from_secs(5));
    let StoreSettings::File { directory, .. } = &settings.store else { panic!("files") };
    assert_eq!(directory, Path::new("/home/me/.local/state/ringbearer"));
    let [identity] = &settings.identities[..] else { panic!("{:?}", settings.identities) };
    assert_eq!((&*identity.name, &*identity.application.name), ("sales", "crm"));
    let application = &identity.application;
    assert_eq!(application.token_requests_per_minute.get(), 5);
    assert_eq!(
        (application.token_url.to_string(), application.revoke_url.to_string()),
        (
            "https://platform.ringcentral.com/restapi/oauth/token".to_owned(),
            "https://platform.ringcentral.com/restapi/oauth/revoke".to_owned()
        )
    );
}

#[test]
fn debug_output_of_settings_holds_no_secret() {
    assert!(!format!("{:?}", loaded(LEAST)).contains("canary"));
}

#[test]
fn any_host_is_warned_of_where_anybody_may_call() {
    let any = format!("{LEAST}[proxy]\nhosts = '*'\n");
    let (settings, warnings) = load(&any).unwrap();
    assert_eq!((settings.proxy.hosts, warnings), (HostNames::Any, vec![Warning::AnyHost]));
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let client = format!("[client.a]\nkey_sha256 = '{digest}'\nidentities = 'sales'\n");
    assert_eq!(load(&(any + &client)).unwrap().1, [], "a page has no key");
    let some = loaded(&format!("{LEAST}[proxy]\nhosts = ['A.test', 'b.test:81']\n"));
    let names = ["a.test", "b.test:81"].map(str::to_owned).to_vec();
    assert_eq!(some.proxy.hosts, HostNames::AndThese(names));
    assert_eq!(loaded(LEAST).proxy.hosts, HostNames::Usual);
}

#[test]
fn each_kind_of_credential_is_understood() {
    let credential = |lines: &str| {
        let settings = loaded(&LEAST.replace("jwt = \"canary-jwt\"", lines));
        settings.identities[0].credential.clone()
    };
    assert!(matches!(credential("refresh_token = 'r'"), Credential::RefreshToken(_)));
    assert!(matches!(credential("client_credentials = true"), Credential::ClientCredentials));
    assert!(matches!(credential("login = true"), Credential::Login));
    assert!(matches!(
        credential("client_credentials = false\njwt = 'j'"),
        Credential::Jwt(jwt) if jwt.expose() == "j"
    ));
    assert!(matches!(
        credential("username = '+16505550100'\nextension = '101'\npassword = 'p'"),
        Credential::Password { username, extension: Some(extension), password }
            if (&*username, &*extension, password.expose()) == ("+16505550100", "101", "p")
    ));
    assert!(matches!(
        credential("authorization_code = 'c'\nredirect_uri = 'http://127.0.0.1/'\ncode_verifier = 'v'"),
        Credential::AuthorizationCode { code, redirect_uri, code_verifier: Some(verifier) }
            if (code.expose(), &*redirect_uri, verifier.expose()) == ("c", "http://127.0.0.1/", "v")
    ));
}

#[test]
fn a_jwt_beside_a_credential_that_is_good_once_is_for_the_day_it_is_lost() {
    let identity = |lines: &str| {
        loaded(&LEAST.replace("jwt = \"canary-jwt\"", &format!("jwt = 'j'\n{lines}"))).identities[0]
            .clone()
    };
    for lines in
        ["refresh_token = 'r'", "authorization_code = 'c'\nredirect_uri = 'http://127.0.0.1/'"]
    {
        let identity = identity(lines);
        assert!(!matches!(identity.credential, Credential::Jwt(_)), "{lines}");
        assert!(matches!(&identity.fallback, Some(Credential::Jwt(jwt)) if jwt.expose() == "j"));
    }
    assert!(identity("").fallback.is_none(), "a JWT alone needs no other");
    // The first refresh, and then the JWT.
    let identity = identity("refresh_token = 'r'\nrefresh_token_ttl = '0s'");
    assert_eq!(identity.refresh_token_ttl, Some(Duration::ZERO));
}

#[test]
fn identities_share_the_application_they_name() {
    let settings = loaded(
        "[application.crm]\nclient_id = 'a'\n[application.bot]\nclient_id = 'b'\n\
         [identity.one]\napplication = 'bot'\njwt = '1'\n[identity.two]\napplication = 'bot'\njwt = '2'\n\
         [identity.three]\napplication = 'crm'\njwt = '3'",
    );
    let names: Vec<_> = settings.identities.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["one", "three", "two"]);
    assert!(Arc::ptr_eq(&settings.identities[0].application, &settings.identities[2].application));
}

#[test]
fn flags_win_over_the_file() {
    let source = ConfigSource::Text(format!("{LEAST}[log]\nfilter = 'warn'\nformat = 'text'"));
    let overrides = Overrides {
        listen: vec!["127.0.0.1:9000".parse().unwrap(), "0.0.0.0:9001".parse().unwrap()],
        allow_remote_clients: true,
        upstream: Some("http://127.0.0.1:9002".to_owned()),
        log_format: Some("json".to_owned()),
        log_filter: None,
    };
    let (settings, warnings) =
        Settings::load(&source, overrides, &environment).expect("the overrides are fine");
    assert_eq!(settings.proxy.listen.len(), 2);
    assert_eq!(settings.upstream.origin.to_string(), "http://127.0.0.1:9002");
    assert_eq!((settings.log.format, &*settings.log.filter), (LogFormat::Json, "warn"));
    assert_eq!(warnings, [Warning::RemoteClients { address: "0.0.0.0:9001".parse().unwrap() }]);
}

#[test]
fn without_a_file_the_variables_of_the_sample_apps_are_enough() {
    for names in [
        ["RC_SERVER_URL", "RC_APP_CLIENT_ID", "RC_APP_CLIENT_SECRET", "RC_USER_JWT"],
        [
            "RINGCENTRAL_SERVER_URL",
            "RINGCENTRAL_CLIENT_ID",
            "RINGCENTRAL_CLIENT_SECRET",
            "RINGCENTRAL_JWT_TOKEN",
        ],
    ] {
        let values = ["https://platform.devtest.ringcentral.com", "id", "secret", "jwt"];
        let lookup = |name: &str| match names.iter().position(|known| *known == name) {
            Some(index) => Some(values[index].to_owned()),
            None => environment(name),
        };
        let (settings, warnings) =
            Settings::load(&ConfigSource::Environment, Overrides::default(), &lookup).unwrap();
        assert_eq!(warnings, []);
        assert_eq!(settings.upstream.origin.host(), "platform.devtest.ringcentral.com");
        let identity = &settings.identities[0];
        assert_eq!((&*identity.name, &*identity.application.name), ("default", "default"));
        assert_eq!(identity.application.client_id, "id");
        assert!(matches!(&identity.credential, Credential::Jwt(jwt) if jwt.expose() == "jwt"));
    }
}

#[test]
fn an_application_alone_is_enough_to_log_in_with_and_is_warned_about() {
    let (settings, warnings) = load("[application.crm]\nclient_id = 'a'").unwrap();
    assert!(settings.identities.is_empty());
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "no identity is configured: requests are refused until `ringbearer login NAME` has added one"
        ]
    );
    let [application] = &settings.applications[..] else { panic!("{:?}", settings.applications) };
    assert_eq!(application.redirect_uri, "http://127.0.0.1:8765/callback");
    let host = "https://platform.ringcentral.com/restapi/oauth";
    assert_eq!(application.authorize_url.to_string(), format!("{host}/authorize"));
    let device = application.device_authorization_url.to_string();
    assert_eq!(device, format!("{host}/device_authorization"));
}

#[test]
fn a_redirect_uri_stays_as_it_is_written() {
    for written in
        ["http://LOCALHOST:80/cb?x=1", "https://app.example.com:443/callback", "http://[::1]:9"]
    {
        let toml = format!("[application.crm]\nclient_id = 'a'\nredirect_uri = '{written}'");
        assert_eq!(loaded(&toml).applications[0].redirect_uri, written);
    }
}

#[test]
fn the_environment_without_a_jwt_makes_an_application() {
    for (set, has_secret) in
        [(&["RC_APP_CLIENT_ID"][..], false), (&["RC_APP_CLIENT_ID", "RC_APP_CLIENT_SECRET"], true)]
    {
        let lookup = |name: &str| {
            if set.contains(&name) { Some("x".to_owned()) } else { environment(name) }
        };
        let source = ConfigSource::Environment;
        let (settings, warnings) = Settings::load(&source, Overrides::default(), &lookup).unwrap();
        assert_eq!((settings.identities.len(), &warnings[..]), (0, &[Warning::NoIdentity][..]));
        assert_eq!(settings.applications[0].client_secret.is_some(), has_secret);
    }
}

#[test]
fn the_state_directory_follows_xdg() {
    for (variable, value, expected) in [
        ("XDG_STATE_HOME", "/var/state", "/var/state/ringbearer"),
        ("XDG_STATE_HOME", "relative", "/home/me/.local/state/ringbearer"),
    ] {
        let lookup = |name: &str| {
            if name == variable { Some(value.to_owned()) } else { environment(name) }
        };
        let source = ConfigSource::Text(LEAST.to_owned());
        let (settings, _) = Settings::load(&source, Overrides::default(), &lookup).unwrap();
        let StoreSettings::File { directory, .. } = settings.store else { panic!("files") };
        assert_eq!(directory, Path::new(expected));
    }
}

#[test]
fn relative_paths_start_beside_the_file_and_open_secrets_are_warned_about() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    let jwt = write("jwt", "from-a-file\n", 0o644);
    let toml = LEAST.replace("\"canary-jwt\"", "{ file = 'jwt' }") + "[store]\ndirectory = 'state'";
    let file = write("proxy.toml", &toml, 0o644);
    let source = ConfigSource::File(file.clone());
    let (settings, warnings) = Settings::load(&source, Overrides::default(), &environment).unwrap();
    let Credential::Jwt(secret) = &settings.identities[0].credential else { panic!() };
    assert_eq!(secret.expose(), "from-a-file");
    let StoreSettings::File { directory: state, .. } = settings.store else { panic!("files") };
    assert_eq!(state, directory.path().join("state"));
    // The configuration is one of them because the client secret stands in it as text.
    let expected = [jwt, file].map(|path| Warning::WorldReadable { path });
    assert_eq!(warnings, expected);
}

#[test]
fn plain_http_is_for_this_machine_unless_it_is_allowed_and_then_warned_about() {
    let (settings, warnings) =
        load(&format!("{LEAST}[upstream]\nurl = 'http://10.0.0.1'\nallow_plain_http = true"))
            .unwrap();
    assert!(!settings.upstream.origin.tls);
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["upstream.url http://10.0.0.1 is plain http: tokens cross the network in clear text"]
    );
    assert!(load(&format!("{LEAST}[upstream]\nurl = 'http://localhost:9000'")).is_ok());
}

#[test]
fn certificates_and_keys_are_looked_at_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate_file = directory.path().join("certificate.pem");
    let key_file = directory.path().join("key.pem");
    fs::write(&certificate_file, key.cert.pem()).unwrap();
    fs::write(&key_file, key.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key_file, Permissions::from_mode(0o600)).unwrap();
    let with = |certificate: &Path, key: &Path| {
        load(&format!(
            "{LEAST}[proxy.tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n\
             [upstream]\nca_file = {certificate:?}"
        ))
    };
    let (settings, warnings) = with(&certificate_file, &key_file).unwrap();
    assert_eq!((settings.proxy.tls.unwrap().key_file, warnings), (key_file.clone(), vec![]));
    assert_eq!(
        chain(&with(&certificate_file, &certificate_file).unwrap_err()),
        format!("proxy.tls.key_file {certificate_file:?} holds no private key in PEM form")
    );
    assert_eq!(
        chain(&with(&key_file, &key_file).unwrap_err()),
        format!("proxy.tls.certificate_file {key_file:?} holds no certificate in PEM form")
    );
}

#[test]
fn the_stores_keys_are_read_and_have_to_be_keys() {
    let with = |key: &str| load(&format!("{LEAST}\n[store]\nencryption_keys = [{key:?}]"));
    let StoreSettings::File { seal, .. } = with(&"A".repeat(43)).unwrap().0.store else {
        panic!("files")
    };
    assert_eq!(format!("{seal:?}"), "[\"66687aad\"]", "the id, and no more");
    let error = chain(&with("secret").unwrap_err());
    assert_eq!(
        error,
        "store.encryption_keys: a key is 32 random bytes in base64, as `openssl rand -base64 32` \
         prints them"
    );
}

#[test]
fn the_facade_answers_unless_told_otherwise_with_the_keys_it_is_given() {
    let facade = loaded(LEAST).facade;
    assert!(facade.answers && facade.keys.is_empty());
    let lifetimes = [facade.access_token_ttl, facade.refresh_token_ttl].map(|ttl| ttl.as_secs());
    assert_eq!(lifetimes, [86_400, 604_800]);
    let key = "A".repeat(43);
    let lines = format!("{LEAST}[facade]\nmode = 'refuse'\nkeys = ['{key}', '{key}=']");
    let facade = loaded(&lines).facade;
    assert_eq!((facade.answers, facade.keys.len()), (false, 2));
    assert!(!format!("{facade:?}").contains(&key));
}

#[test]
fn nobody_listens_for_operators_unless_asked_to_and_strangers_are_warned_about() {
    assert!(loaded(LEAST).admin.is_none());
    assert!(loaded(&format!("{LEAST}[admin]\nallow_remote = true")).admin.is_none());
    let digest = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683";
    let (settings, warnings) = load(&format!(
        "{LEAST}[admin]\nlisten = ['127.0.0.1:0', '0.0.0.0:9090']\nallow_remote = true\n\
         key_sha256 = '{digest}'\nhosts = ['ringbearer.internal', '10.0.0.1', '[::1]']"
    ))
    .unwrap();
    let admin = settings.admin.unwrap();
    assert_eq!(admin.listen.len(), 2);
    assert_eq!(admin.hosts, ["ringbearer.internal", "10.0.0.1", "[::1]"]);
    assert!(admin.key.unwrap().is_of("key"));
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["whoever reaches 0.0.0.0:9090 sees the state of every identity (admin.allow_remote)"]
    );
}
