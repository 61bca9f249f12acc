//! Calls of the OAuth endpoints: the shell around [`facade`](super::facade).
//!
//! It reads a bounded form, finds out who logs in and as whom, and answers. RingCentral is not asked
//! and no token of its has to be there. Only the store may be: once for the key that tokens are
//! sealed with, and for an identity that was added while the proxy ran.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::access::Endpoint;
use super::error::ProxyError;
use super::facade::pass::{Keys, Kind, Pass};
use super::facade::{Facade, Fault, Form, Grant, Holder, is_ours};
use super::headers::Found;
use super::peers::Caller;
use super::record::Record;
use super::selection::{Asked, Denied, Hint};
use super::{Outbound, Proxy};
use crate::settings::{ClientSettings, IdentitySettings};
use crate::telemetry::chain;
use crate::token::identities::IdentityId;

/// More than any login takes.
const MAX_FORM: usize = 64 * 1024;

/// What the key of the facade is called in the store.
const KEY_NAME: &str = "facade";

/// A call of an OAuth endpoint that is answered here.
pub(super) struct Call {
    pub(super) endpoint: Endpoint,
    pub(super) head: Parts,
    pub(super) content: Incoming,
    pub(super) found: Found,
    pub(super) fixed: Option<IdentityId>,
    /// Whose the connection is.
    pub(super) by: Caller,
    /// The identity that its path has named.
    pub(super) path: Option<Box<str>>,
}

impl Proxy {
    /// Answers it.
    pub(super) async fn answer_call(&self, call: Call, record: &mut Record) -> Response<Outbound> {
        record.calls(call.endpoint);
        let answered = match call.endpoint {
            Endpoint::Token => self.log_in(call, record).await,
            Endpoint::Introspect => self.introspect(call).await,
            Endpoint::Authorize => self.authorize(&call).await,
            Endpoint::WidgetLogin => self.widget_login(&call),
            Endpoint::WidgetLogout => self.widget_logout(call).await,
            Endpoint::Revoke => {
                // Whatever was said: read, so that the connection can be kept.
                let _ = self.read_form(call.content).await;
                Ok(Facade::revoked())
            }
            Endpoint::DeviceAuthorization => unreachable!("it is not answered here"),
        };
        let answered = answered.unwrap_or_else(|error| {
            record.failed(&error);
            error.into_oauth_response()
        });
        answered.map(Outbound::local)
    }

    /// The facade's token that a request shows, if it does and the key is known.
    pub(super) fn pass(&self, head: &Parts, found: &Found) -> Result<Option<Pass>, ProxyError> {
        let facade = &self.admission.facade;
        let Some((token, keys)) = facade.shown(&head.headers, found).zip(facade.keys()) else {
            return Ok(None);
        };
        match keys.read(Kind::Access, token) {
            Some(pass) if pass.expires_at > self.timers.now() => Ok(Some(pass)),
            Some(_) => Err(ProxyError::Denied(Denied::PassExpired)),
            None => Err(ProxyError::Denied(Denied::PassVoid)),
        }
    }

    /// What tokens are sealed with, from the store if need be.
    pub(super) async fn facade_keys(&self) -> Result<&Keys, ProxyError> {
        let facade = &self.admission.facade;
        if let Some(keys) = facade.keys() {
            return Ok(keys);
        }
        let found = self.identities.shared_key(KEY_NAME);
        match self.timers.within(self.limits.token_wait, found).await {
            Ok(Ok(key)) => Ok(facade.set_key(key)),
            Ok(Err(error)) => {
                tracing::warn!(cause = chain(&error), "no key for the facade's tokens");
                Err(ProxyError::NoFacadeKey)
            }
            Err(_) => Err(ProxyError::NoFacadeKey),
        }
    }

    async fn log_in(
        &self,
        Call { head, content, found, fixed, by, path, .. }: Call,
        record: &mut Record,
    ) -> Result<Response<Bytes>, ProxyError> {
        let form = self.read_post(&head.method, content).await?;
        let grant = form.grant().map_err(ProxyError::Login)?;
        let client_id = form.client_id(&head.headers).map_err(ProxyError::Login)?;
        let client = self.client(&head, &form, client_id.as_deref(), by)?;
        record.called_by(client);
        let keys = self.facade_keys().await?;
        let now = self.timers.now();
        let bought = match &grant {
            Grant::Refresh(token) => self.refreshed(token, client, keys)?,
            Grant::Code(redeemed) if client.is_some() || is_ours(redeemed.code.as_bytes()) => {
                let client_id = client_id.as_deref().unwrap_or_default();
                let redeem = self.admission.facade.redeem(redeemed, client_id, keys, now);
                redeem.map_err(ProxyError::Login)?;
                None
            }
            Grant::Code(_) | Grant::Fresh => None,
        };
        let wished = match &client_id {
            Some(name) if bought.is_none() && self.is_identity(name).await => Some(name),
            _ => None,
        };
        let hint = match (&bought, wished) {
            (Some(identity), _) if client.is_some() => Hint::Sealed(identity),
            (Some(identity), _) => Hint::Wished(identity),
            (None, Some(name)) => Hint::Wished(name),
            (None, None) => Hint::None,
        };
        let fixed = fixed.map(|id| self.identities.keeper(id).name());
        let path = path.as_deref();
        let asked = Asked { fixed, path, uri: &head.uri, fields: &head.headers, found: &found };
        let chosen = self.admission.selection.choose_for(client, asked, hint);
        let whose = self.whose(chosen.map_err(ProxyError::Denied)?)?;
        let id = self.known(&whose, record).await?;
        let keeper = self.identities.keeper(id);
        record.identified(id, keeper.name());
        let holder = Holder { client: client.map(|it| &*it.name), identity: keeper.name() };
        Ok(self.admission.facade.issue(holder, keeper.particulars(), keys, now))
    }

