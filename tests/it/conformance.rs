//! The clients that people call RingCentral with do so through the proxy, unmodified: a script for each
//! in `tests/conformance`. What they have to do is in [`script`](crate::script).

use serde_json::Value;
use tempfile::TempDir;

use crate::script::{KEY, Run, conforms, directory};
use crate::support::has_program;

#[tokio::test]
async fn ringcentrals_sdk_for_javascript_with_its_login() {
    let Some(command) = node(&["ringcentral_sdk.js", "login"]) else { return };
    let agent = ("x-user-agent", format!("RCJSSDK/{}", version("@ringcentral/sdk")));
    let steps = "login calls socket expired over refresh logout";
    let habits = &["client-id: any", "grant_type=urn"];
    conforms(Run { command, steps, agent, habits, needs_key: false }).await;
}

#[tokio::test]
async fn ringcentrals_sdk_for_javascript_whose_secret_is_its_key() {
    let Some(command) = node(&["ringcentral_sdk.js", "login", KEY]) else { return };
    let agent = ("x-user-agent", format!("RCJSSDK/{}", version("@ringcentral/sdk")));
    let steps = "login calls socket expired over refresh logout";
    conforms(Run { command, steps, agent, habits: &["authorization: basic"], needs_key: true })
        .await;
}

#[tokio::test]
async fn ringcentrals_sdk_for_javascript_behind_an_auth_proxy() {
    let Some(command) = node(&["ringcentral_sdk.js", "authProxy"]) else { return };
    let agent = ("x-user-agent", format!("RCJSSDK/{}", version("@ringcentral/sdk")));
    let steps = "client-info calls socket expired";
    let habits = &["client-id: any"];
    conforms(Run { command, steps, agent, habits, needs_key: false }).await;
}

#[tokio::test]
async fn ringcentral_extensible() {
    let Some(command) = node(&["rc_ex.js"]) else { return };
    let agent = ("x-user-agent", format!("extensible/core/{}", version("@rc-ex/core")));
    let steps = "without-login login calls socket expired thrown over logout";
    let habits = &["authorization: bearer undefined", "multipart/form-data"];
    conforms(Run { command, steps, agent, habits, needs_key: false }).await;
}

#[tokio::test]
async fn the_old_sdk_for_javascript() {
    let Some(command) = node(&["ringcentral_3.js"]) else { return };
    let agent = ("x-user-agent", format!("RCJSSDK/{}", version("ringcentral")));
    let steps = "login calls expired over refresh logout";
    let habits = &["grant_type=password", "authorization: bearer rbx1_"];
    conforms(Run { command, steps, agent, habits, needs_key: false }).await;
}

#[tokio::test]
async fn undici() {
    let Some(command) = node(&["fetch.js", "undici"]) else { return };
    let steps = "calls socket expired";
    let habits = &["authorization: bearer undefined"];
    conforms(Run {
        command,
        steps,
        agent: ("user-agent", "undici".into()),
        habits,
        needs_key: false,
    })
    .await;
}

#[tokio::test]
async fn fetch_of_nodes_own() {
    let Some(command) = node(&["fetch.js", "node"]) else { return };
    let steps = "calls expired";
    let habits = &["authorization: bearer undefined"];
    conforms(Run {
        command,
        steps,
        agent: ("user-agent", "node".into()),
        habits,
        needs_key: false,
    })
    .await;
}

#[tokio::test]
async fn axios() {
    let Some(command) = node(&["axios.js"]) else { return };
    let agent = ("user-agent", format!("axios/{}", version("axios")));
    let steps = "calls expired";
    let habits = &["authorization: bearer undefined"];
    conforms(Run { command, steps, agent, habits, needs_key: false }).await;
}

#[tokio::test]
async fn ringcentrals_sdk_for_python() {
    let Some(command) = python(&["ringcentral_sdk.py"]) else { return };
    let steps = "without-login login calls socket expired thrown over logout";
    let habits = &["multipart/mixed"];
    conforms(Run {
        command,
        steps,
        agent: ("x-user-agent", "RCPYTHONSDK".into()),
        habits,
        needs_key: false,
    })
    .await;
}

#[tokio::test]
async fn ringcentral_client_for_python() {
    let Some(command) = python(&["rest_client.py"]) else { return };
    let agent = ("rc-user-agent", "tylerlong/ringcentral-python".into());
    let steps = "without-login login calls expired thrown over logout";
    let habits = &["authorization: basic", "multipart/mixed"];
    conforms(Run { command, steps, agent, habits, needs_key: false }).await;
}

#[tokio::test]
async fn tap_ringcentral() {
    let files = TempDir::new().unwrap();
    let Some(command) = python(&["tap.py", files.path().to_str().unwrap()]) else { return };
    let steps = "login contacts call-log rotated extension expired over";
    let habits = &["grant_type=refresh_token", "content-length: 2\r\n"];
    conforms(Run {
        command,
        steps,
        agent: ("user-agent", "tap-ringcentral".into()),
        habits,
        needs_key: false,
    })
    .await;
}

