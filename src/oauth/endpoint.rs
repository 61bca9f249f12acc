//! The shell around [`grant`](super::grant) and [`response`](super::response): one HTTP request
//! to the token endpoint, bounded in time and size.
//!
//! Every request has a connection of its own: there is one an hour, and a kept connection that the
//! server closes meanwhile would only leave it open whether a refresh token was used up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use http_body::{Body, Frame, SizeHint};

use super::TokenError;
use super::device::{self, DeviceCodes};
use super::grant::{Grant, device_authorization, form, revocation};
use super::response::{Answer, MAX_ANSWER_BYTES, read};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::settings::{ApplicationSettings, IdentitySettings};
use crate::store::Vigil;
use crate::token::TokenSet;

#[cfg(test)]
pub(crate) mod scripted;

/// RingCentral's token and revocation endpoints, as a client sees them.
#[derive(Clone, Debug)]
pub struct TokenEndpoint(Transport);

#[derive(Clone, Debug)]
enum Transport {
    Http(reqwest::Client),
    #[cfg(test)]
    Scripted(std::sync::Arc<scripted::Script>),
}

impl TokenEndpoint {
    /// Sends through `http`, which is to come from [`http_client`].
    pub const fn new(http: reqwest::Client) -> Self {
        Self(Transport::Http(http))
    }

    /// Asks for a token set, if the lease still keeps others out when the connection is there: by
    /// then a process that stood still may not be the only one any more. The set's deadlines count
    /// from the moment the request was sent, so that the time it travelled is never lived through
    /// twice.
    pub async fn request(
        &self,
        identity: &IdentitySettings,
        grant: Grant<'_>,
        vigil: Vigil,
        clock: &Clock,
    ) -> Result<TokenSet, TokenError> {
        let application = &identity.application;
        let sent_at = clock.now();
        let (status, fields, content) = self
            .post(&application.token_url, application, form(grant, identity), Some(vigil))
            .await?;
        let at = if status == StatusCode::OK { sent_at } else { clock.now() };
        read(&Answer { status, fields: &fields, content: &content }, at)
    }

    /// Ends the whole session that `token` belongs to (RFC 7009). A failure is to be ignored, says
    /// RingCentral's guide, and never to be repeated.
    pub async fn revoke(
        &self,
        application: &ApplicationSettings,
        token: &str,
    ) -> Result<(), TokenError> {
        let form = revocation(token, application);
        let (status, ..) = self.post(&application.revoke_url, application, form, None).await?;
        match status {
            status if status.is_success() => Ok(()),
            status => Err(TokenError::Unexpected { status, code: "revocation".into() }),
        }
    }

    /// Begins a login on a device (RFC 8628 §3.1).
    pub async fn authorize_device(
        &self,
        identity: &IdentitySettings,
        clock: &Clock,
    ) -> Result<DeviceCodes, TokenError> {
        let application = &identity.application;
        let sent_at = clock.now();
        let form = device_authorization(identity);
        let url = &application.device_authorization_url;
        let (status, fields, content) = self.post(url, application, form, None).await?;
        let at = if status == StatusCode::OK { sent_at } else { clock.now() };
        device::read(&Answer { status, fields: &fields, content: &content }, at)
    }

    async fn post(
        &self,
        url: &Uri,
        application: &ApplicationSettings,
        form: Secret,
        vigil: Option<Vigil>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), TokenError> {
        match &self.0 {
            Transport::Http(http) => {
                let lapsed = Arc::new(AtomicBool::new(false));
                let content = Content { form: Some(form), vigil, lapsed: Arc::clone(&lapsed) };
                let answer = post(http, url, application, content).await;
                if lapsed.load(Ordering::Relaxed) { Err(TokenError::LeaseHeld) } else { answer }
            }
            #[cfg(test)]
            Transport::Scripted(_) if vigil.is_some_and(|vigil| !vigil.is_live()) => {
                Err(TokenError::LeaseHeld)
            }
            #[cfg(test)]
            Transport::Scripted(script) => script.answer(url.path(), form.expose()).await,
        }
    }
}

/// A request's content, which is asked for when the connection is there. It is withheld if the
/// lease has lapsed by then; without it the request is none.
struct Content {
    form: Option<Secret>,
    vigil: Option<Vigil>,
    lapsed: Arc<AtomicBool>,
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.vigil.take().is_some_and(|vigil| !vigil.is_live()) {
            self.lapsed.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let form = self.form.take();
        let frame = form.map(|form| Frame::data(Bytes::copy_from_slice(form.expose().as_bytes())));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.form.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.form.as_ref().map_or(0, |form| form.expose().len());
        SizeHint::with_exact(left as u64)
    }
}

async fn post(
    http: &reqwest::Client,
    url: &Uri,
    application: &ApplicationSettings,
    content: Content,
) -> Result<(StatusCode, HeaderMap, Bytes), TokenError> {
    let mut request = http
        .post(url.to_string())
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::ACCEPT, "application/json")
        .body(reqwest::Body::wrap(content));
    if let Some(value) = basic(application) {
        request = request.header(header::AUTHORIZATION, value);
    }
    let mut response = request.send().await.map_err(failed)?;
    let (status, fields) = (response.status(), std::mem::take(response.headers_mut()));
    let mut content = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if content.len() + chunk.len() > MAX_ANSWER_BYTES {
            // The status still tells whether to wait, to stop or to complain; the content, nothing.
            content.clear();
            break;
        }
        content.extend_from_slice(&chunk);
    }
    Ok((status, fields, content.freeze()))
}

/// `Basic` with id and secret each form-encoded first, as RFC 6749 §2.3.1 has it.
fn basic(application: &ApplicationSettings) -> Option<HeaderValue> {
    let secret = application.client_secret.as_ref()?;
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair =
        Secret::new(format!("{}:{}", encode(&application.client_id), encode(secret.expose())));
    let text = Secret::new(format!("Basic {}", BASE64_STANDARD.encode(pair.expose())));
    let mut value = HeaderValue::from_str(text.expose()).expect("base64 is visible ASCII");
    value.set_sensitive(true);
    Some(value)
}

/// Whether the request can have arrived decides what a failure means.
fn failed(error: reqwest::Error) -> TokenError {
    let unsent = error.is_connect() || error.is_builder();
    let error = io::Error::other(error.without_url());
    if unsent { TokenError::Unreachable(error) } else { TokenError::NoAnswer(error) }
}

/// The client for [`TokenEndpoint::new`]: no redirects, no proxy but `proxy`, no retries, nothing
/// connected yet.
pub fn http_client(
    mut tls: rustls::ClientConfig,
    proxy: Option<&Uri>,
    timeout: Duration,
) -> Result<reqwest::Client, ClientError> {
    // This client knows HTTP/1.1 only; an offer of h2 would be taken up.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(timeout)
        .timeout(timeout)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("ringbearer/", env!("CARGO_PKG_VERSION")))
        .no_proxy();
    let builder = match proxy {
        Some(proxy) => builder.proxy(
            reqwest::Proxy::all(proxy.to_string())
                .map_err(|error| ClientError::Proxy(error.without_url()))?,
        ),
        None => builder,
    };
    builder.build().map_err(ClientError::Build)
}

/// Why there is no HTTP client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The proxy's URI does not do.
    #[error("upstream.http_proxy is not usable: write it as http://host:port")]
    Proxy(#[source] reqwest::Error),
    /// The client could not be made.
    #[error("the HTTP client for the token endpoint cannot be set up")]
    Build(#[source] reqwest::Error),
}
