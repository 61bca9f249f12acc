//! The status page in a real browser, in each state that an operator may find it in; light, dark, and
//! as wide as a phone.
//!
//! `RINGBEARER_SCREENSHOTS=DIRECTORY` has the pictures written that `docs/status` shows.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ringbearer::clock::Clock;
use ringbearer::key::KeyDigest;
use ringbearer::sandbox::{Control, Fault, FaultKind, Place, Rules, Sandbox, SandboxOptions};
use ringbearer::service::Service;
use ringbearer::settings::{ConfigSource, Overrides, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chromium::Page;
use crate::pages::Browser;
use crate::support::{ECHO, LONG_IDLE, START, client, has_program, log_in, settle};

const HEAVY: &str = "/restapi/v1.0/account/~/call-log";
const LIGHT_GROUP: &str = "/restapi/v1.0/account/~";
const KEY: &str = "the-key-of-the-tests";

const SALES: &str = "[identity.sales]\napplication = 'crm'\njwt = 'sandbox-jwt'\n";
const SUPPORT: &str =
    "[identity.support]\napplication = 'crm'\nrefresh_token = '{refresh_token}'\n";

/// A proxy, the clock of which the test moves, and its status page in a browser.
struct Stage {
    sandbox: Sandbox,
    service: Option<Service>,
    clock: Clock,
    client: reqwest::Client,
    files: TempDir,
}

impl Stage {
    async fn new(application: &str, identities: &str) -> Self {
        Self::with(Rules::unlimited(), application, identities).await
    }

    async fn with(rules: Rules, application: &str, identities: &str) -> Self {
        let clock = Clock::manual(START);
        let rules = Rules { log_capacity: 0, ..rules };
        let options = SandboxOptions { clock: clock.clone(), rules, ..SandboxOptions::default() };
        let (sandbox, client) = (Sandbox::start(options).await.unwrap(), client());
        let files = TempDir::new().unwrap();
        let token = log_in(&client, &sandbox).await;
        let text = format!(
            "[proxy]\nlisten = '127.0.0.1:0'\nworkers = 1\n{LONG_IDLE}[upstream]\nurl = '{url}'\n\
             [application.crm]\nclient_id = 'sandbox-client'\nclient_secret = 'sandbox-secret'\n\
             {application}\n{identities}\n[store]\ndirectory = '{store}'\n\
             [admin]\nlisten = '127.0.0.1:0'\nkey_sha256 = '{digest}'\n",
            url = sandbox.url(),
            store = files.path().join("store").display(),
            digest = KeyDigest::of(KEY),
        );
        let text = text.replace("{refresh_token}", &token);
        let source = ConfigSource::Text(text);
        let settings = match Settings::load(&source, Overrides::default(), &|_| None) {
            Ok((settings, _)) => settings,
            Err(error) => panic!("{}", ringbearer::telemetry::chain(&error)),
        };
        let service = Some(Service::start(&settings, &clock).unwrap());
        Self { sandbox, service, clock, client, files }
    }

    fn service(&self) -> &Service {
        self.service.as_ref().expect("it runs")
    }

    fn control(&self) -> &Control {
        self.sandbox.control()
    }

    fn admin(&self) -> String {
        format!("http://{}", self.service().admin_addresses()[0])
    }

    async fn state(&self) -> Value {
        let asked = self.client.get(format!("{}/state", self.admin())).send().await.unwrap();
        assert_eq!(asked.headers()["cache-control"], "no-store");
        serde_json::from_str(&asked.text().await.unwrap()).unwrap()
    }

    /// Returns when the state is as wanted.
    async fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..2000 {
            last = self.state().await;
            if wanted(&last) {
                return last;
            }
            settle().await;
        }
        panic!("it never came: {last:#}");
    }

    /// Each of these identities has a token.
    async fn usable(&self, count: usize) {
        self.until(|state| {
            let all = state["identities"].as_array().unwrap();
            all.iter().filter(|it| it["live"]["usable"] == true).count() == count
        })
        .await;
    }

    async fn call(&self, identity: &str, target: &str) {
        let address = self.service().addresses()[0];
        let request = self.client.get(format!("http://{address}{target}"));
        let answer = request.header("X-Ringbearer-Identity", identity).send().await.unwrap();
        answer.bytes().await.unwrap();
    }

    /// Moves the clock second by second; whoever looks every two seconds does so.
    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            for _ in 0..5 {
                settle().await;
            }
            // The clock must not outrun the disk: a look at the store is let come to its end.
            let look = self.client.get(format!("{}/readyz", self.admin())).send().await.unwrap();
            look.bytes().await.unwrap();
        }
    }

    /// Minutes of an ordinary day, so that the charts have something to show.
    async fn some_traffic(&self) {
        // Of a request that was a duplicate: it holds nobody else.
        let duplicate = r#"{"errorCode":"CMN-304"}"#.to_owned();
        let status = |code| {
            let body = (code == 429).then(|| duplicate.clone());
            FaultKind::Status { code, body, retry_after: None }
        };
        for round in 0_u32..140 {
            let wave = (f64::from(round) / 14.0).sin() + (f64::from(round) / 5.0).sin() / 3.0;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let many = (9.0 + wave * 4.0) as u32;
            let code = match round {
                64 | 72 | 80 => Some(429),
                30 | 31 => Some(503),
                round if round % 23 == 0 => Some(404),
                _ => None,
            };
            if let Some(code) = code {
                let fault = Fault { times: Some(2), ..Fault::once(Place::Api, status(code)) };
                self.control().inject(fault);
            }
            for number in 0..many {
                self.call(if number % 3 == 0 { "support" } else { "sales" }, ECHO).await;
            }
            self.pass(2).await;
        }
    }

    fn browser(&self) -> Browser {
        Browser::open(&format!("{}/", self.admin()))
    }

    async fn finish(mut self) {
        self.end().await;
        self.sandbox.stop().await;
    }

    async fn end(&mut self) {
        let stop = tokio::spawn(self.service.take().unwrap().stop());
        while !stop.is_finished() {
            self.clock.advance(Duration::from_millis(500));
            for _ in 0..50 {
                settle().await;
            }
        }
        stop.await.unwrap();
    }
}