#[tokio::test]
async fn requests_for_python() {
    let Some(command) = python(&["plain.py", "requests"]) else { return };
    let agent = ("user-agent", format!("python-requests/{}", version("requests")));
    let steps = "calls expired";
    let habits = &["accept-encoding: gzip"];
    conforms(Run { command, steps, agent, habits, needs_key: false }).await;
}

#[tokio::test]
async fn httpx() {
    let Some(command) = python(&["plain.py", "httpx"]) else { return };
    let agent = ("user-agent", format!("python-httpx/{}", version("httpx")));
    let steps = "calls expired";
    let habits = &["authorization: bearer dummy"];
    conforms(Run { command, steps, agent, habits, needs_key: false }).await;
}

#[tokio::test]
async fn aiohttp() {
    let Some(command) = python(&["aiohttp_client.py"]) else { return };
    let agent = ("user-agent", format!("aiohttp/{}", version("aiohttp")));
    let steps = "calls socket expired";
    let habits = &["expect: 100-continue", "transfer-encoding: chunked"];
    conforms(Run { command, steps, agent, habits, needs_key: false }).await;
}

#[tokio::test]
async fn javas_http_client() {
    if !has_java() {
        return;
    }
    let command = command("java", &["JavaClient.java"]);
    let steps = "calls socket expired";
    let habits = &["expect: 100-continue", "upgrade: h2c", "http2-settings: "];
    conforms(Run {
        command,
        steps,
        agent: ("user-agent", "Java-http-client/".into()),
        habits,
        needs_key: false,
    })
    .await;
}

/// Nobody's CI has to install a JDK for one client.
#[allow(clippy::print_stderr, reason = "whoever runs the tests is to see it")]
fn has_java() -> bool {
    let is_there = std::process::Command::new("javac").arg("-version").output().is_ok();
    if !is_there {
        eprintln!("passed over, for javac is missing: apt-get install default-jdk-headless");
    }
    is_there
}

#[test]
fn the_page_names_every_client_with_its_version() {
    let page = include_str!("../../docs/migration.md");
    for (registry, package) in [
        ("npm", "@ringcentral/sdk"),
        ("npm", "@ringcentral/subscriptions"),
        ("npm", "@rc-ex/core"),
        ("", "@rc-ex/ws"),
        ("npm", "ringcentral"),
        ("npm", "undici"),
        ("npm", "axios"),
        ("PyPI", "ringcentral"),
        ("PyPI", "ringcentral_client"),
        ("PyPI", "tap-ringcentral"),
        ("PyPI", "requests"),
        ("", "httpx"),
        ("PyPI", "aiohttp"),
    ] {
        let named = format!("{registry} `{package}` {}", demanded(registry, package));
        assert!(page.contains(named.trim()), "{named}");
    }
}

/// The version of a package that is installed.
fn version(package: &str) -> String {
    demanded("", package)
}

/// The same of a certain registry: both have a `ringcentral`.
fn demanded(registry: &str, package: &str) -> String {
    let npm: Value = serde_json::from_str(include_str!("../conformance/package.json")).unwrap();
    let npm = npm["dependencies"][package].as_str().filter(|_| registry != "PyPI");
    let pip = include_str!("../conformance/requirements.txt").lines();
    let pip = pip.filter_map(|line| line.split_once("==")).find(|(name, _)| *name == package);
    let version = npm.or_else(|| pip.map(|(_, version)| version));
    version.unwrap_or_else(|| panic!("{package} is in neither")).to_owned()
}

/// With Node.js, unless it is missing and need not be there.
fn node(script: &[&str]) -> Option<Vec<String>> {
    let is_there = has_program("node", "apt-get install nodejs npm")
        && is_installed("node_modules/axios", "(cd tests/conformance && npm ci)");
    is_there.then(|| command("node", script))
}

fn python(script: &[&str]) -> Option<Vec<String>> {
    let program = directory().join("venv/bin/python");
    let cure = "(cd tests/conformance && python3 -m venv venv && venv/bin/pip install -r requirements.txt)";
    is_installed("venv/bin/tap-ringcentral", cure)
        .then(|| command(program.to_str().unwrap(), script))
}

fn command(program: &str, script: &[&str]) -> Vec<String> {
    [program].iter().chain(script).map(|word| (*word).to_owned()).collect()
}

/// Like [`has_program`], for what is in the directory of the scripts.
#[allow(clippy::print_stderr, reason = "whoever runs the tests is to see it")]
fn is_installed(path: &str, cure: &str) -> bool {
    let is_there = directory().join(path).exists();
    let is_ci = std::env::var_os("CI").is_some();
    assert!(is_there || !is_ci, "tests/conformance/{path} is missing: {cure}");
    if !is_there {
        eprintln!("passed over, for tests/conformance/{path} is missing: {cure}");
    }
    is_there
}
