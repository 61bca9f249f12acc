//! A sandbox, a clock that stands still, and a client that counts on both.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response};
use ringbearer::clock::{Clock, Timestamp};
use ringbearer::sandbox::{Control, Rules, Sandbox, SandboxOptions};
use serde_json::Value;

/// When every test starts.
pub(crate) const START: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
/// The resource that answers with what arrived.
pub(crate) const ECHO: &str = "/restapi/v1.0/sandbox/echo";

/// A running sandbox and someone to talk to it.
pub(crate) struct Stage {
    pub(crate) sandbox: Sandbox,
    pub(crate) client: Client,
    pub(crate) clock: Clock,
}

/// A status and a JSON content.
pub(crate) type Answer = (u16, Value);

impl Stage {
    /// Without any limit on requests.
    pub(crate) async fn unlimited() -> Self {
        Self::with(Rules::unlimited()).await
    }

    pub(crate) async fn with(rules: Rules) -> Self {
        let clock = Clock::manual(START);
        let options = SandboxOptions {
            clock: clock.clone(),
            tls_listen: Some(([127, 0, 0, 1], 0).into()),
            control_listen: Some(([127, 0, 0, 1], 0).into()),
            rules,
            ..SandboxOptions::default()
        };
        let sandbox = Sandbox::start(options).await.unwrap();
        Self { sandbox, client: client(), clock }
    }

    pub(crate) fn control(&self) -> &Control {
        self.sandbox.control()
    }

    pub(crate) fn pass(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    pub(crate) fn request(&self, method: Method, target: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{target}", self.sandbox.url()))
    }

    pub(crate) fn get(&self, target: &str, token: &str) -> RequestBuilder {
        self.request(Method::GET, target).bearer_auth(token)
    }

    pub(crate) fn post(&self, target: &str, token: &str) -> RequestBuilder {
        self.request(Method::POST, target).bearer_auth(token)
    }

    /// A token request of the demo application.
    pub(crate) async fn token(&self, form: &[(&str, &str)]) -> Answer {
        let request = self.request(Method::POST, "/restapi/oauth/token");
        let request = request.basic_auth("sandbox-client", Some("sandbox-secret"));
        answer(request.form(form).send().await.unwrap()).await
    }

    /// A new session of user `user`.
    pub(crate) async fn login(&self, user: u64) -> Value {
        let jwt = format!("sandbox-jwt-{user}");
        let (status, body) = self.token(&[("grant_type", JWT), ("assertion", &jwt)]).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub(crate) async fn refresh(&self, pair: &Value) -> Answer {
        let token = text(pair, "refresh_token");
        self.token(&[("grant_type", "refresh_token"), ("refresh_token", &token)]).await
    }

    /// The error code that the access token of `pair` meets, or 200.
    pub(crate) async fn use_access(&self, pair: &Value) -> String {
        let token = text(pair, "access_token");
        let (status, body) = answer(self.get(ECHO, &token).send().await.unwrap()).await;
        let code = body["errors"][0]["errorCode"].as_str().map(str::to_owned);
        code.unwrap_or_else(|| status.to_string())
    }
}

/// A client that follows no redirects and knows no proxy.
pub(crate) fn client() -> Client {
    // The second of two tests that install it is told so, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    builder.build().unwrap()
}

pub(crate) async fn answer(response: Response) -> Answer {
    let status = response.status().as_u16();
    let content = response.text().await.unwrap();
    (status, serde_json::from_str(&content).unwrap_or(Value::String(content)))
}

pub(crate) fn text(body: &Value, member: &str) -> String {
    body[member].as_str().unwrap_or_else(|| panic!("{member} is text in {body}")).to_owned()
}

pub(crate) const JWT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