/// How the page is looked at.
#[derive(Clone, Copy, Debug)]
struct View {
    width: u32,
    scheme: &'static str,
}

const LIGHT: View = View { width: 1180, scheme: "light" };
const DARK: View = View { width: 1180, scheme: "dark" };
const PHONE: View = View { width: 390, scheme: "light" };
const DARK_PHONE: View = View { width: 390, scheme: "dark" };

impl Page {
    async fn text(&mut self, selector: &str) -> String {
        let found = format!("document.querySelector({selector:?})");
        self.evaluate(&format!(
            "{found} && {found}.checkVisibility() ? {found}.innerText : 'not shown'"
        ))
        .await
    }

    async fn until_text(&mut self, selector: &str, wanted: &str) {
        let found = format!("document.querySelector({selector:?})");
        let text =
            format!("{found} && {found}.checkVisibility() ? {found}.innerText : 'not shown'");
        self.until(&text, wanted).await;
    }

    async fn view(&mut self, view: View) {
        let media = json!({"features": [
            {"name": "prefers-color-scheme", "value": view.scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]});
        self.order("Emulation.setEmulatedMedia", &media).await;
        self.resize(view, 800).await;
        let high = self.evaluate("document.documentElement.scrollHeight").await;
        self.resize(view, high.parse().unwrap()).await;
    }

    async fn resize(&mut self, view: View, height: u32) {
        let metrics = json!({
            "width": view.width, "height": height, "deviceScaleFactor": 1, "mobile": view.width < 500,
        });
        self.order("Emulation.setDeviceMetricsOverride", &metrics).await;
    }

    /// Looks at it in each view: everything fits, and everybody can read it.
    async fn look(&mut self, name: &str, views: &[View]) {
        for view in views {
            self.view(*view).await;
            let wide = self.evaluate("document.documentElement.scrollWidth").await;
            assert!(
                wide.parse::<u32>().unwrap() <= view.width,
                "{name} is {wide} wide in {view:?}"
            );
            assert_eq!(self.evaluate(UNREADABLE).await, "", "{name} in {view:?}");
            assert_eq!(self.evaluate(NAMELESS).await, "", "{name} in {view:?}");
            let Some(directory) = std::env::var_os("RINGBEARER_SCREENSHOTS") else { continue };
            let kind = match (view.width, view.scheme) {
                (390, "light") => "-phone",
                (390, _) => "-phone-dark",
                (_, "dark") => "-dark",
                _ => "",
            };
            let shot = self.order("Page.captureScreenshot", &json!({"format": "png"})).await;
            let png = BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
            fs::write(PathBuf::from(directory).join(format!("{name}{kind}.png")), png).unwrap();
        }
    }
}

/// Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3).
const UNREADABLE: &str = "(() => {
    const parts = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = element => {
        for (let it = element; it; it = it.parentElement) {
            const colour = parts(getComputedStyle(it).backgroundColor);
            if (colour.length < 4 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const own = element => [...element.childNodes].some(it => it.nodeType === 3 && it.data.trim());
    return [...document.body.querySelectorAll('*')]
        .filter(it => !['SCRIPT', 'STYLE'].includes(it.tagName) && it.checkVisibility() && own(it) && !it.closest('.stale main'))
        .map(it => {
            const [a, b] = [light(parts(getComputedStyle(it).color)), light(behind(it))];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), it.innerText];
        })
        .filter(([contrast]) => contrast < 4.5)
        .map(([contrast, text]) => `${contrast.toFixed(2)} ${text}`).join('; ');
})()";

