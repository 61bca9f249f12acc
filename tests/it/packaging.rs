//! What is in `packaging/` and `docs/deployment.md` against the program: configurations load, command
//! lines are understood, and names that stand in two files are the same in both.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::Parser;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use ringbearer::cli::Cli;
use ringbearer::settings::{ConfigSource, Overrides, SecretPlace, Settings, StoreSettings};
use ringbearer::telemetry::chain;
use tempfile::TempDir;

use crate::readme::{blocks_of, commands};

const DEPLOYMENT: &str = include_str!("../../docs/deployment.md");
const UNIT: &str = include_str!("../../packaging/systemd/ringbearer.service");
const SOCKET: &str = include_str!("../../packaging/systemd/ringbearer.socket");
const OF_UNIT: &str = include_str!("../../packaging/systemd/proxy.toml");
const DOCKERFILE: &str = include_str!("../../packaging/docker/Dockerfile");
const OF_IMAGE: &str = include_str!("../../packaging/docker/proxy.toml");
const CHART: &str = include_str!("../../packaging/helm/ringbearer/Chart.yaml");
const CONTAINER: &str = include_str!("../../packaging/helm/ringbearer/templates/_helpers.tpl");

/// A machine on which every secret of these files is there.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let files = TempDir::new().unwrap();
        let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        for (name, text) in [
            ("rc_client_id", "id"),
            ("rc_client_secret", "secret"),
            ("rc_jwt", "jwt"),
            ("redis_url", "rediss://user:password@redis.test"),
            ("store_key", key),
            ("tls_key", &signing_key.serialize_pem()),
            ("certificate.pem", &cert.pem()),
        ] {
            fs::write(files.path().join(name), text).unwrap();
        }
        Self(files)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn load(&self, text: &str) -> Settings {
        let here = self.path().to_str().unwrap();
        let places = ["/run/credentials/ringbearer.service", "/run/secrets", "/etc/ringbearer"];
        let text = places.iter().fold(text.to_owned(), |text, place| text.replace(place, here));
        let source = ConfigSource::Text(text.clone());
        match Settings::load(&source, Overrides::default(), &|name| self.variable(name)) {
            Ok((settings, _)) => settings,
            Err(error) => panic!("{}\n{text}", chain(&error)),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "CREDENTIALS_DIRECTORY" => Some(self.path().to_str().unwrap().to_owned()),
            // As the unit and the image say.
            "XDG_STATE_HOME" => Some("/var/lib".to_owned()),
            _ => None,
        }
    }
}

fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let of_key = |line: &'a str| line.strip_prefix(key)?.strip_prefix('=');
    unit.lines().filter_map(of_key).collect()
}

fn understood(line: &str) {
    let words: Vec<_> = line.split_whitespace().collect();
    if let Err(error) = Cli::try_parse_from(&words) {
        panic!("{words:?}: {error}");
    }
}

#[test]
fn the_unit_passes_every_credential_that_its_configuration_wants() {
    let machine = Machine::new();
    let source = ConfigSource::Text(OF_UNIT.to_owned());
    let sources = Settings::sources(&source, &|_| None).unwrap();
    let wanted: BTreeSet<_> = sources
        .into_iter()
        .map(|source| match source.place {
            SecretPlace::NoCredential { name } => name,
            other => panic!("{}: {other:?}", source.key),
        })
        .collect();
    let passed = values(UNIT, "LoadCredential").into_iter();
    let passed: BTreeSet<_> = passed
        .map(|line| {
            let (name, path) = line.split_once(':').unwrap();
            assert_eq!(path, format!("/etc/ringbearer/credentials/{name}"));
            name.to_owned()
        })
        .collect();
    assert_eq!(passed, wanted);
    let settings = machine.load(OF_UNIT);
    let listen: Vec<_> = settings.proxy.listen.iter().map(ToString::to_string).collect();
    assert_eq!(values(SOCKET, "ListenStream"), listen);
    let StoreSettings::File { directory, .. } = settings.store else { panic!("files") };
    let state = values(UNIT, "StateDirectory")[0];
    assert_eq!(directory, Path::new("/var/lib").join(state));
    assert_eq!(values(UNIT, "Environment"), ["XDG_STATE_HOME=/var/lib"]);
    understood(values(UNIT, "ExecStart")[0]);
    let stop: u64 = values(UNIT, "TimeoutStopSec")[0].parse().unwrap();
    assert!(settings.proxy.drain_timeout.as_secs() < stop);
}

#[test]
fn the_image_runs_commands_that_exist_with_a_configuration_that_can_be_asked() {
    let machine = Machine::new();
    let settings = machine.load(OF_IMAGE);
    assert!(settings.admin.is_some(), "the health check asks there");
    let arrays = DOCKERFILE.lines().filter_map(|line| Some(line.trim().split_once(" [")?.1));
    let arrays: Vec<Vec<String>> =
        arrays.map(|rest| serde_json::from_str(&format!("[{rest}")).unwrap()).collect();
    let [health, entry, command] = &arrays[..] else { panic!("{arrays:?}") };
    assert_eq!(health[0], entry[0]);
    understood(&health.join(" "));
    understood(&[entry.clone(), command.clone()].concat().join(" "));
    assert!(DOCKERFILE.contains("FROM scratch\n") && DOCKERFILE.contains("USER 10001:10001\n"));
}

#[test]
fn the_chart_is_of_this_version_and_starts_what_exists() {
    let version = format!("appVersion: \"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(CHART.contains(&version), "{version}");
    let arguments = CONTAINER.lines().find_map(|line| line.strip_prefix("args: ")).unwrap();
    let arguments: Vec<String> = serde_json::from_str(arguments).unwrap();
    understood(&format!("ringbearer {}", arguments.join(" ")));
}

#[test]
fn the_guide_shows_configurations_that_load_and_commands_that_are_understood() {
    let machine = Machine::new();
    let shown = blocks_of(DEPLOYMENT, "toml");
    assert_eq!(shown.len(), 1);
    let settings = machine.load(&shown[0]);
    assert!(matches!(settings.store, StoreSettings::Redis { .. }));
    let lines: Vec<_> =
        blocks_of(DEPLOYMENT, "sh").iter().flat_map(|block| commands(block)).collect();
    assert!(!lines.is_empty());
    for words in lines {
        understood(&words.join(" "));
    }
}