    async fn introspect(&self, call: Call) -> Result<Response<Bytes>, ProxyError> {
        let form = self.read_post(&call.head.method, call.content).await?;
        let client_id = form.client_id(&call.head.headers).map_err(ProxyError::Login)?;
        let client = self.client(&call.head, &form, client_id.as_deref(), call.by)?;
        let token = form.get("token").map_err(ProxyError::Login)?;
        let token = token.ok_or(ProxyError::Login(Fault::Request("token is missing")))?;
        let (keys, now) = (self.facade_keys().await?, self.timers.now());
        Ok(Facade::introspect(token, client.map(|it| &*it.name), keys, now))
    }

    async fn authorize(&self, call: &Call) -> Result<Response<Bytes>, ProxyError> {
        if !matches!(call.head.method, Method::GET | Method::HEAD) {
            return Err(ProxyError::Login(Fault::Method("GET, HEAD")));
        }
        let (keys, now) = (self.facade_keys().await?, self.timers.now());
        let query = call.head.uri.query().unwrap_or_default();
        let to = self.admission.facade.authorize(query, keys, now).map_err(ProxyError::Login)?;
        Ok(Facade::redirect(&to))
    }

    fn widget_login(&self, call: &Call) -> Result<Response<Bytes>, ProxyError> {
        if !matches!(call.head.method, Method::GET | Method::HEAD) {
            return Err(ProxyError::Login(Fault::Method("GET, HEAD")));
        }
        let query = call.head.uri.query().unwrap_or_default();
        let to = self.admission.facade.welcome(query).map_err(ProxyError::Login)?;
        Ok(Facade::redirect(&to))
    }

    async fn widget_logout(&self, call: Call) -> Result<Response<Bytes>, ProxyError> {
        if !matches!(call.head.method, Method::GET | Method::POST) {
            return Err(ProxyError::Login(Fault::Method("GET, POST")));
        }
        // Whatever was said: read, so that the connection can be kept.
        let _ = self.read_form(call.content).await;
        Ok(Facade::farewell())
    }

    /// Who logs in; none where anybody may.
    fn client(
        &self,
        head: &Parts,
        form: &Form,
        client_id: Option<&str>,
        by: Caller,
    ) -> Result<Option<&ClientSettings>, ProxyError> {
        let secret = form.get("client_secret").map_err(ProxyError::Login)?;
        let selection = &self.admission.selection;
        selection
            .log_in(&head.headers, client_id, secret, by)
            .ok_or(ProxyError::Login(Fault::Client))
    }

    /// The identity that a refresh token is for. Where nobody shows a key, any text buys a new pair:
    /// tap-ringcentral begins with whatever stands in its configuration.
    fn refreshed(
        &self,
        token: &str,
        client: Option<&ClientSettings>,
        keys: &Keys,
    ) -> Result<Option<String>, ProxyError> {
        let pass = keys.read(Kind::Refresh, token.as_bytes());
        let pass = pass.filter(|pass| pass.expires_at > self.timers.now());
        let Some(client) = client else {
            let still_there = |pass: &Pass| self.identities.find(&pass.identity).is_some();
            return Ok(pass.filter(still_there).map(|pass| pass.identity));
        };
        let pass = pass.filter(|pass| pass.client.as_deref() == Some(&client.name));
        let pass = pass.filter(|pass| client.identities.includes(&pass.identity));
        let pass = pass.ok_or(ProxyError::Login(Fault::Grant(NO_REFRESH)))?;
        Ok(Some(pass.identity))
    }

    /// Whether a client id names an identity. The store is asked only where there are several.
    async fn is_identity(&self, name: &str) -> bool {
        if self.identities.find(name).is_some() {
            return true;
        }
        if self.identities.only().is_some() || !IdentitySettings::is_name(name) {
            return false;
        }
        let found = self.timers.within(self.limits.token_wait, self.identities.discover(name));
        matches!(found.await, Ok(Ok(Some(_))))
    }

    async fn read_post(&self, method: &Method, content: Incoming) -> Result<Form, ProxyError> {
        if *method != Method::POST {
            return Err(ProxyError::Login(Fault::Method("POST")));
        }
        self.read_form(content).await
    }

    async fn read_form(&self, content: Incoming) -> Result<Form, ProxyError> {
        let read = Limited::new(content, MAX_FORM).collect();
        match self.timers.within(self.limits.token_wait, read).await {
            Ok(Ok(content)) => Ok(Form::parse(&content.to_bytes())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(ProxyError::Login(Fault::Request("the content is longer than 64 KiB")))
            }
            Ok(Err(_)) => Err(ProxyError::ClientBroke),
            Err(_) => Err(ProxyError::SlowClient),
        }
    }
}

const NO_REFRESH: &str = "the refresh token is not this client's, or not any more: log in anew";