/// What a person who does not see it would be told nothing about.
const NAMELESS: &str =
    "[...document.querySelectorAll('button, input, svg, [role=progressbar], [role=meter]')]
    .filter(it => it.checkVisibility() && !it.innerText?.trim() && !it.getAttribute('aria-label'))
    .map(it => it.outerHTML).join('; ')";

fn has_browser() -> bool {
    has_program("chromium", "apt-get install chromium")
}

#[tokio::test]
async fn a_healthy_proxy_is_shown_with_what_it_does() {
    if !has_browser() {
        return;
    }
    let stage = Stage::new("", &format!("{SALES}{SUPPORT}")).await;
    stage.usable(2).await;
    stage.some_traffic().await;
    let browser = stage.browser();
    let mut page = browser.page().await;
    page.until_text("#status", "Ready").await;
    assert_eq!(page.evaluate("getComputedStyle(document.body).fontSize").await, "15px", "styled");
    assert_eq!(page.text("#identities-count").await, "2 identities");
    let cards = "[...document.querySelectorAll('.identity')].map(it => it.querySelector('h3').innerText + ' ' + \
                 it.querySelector('.chip').innerText + ' ' + it.querySelector('.app').innerText).join(', ')";
    assert_eq!(page.evaluate(cards).await, "sales Live crm, support Live crm");
    // 280 s of an hour are over.
    let life = "[...document.querySelectorAll('.life')].filter(it => it.checkVisibility()).map(it => it.querySelector('.left').innerText + ' ' + \
                it.querySelector('[role=progressbar]').getAttribute('aria-valuenow')).join(', ')";
    assert_eq!(page.evaluate(life).await, "55 min 92, 55 min 92, 6 d 23 h 100");
    assert_eq!(page.text("#budgets .line span:last-child").await, "5 of 5");
    assert_eq!(page.text("#limits-card").await, "not shown");
    assert_eq!(page.text("#reasons").await, "not shown");
    let chart = "document.querySelector('#requests svg').getAttribute('aria-label')";
    let chart = page.evaluate(chart).await;
    assert!(chart.starts_with("Requests per second over five minutes, at most "), "{chart}");
    assert!(chart.ends_with(" answered") && chart.contains("6 throttled (429)"), "{chart}");
    assert!(chart.contains("4 failed (5xx)"), "{chart}");
    assert_eq!(page.evaluate("document.querySelectorAll('#latency polyline').length").await, "2");
    let events = page.text("#events").await;
    assert!(events.contains("Renewed: generation 1, good for 60 min"), "{events}");
    assert!(page.text("footer").await.contains(" client connection"));
    page.look("healthy", &[LIGHT, DARK, PHONE, DARK_PHONE]).await;
    stage.finish().await;
}

