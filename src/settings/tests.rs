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
fn clients_are_asked_for_certificates_by_version_and_ca() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    };
    let certificate = file("certificate.pem", made.cert.pem());
    let key = file("key.pem", made.signing_key.serialize_pem());
    let files = format!("certificate_file = {certificate:?}\nkey_file = {key:?}\n");
    let tls = format!("{LEAST}[proxy.tls]\n{files}");
    let ca = format!("client_ca_file = {certificate:?}\n");
    let asked = |lines: &str| {
        let tls = loaded(&format!("{tls}{lines}")).proxy.tls.unwrap();
        (tls.client_ca.map(|ca| ca.is_required), tls.min_version)
    };
    assert_eq!(asked(""), (None, TlsVersion::V1_2));
    assert_eq!(asked("min_version = '1.3'"), (None, TlsVersion::V1_3));
    assert_eq!(asked(&ca), (Some(true), TlsVersion::V1_2));
    assert_eq!(asked(&format!("{ca}client_certificates = 'required'")).0, Some(true));
    assert_eq!(asked(&format!("{ca}client_certificates = 'optional'")).0, Some(false));
    let refused = |lines: &str| chain(&load(&format!("{tls}{lines}")).unwrap_err());
    assert_eq!(
        refused("client_certificates = 'optional'"),
        "proxy.tls.client_certificates is of use only with proxy.tls.client_ca_file: add \
         proxy.tls.client_ca_file or remove proxy.tls.client_certificates"
    );
    assert_eq!(
        refused(&format!("{ca}client_certificates = 'yes'")),
        "proxy.tls.client_certificates must be \"required\" or \"optional\""
    );
    assert_eq!(
        refused("min_version = '1.1'"),
        "proxy.tls.min_version must be \"1.2\" or \"1.3\": older ones are broken"
    );
    assert_eq!(
        refused(&format!("client_ca_file = {key:?}")),
        format!("proxy.tls.client_ca_file {key:?} holds no certificate in PEM form")
    );
    // Who has such a certificate is no stranger, so other machines may come.
    let remote = "[proxy]\nlisten = '0.0.0.0:8443'\n";
    let listening = |lines: &str| load(&format!("{tls}{ca}{lines}{remote}"));
    assert_eq!(listening("").unwrap().1, []);
    let refused = chain(&listening("client_certificates = 'optional'\n").unwrap_err());
    assert!(refused.starts_with("proxy.listen 0.0.0.0:8443 can be reached"), "{refused}");
    let client = |name| format!("[client.{name}]\ntls_subject = 'DNS:A.test'\nidentities = '*'\n");
    assert_eq!(listening(&client("a")).unwrap().1, []);
    assert_eq!(
        chain(&listening(&(client("a") + &client("b"))).unwrap_err()),
        "client \"b\": client \"a\" has the tls_subject DNS:a.test too, and a connection can be only \
         one client's: keep it in one"
    );
    let shown = format!(
        "{LEAST}[upstream]\nclient_certificate_file = {certificate:?}\nclient_key_file = {key:?}\n\
         tls_key_log_file = 'keys.log'"
    );
    let (settings, warnings) = load(&shown).unwrap();
    assert_eq!(settings.upstream.client_certificate.unwrap().key_file, key);
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "upstream.tls_key_log_file \"keys.log\" gets the keys of every connection to RingCentral, and \
          whoever reads them reads tokens: remove it as soon as you have seen what you wanted"
        ]
    );
}

#[test]
fn sockets_are_listened_on_by_everybody_or_for_one_identity() {
    let settings = loaded(&format!(
        "{LEAST}listen = ['unix:/run/sales.sock', '127.0.0.1:1']\n\
         [proxy]\nlisten = ['127.0.0.1:2', 'unix:all.sock']\nsocket_mode = '0666'\nsocket_group = 33\n\
         [admin]\nlisten = 'unix:/run/admin.sock'"
    ));
    let socket = |path: &str, identity: Option<&str>| SocketSettings {
        path: path.into(),
        mode: 0o666,
        group: Some(33),
        identity: identity.map(str::to_owned),
    };
    let all = [socket("all.sock", None), socket("/run/sales.sock", Some("sales"))];
    assert_eq!(settings.proxy.sockets, all);
    assert_eq!(settings.proxy.listen, ["127.0.0.1:2".parse().unwrap()]);
    assert_eq!(settings.identities[0].listen, ["127.0.0.1:1".parse().unwrap()]);
    let admin = settings.admin.unwrap();
    assert_eq!((admin.listen, admin.sockets), (vec![], vec![socket("/run/admin.sock", None)]));
    let alone = loaded(&format!("{LEAST}[proxy]\nlisten = 'unix:a.sock'"));
    assert_eq!((alone.proxy.listen, alone.proxy.sockets[0].mode), (vec![], 0o660));
}

#[test]
fn a_way_in_that_may_not_be_what_was_meant_is_warned_about() {
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let warned = |proxy: &str, client: &str| {
        let lines = format!("{LEAST}[proxy]\n{proxy}\n[client.a]\nidentities = 'sales'\n{client}");
        let warnings = load(&lines).unwrap().1;
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        warned("", "uid = 1000"),
        [
            "client \"a\" is known by uid or gid, which nobody has who comes by an address: add a unix: \
          socket to proxy.listen"
        ]
    );
    assert_eq!(warned("listen = 'unix:a'", "uid = 1000"), [""; 0]);
    assert_eq!(
        warned("listen = 'unix:a'", "networks = '10.0.0.0/8'"),
        ["client \"a\" is known by networks, and nobody comes from one by a Unix socket: add an \
          address to proxy.listen"]
    );
    assert_eq!(
        warned("", &format!("networks = '10.0.0.0/8'\nkey_sha256 = '{digest}'")),
        ["client \"a\" has key_sha256 and networks, each of which is enough: whoever calls from \
          those networks needs no key"]
    );
    assert_eq!(
        warned("public_url = 'https://rc.test'", "networks = '10.0.0.0/8'"),
        ["client \"a\" is known by networks, and proxy.public_url says that apps come by another \
          address: behind a load balancer it is the balancer's address that counts, for everybody \
          alike"]
    );
    let any = warned("hosts = '*'", "networks = '10.0.0.0/8'");
    assert_eq!(any, [Warning::AnyHost.to_string()], "a browser may be in that network");
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