#[tokio::test]
async fn rate_limits_are_shown_as_they_are_learnt() {
    if !has_browser() {
        return;
    }
    let rules = Rules { rate_limits: true, ..Rules::default() };
    let stage = Stage::with(rules, "", &format!("{SALES}{SUPPORT}")).await;
    stage.usable(2).await;
    for (identity, target, times) in [("sales", HEAVY, 7), ("support", LIGHT_GROUP, 51)] {
        for _ in 0..times {
            // One answer in ten milliseconds is read for what it says of limits.
            stage.clock.advance(Duration::from_millis(20));
            settle().await;
            stage.call(identity, target).await;
        }
    }
    let told = stage.state().await;
    let limits = told["rate_limits"].as_array().unwrap();
    let facts =
        |it: &Value| ["identity", "group", "left", "limit", "window_s"].map(|of| it[of].clone());
    assert_eq!(
        facts(&limits[0]),
        [json!("support"), json!("light"), json!(0), json!(50), json!(60)]
    );
    assert_eq!(facts(&limits[1]), [json!("sales"), json!("heavy"), json!(3), json!(10), json!(60)]);
    assert_eq!((limits.len(), &limits[1]["until_ms"]), (2, &Value::Null));
    stage.clock.advance(Duration::from_secs(18));
    let browser = stage.browser();
    let mut page = browser.page().await;
    page.until_text("#limits .line span", "support · light").await;
    let shown = page.text("#limits").await;
    assert_eq!(
        shown.split_whitespace().collect::<Vec<_>>().join(" "),
        "support · light silent for 42 s sales · heavy 3 of 10 in 60 s"
    );
    page.look("rate-limits", &[LIGHT]).await;
    stage.finish().await;
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_seen_to_run_down() {
    if !has_browser() {
        return;
    }
    let stage = Stage::new("token_requests_per_minute = 100", &format!("{SALES}{SUPPORT}")).await;
    stage.usable(2).await;
    stage.control().inject(Fault {
        times: None,
        ..Fault::once(
            Place::Token,
            FaultKind::Status { code: 429, body: None, retry_after: Some(900) },
        )
    });
    // Who is not used is not renewed.
    stage.call("sales", ECHO).await;
    stage.call("support", ECHO).await;
    // Renewals are due by now. They are refused, and nothing is sent any more.
    stage.clock.advance(Duration::from_secs(3100));
    stage
        .until(|state| {
            let all = state["identities"].as_array().unwrap();
            all.iter().all(|it| it["live"]["last_error"].is_string())
        })
        .await;
    stage.clock.advance(Duration::from_secs(320));
    let browser = stage.browser();
    let mut page = browser.page().await;
    page.until_text("#status", "Ready").await;
    let bar = "document.querySelector('.life .bar').className + ' ' + \
               document.querySelector('.life [role=progressbar]').getAttribute('aria-valuetext')";
    page.until(bar, "bar low 3 min left").await;
    let error = page.text(".identity .say.warn").await;
    assert!(
        error.starts_with(
            "The token endpoint answered 429 Too Many Requests and asked for 900 s of silence"
        ),
        "{error}"
    );
    let facts = "Renewed 57 min ago · generation 1 · next try in 10 min";
    assert_eq!(page.text(".identity .facts").await, facts);
    assert_eq!(page.text(".identity .chip").await, "Live");
    page.look("expiring", &[LIGHT, PHONE]).await;

    // It ends, and a renewal is under way.
    stage.control().clear_faults();
    stage.control().inject(Fault { times: None, ..Fault::once(Place::Token, FaultKind::Hang) });
    stage.clock.advance(Duration::from_secs(700));
    let address = stage.service().addresses()[0];
    // The connections that there were have idled for more than an hour.
    let request = client().get(format!("http://{address}{ECHO}"));
    let waiting = tokio::spawn(request.header("X-Ringbearer-Identity", "sales").send());
    page.until_text(".identity .chip", "Renewing").await;
    page.until(
        "document.querySelector('.life .bar').className + ' ' + document.querySelector('.life .left').innerText",
        "bar gone ended",
    )
    .await;
    page.until_text(
        ".identity .facts",
        "Renewed 69 min ago · generation 1 · 1 request waiting for a token",
    )
    .await;
    page.look("renewing", &[LIGHT]).await;
    waiting.abort();
}

#[tokio::test]
async fn an_identity_that_needs_a_login_comes_first_with_the_command() {
    if !has_browser() {
        return;
    }
    let zoe = "[identity.zoe]\napplication = 'crm'\nlogin = true\n";
    let stage = Stage::new("", &format!("{SALES}{zoe}")).await;
    stage.usable(1).await;
    stage.pass(4).await;
    let browser = stage.browser();
    let mut page = browser.page().await;
    page.until_text("#status", "Degraded").await;
    assert!(page.text("#events li.error").await.starts_with("zoe"));
    assert_eq!(page.text(".identity h3").await, "zoe", "first");
    assert_eq!(page.text(".identity .chip").await, "Needs login");
    assert_eq!(page.text(".identity code").await, "ringbearer login zoe");
    assert_eq!(page.evaluate("document.title").await, "! Ringbearer – Degraded");
    page.look("needs-login", &[LIGHT, DARK, PHONE]).await;
    stage.finish().await;
}

#[tokio::test]
async fn a_store_that_is_down_is_told_with_its_cure_and_comes_back() {
    if !has_browser() {
        return;
    }
    let stage = Stage::new("", &format!("{SALES}{SUPPORT}")).await;
    stage.usable(2).await;
    let store = stage.files.path().join("store");
    fs::set_permissions(&store, Permissions::from_mode(0o777)).unwrap();
    stage.pass(6).await;
    stage.until(|state| state["store"]["up"] == false).await;
    stage.pass(3).await;
    let browser = stage.browser();
    let mut page = browser.page().await;
    page.until_text("#status", "Degraded").await;
    let banner = page.text("#reasons").await;
    assert!(banner.starts_with("The store does not answer. "), "{banner}");
    assert!(banner.ends_with("tokens that live are used to their end meanwhile"), "{banner}");
    assert_eq!(page.text("#budgets").await, "Not known while the store does not answer.");
    assert_eq!(page.text(".identity .chip").await, "Live");
    assert!(page.text("#events li.error").await.starts_with("Store"));
    page.look("store-down", &[LIGHT, DARK]).await;
    fs::set_permissions(&store, Permissions::from_mode(0o700)).unwrap();
    stage.pass(8).await;
    page.until_text("#status", "Ready").await;
    page.until_text("#reasons", "not shown").await;
    assert!(page.text("#events").await.contains("The store answers again"));
    stage.finish().await;
}

#[tokio::test]
async fn a_budget_that_is_used_up_is_told() {
    if !has_browser() {
        return;
    }
    let stage = Stage::new("token_requests_per_minute = 2", &format!("{SALES}{SUPPORT}")).await;
    stage.usable(2).await;
    stage.pass(6).await;
    stage.until(|state| state["applications"][0]["left"] == 0).await;
    let browser = stage.browser();
    let mut page = browser.page().await;
    page.until_text("#budgets .bad", "None: renewals wait, tokens that live are used").await;
    let meter = "['valuenow', 'valuemax', 'label'].map(it => \
                 document.querySelector('#budgets [role=meter]').getAttribute(`aria-${it}`)).join(' ')";
    assert_eq!(page.evaluate(meter).await, "0 2 crm");
    assert_eq!(page.text("#requests .none").await, "No requests");
    page.look("budget-exhausted", &[LIGHT]).await;
    stage.finish().await;
}

#[tokio::test]
async fn a_proxy_without_identities_says_how_to_begin() {
    if !has_browser() {
        return;
    }
    let stage = Stage::new("", "").await;
    let browser = stage.browser();
    let mut page = browser.page().await;
    page.until_text("#identities h3", "No identity yet").await;
    assert_eq!(page.text("#identities code").await, "ringbearer login NAME");
    page.look("no-identities", &[LIGHT, PHONE]).await;
    stage.finish().await;
}

#[tokio::test]
async fn a_proxy_that_has_gone_is_told_and_what_is_left_is_dimmed() {
    if !has_browser() {
        return;
    }
    let mut stage = Stage::new("", &format!("{SALES}{SUPPORT}")).await;
    stage.usable(2).await;
    let browser = stage.browser();
    let mut page = browser.page().await;
    page.until_text("#status", "Ready").await;
    stage.end().await;
    page.until_text("#status", "Unreachable").await;
    let told = page.text("#lost").await;
    assert!(told.starts_with("The proxy does not answer. It was last heard "), "{told}");
    assert_eq!(
        page.evaluate("getComputedStyle(document.getElementById('main')).opacity").await,
        "0.5"
    );
    assert_eq!(page.evaluate("document.title").await, "✕ Ringbearer");
    page.look("gone", &[LIGHT, DARK]).await;
    stage.sandbox.stop().await;
}

#[tokio::test]
async fn changes_are_made_from_the_page_with_the_key_only() {
    if !has_browser() {
        return;
    }
    let stage = Stage::new("", SALES).await;
    stage.usable(1).await;
    let added = stage.client.post(format!("{}/identities", stage.admin())).bearer_auth(KEY);
    let bot = json!({"name": "bot", "application": "crm", "jwt": "sandbox-jwt-2"});
    assert_eq!(added.body(bot.to_string()).send().await.unwrap().status(), 201);
    let browser = stage.browser();
    let mut page = browser.page().await;
    page.until("document.querySelectorAll('.identity').length", "2").await;
    let card = "[...document.querySelectorAll('.identity')].find(it => it.querySelector('h3').innerText === 'bot')";
    let click = |word: &str| {
        format!(
            "[...{card}.querySelectorAll('button')].find(it => it.innerText === '{word}').click()"
        )
    };
    let type_key = |key: &str| {
        format!(
            "(document.getElementById('key-input').value = '{key}', \
             document.querySelector('#key-dialog button.main').click())"
        )
    };
    let renewals = stage.control().counts().token_requests;

    page.evaluate(&click("Renew now")).await;
    page.until("document.getElementById('key-dialog').open", "true").await;
    page.look("key", &[LIGHT]).await;
    page.evaluate(&type_key("wrong")).await;
    let why = "The proxy does not know that key. Its digest has to stand in admin.key_sha256.";
    page.until_text("#key-why", why).await;
    assert_eq!(stage.control().counts().token_requests, renewals, "nothing has been done");
    page.evaluate(&type_key(KEY)).await;
    page.until(
        &format!("{card}.querySelector('[role=status]').innerText"),
        "Renewed: generation 1.",
    )
    .await;
    assert_eq!(stage.control().counts().token_requests, renewals + 1);

    // The next one asks for no key.
    page.evaluate(&click("Remove")).await;
    page.until_text("#sure-title", "Remove bot?").await;
    page.evaluate("document.querySelector('#sure-dialog button[value=no]').click()").await;
    page.until("document.getElementById('sure-dialog').open", "false").await;
    page.evaluate(&click("Remove")).await;
    page.until("document.getElementById('sure-dialog').open", "true").await;
    page.evaluate("document.querySelector('#sure-dialog button.main').click()").await;
    page.until("document.querySelectorAll('.identity').length", "1").await;
    assert_eq!(
        page.evaluate(
            "JSON.stringify([localStorage.length, sessionStorage.length, document.cookie])"
        )
        .await,
        "[0,0,\"\"]"
    );
    page.evaluate("document.querySelector('footer button').click()").await;
    page.until_text("footer button", "not shown").await;
    stage.finish().await;
}

#[tokio::test]
async fn the_page_comes_with_a_policy_and_other_pages_do_not_get_at_it() {
    let stage = Stage::new("", SALES).await;
    let url = format!("{}/", stage.admin());
    let answer = stage.client.get(&url).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    for part in
        ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "form-action 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    let renew = format!("{url}identities/sales/renew");
    let own = stage.admin();
    for (origin, site, status) in [
        (&*own, "same-origin", 200),
        ("http://127.0.0.1:1", "same-site", 403),
        ("https://evil.test", "cross-site", 403),
    ] {
        let request = stage.client.post(&renew).bearer_auth(KEY);
        let request = request.header("origin", origin).header("sec-fetch-site", site);
        assert_eq!(request.send().await.unwrap().status(), status, "{origin}");
    }
    let rebound = stage.client.get(format!("{url}state")).header("host", "evil.test");
    assert_eq!(rebound.send().await.unwrap().status(), 421);
    if has_browser() {
        let site = Browser::open("about:blank");
        let mut page = site.page().await;
        let attempt = format!(
            "fetch('{url}state').then(it => 'read', () => 'failed').then(async first => first + ' ' + \
             await fetch('{renew}', {{ method: 'POST', mode: 'no-cors' }}).then(it => it.type, () => 'failed'))"
        );
        let before = stage.control().counts().token_requests;
        assert_eq!(page.awaited(&attempt).await, "failed opaque");
        assert_eq!(stage.control().counts().token_requests, before);
    }
    stage.finish().await;
}
