//! The life of a request in the sandbox, and what is noted about it.
//!
//! Arrive (note, count, look up a fault) → do what the fault says, else serve → finish (status,
//! `RCRequestId`) → the note goes into the log when the visit is dropped, however that came about.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONNECTION, HOST};
use http::{Method, Request, StatusCode, request};
use hyper::body::Incoming;

use super::api::{self, Call, Hosts, request_id};
use super::control::Control;
use super::endpoints;
use super::examples::{Catalog, catalog};
use super::fault::{FaultKind, Place};
use super::head::{Said, bearer, effective_method, fields, said_of, target, text, unauthorized};
use super::listen::Link;
use super::oauth::Form;
use super::prepared::Prepared;
use super::reply::{BodyError, Reply, refusal, with};
use super::routes::Match;
use super::rules::Rules;
use super::session::Caller;
use super::state::{Arrival, Counted};
use super::upload::{self, Upload};
use super::{breakage, mirror, websocket};

/// What all requests share.
pub(super) struct Site {
    pub(super) control: Control,
    pub(super) catalog: &'static Catalog,
    pub(super) prepared: Prepared,
    pub(super) public_base: Option<String>,
}

impl Site {
    pub(super) fn new(control: Control, public_base: Option<String>) -> Self {
        Self { control, catalog: catalog(), prepared: Prepared::default(), public_base }
    }
}

/// A request from its arrival to its end.
pub(super) struct Visit {
    pub(super) site: Arc<Site>,
    pub(super) link: Arc<Link>,
    rules: Arc<Rules>,
    arrival: Arrival,
    place: Place,
    api: bool,
}

/// A request that was let in.
struct Admitted {
    caller: Caller,
    counted: Option<Counted>,
}

/// Answers a request.
pub(super) async fn visit(site: Arc<Site>, link: Arc<Link>, request: Request<Incoming>) -> Reply {
    let (mut visit, fault) = Visit::arrive(site, link, &request);
    if request.uri().path() == MIRROR && fault.is_none() {
        return visit.mirror(request);
    }
    let reply = match fault {
        None => visit.serve(request).await,
        Some(kind) => visit.suffer(kind, request).await,
    };
    visit.finish(reply)
}

impl Visit {
    fn arrive(
        site: Arc<Site>,
        link: Arc<Link>,
        request: &Request<Incoming>,
    ) -> (Self, Option<FaultKind>) {
        let target = target(request);
        let path = request.uri().path();
        let place = if path == TOKEN { Place::Token } else { Place::Api };
        let api = !path.starts_with("/restapi/oauth/") || path == WSTOKEN;
        let (at, number, rules, fault) = site.control.change(|state, now| {
            state.serial += 1;
            state.counts.requests += 1;
            state.counts.in_flight += 1;
            state.counts.token_requests += u64::from(place == Place::Token);
            state.counts.api_requests += u64::from(api);
            let fault = state.faults.take(place, &target);
            state.counts.faults += u64::from(fault.is_some());
            (now, state.serial, state.rules.clone(), fault)
        });
        let arrival = Arrival {
            number,
            at_unix_millis: at.unix_millis(),
            connection: link.number,
            method: request.method().to_string(),
            target,
            version: format!("{:?}", request.version()),
            fields: if rules.log_capacity == 0 { Vec::new() } else { fields(request.headers()) },
            body_sha256: upload::EMPTY.to_owned(),
            request_id: request_id(link.number, number),
            ..Arrival::default()
        };
        (Self { site, link, rules, arrival, place, api }, fault)
    }

    /// Processes the request as RingCentral would.
    async fn serve(&mut self, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        match parts.uri.path() {
            "/ws" => websocket::open(self, parts),
            WSTOKEN => self.api(parts, body).await,
            path if path.starts_with("/restapi/oauth/") => match self.read(body).await {
                Ok(upload) => self.oauth(&parts, &upload),
                Err(_) => broken_off(),
            },
            _ => self.api(parts, body).await,
        }
    }

    fn oauth(&mut self, parts: &request::Parts, upload: &Upload) -> Reply {
        let authorization = text(&parts.headers, AUTHORIZATION.as_str());
        let post = parts.method == Method::POST;
        let path = parts.uri.path();
        let content = Form::parse(&upload.head);
        let query = Form::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let either = || if post && upload.bytes > 0 { &content } else { &query };
        let base = self.base(parts);
        let control = self.site.control.clone();
        match path {
            TOKEN if post => self.token(authorization, &content),
            "/restapi/oauth/revoke" if post => {
                control.change(|state, now| endpoints::revoke(state, now, authorization, either()))
            }
            "/restapi/oauth/authorize" => {
                control.change(|state, now| endpoints::authorize(state, now, either()))
            }
            "/restapi/oauth/device_authorization" if post => control.change(|state, now| {
                endpoints::device_authorization(state, now, authorization, &content, &base)
            }),
            "/restapi/oauth/device" => {
                control.change(|state, _| endpoints::approve_device(state, either()))
            }
            path => api::answer(
                &self.call(parts, upload, &Hosts::new(&base, &self.rules), "", path, 0),
                Match::OtherMethods,
            ),
        }
    }

    fn token(&mut self, authorization: Option<&str>, form: &Form) -> Reply {
        let control = self.site.control.clone();
        let (reply, granted) =
            control.change(|state, now| endpoints::token(state, now, authorization, form));
        self.arrival.session = granted.as_ref().map(|granted| granted.session);
        self.arrival.token_serial = granted.as_ref().map(|granted| granted.serial);
        self.arrival.user = granted.as_ref().map(|granted| granted.user);
        reply
    }

    async fn api(&mut self, parts: request::Parts, body: Incoming) -> Reply {
        let query = parts.uri.query().unwrap_or_default();
        let path = parts.uri.path();
        let method = effective_method(&parts.method, &parts.headers, query);
        let found = self.site.catalog.routes.find(&method, path);
        let admitted = self.admit(&parts, query, found);
        let admitted = match admitted {
            Err(reply) if self.rules.early_refusal => return *reply,
            admitted => admitted,
        };
        let Ok(upload) = self.read(body).await else { return broken_off() };
        let Admitted { caller, counted } = match admitted {
            Ok(admitted) => admitted,
            Err(reply) => return *reply,
        };
        let base = self.base(&parts);
        let reply = if path == WSTOKEN && method == "POST" {
            self.site.control.change(|state, now| endpoints::wstoken(state, now, &base))
        } else {
            let hosts = Hosts::new(&base, &self.rules);
            let call = self.call(&parts, &upload, &hosts, &method, path, caller.user);
            self.site.prepared.answer(&call, found, &self.rules)
        };
        self.note_sent(found, &reply);
        counted.iter().fold(reply, endpoints::limit_fields)
    }

    /// Lets a request in if its token is good and its group has room.
    fn admit(
        &mut self,
        parts: &request::Parts,
        query: &str,
        found: Match,
    ) -> Result<Admitted, Box<Reply>> {
        let token = bearer(&parts.headers, query).map_err(|said| self.refuse(said))?;
        let group = match found {
            Match::Route(index) => self.site.catalog.routes.get(index).group,
            Match::OtherMethods | Match::Nothing => "NoThrottling",
        };
        let control = self.site.control.clone();
        let (caller, counted) = control.change(|state, now| {
            let rules = state.rules.clone();
            let caller = state.sessions.authenticate(&token, &rules, now);
            let caller = caller.map_err(|lost| self.refuse(said_of(lost)))?;
            let counted = state.count_api(caller.user, &caller.application, group, now);
            Ok::<_, Box<Reply>>((caller, counted))
        })?;
        self.arrival.session = Some(caller.session);
        self.arrival.token_serial = Some(caller.serial);
        self.arrival.user = Some(caller.user);
        match counted {
            Some(counted) if counted.verdict.is_refusal() => {
                Err(Box::new(endpoints::over_limit(&counted)))
            }
            counted => Ok(Admitted { caller, counted }),
        }
    }

    fn refuse(&mut self, (top, code, message): Said) -> Box<Reply> {
        self.arrival.refused = Some(code);
        Box::new(unauthorized(top, code, message))
    }

    /// Does what the fault says.
    async fn suffer(&mut self, kind: FaultKind, request: Request<Incoming>) -> Reply {
        match kind {
            FaultKind::Status { code, body, retry_after } => {
                let _ = self.read(request.into_body()).await;
                breakage::status(code, body, retry_after)
            }
            FaultKind::Unauthorized { code } => {
                let _ = self.read(request.into_body()).await;
                let code = code.unwrap_or_else(|| "OAU-129".into());
                unauthorized("TokenInvalid", &code, "Access token corrupted")
            }
            FaultKind::Hang => std::future::pending().await,
            FaultKind::Delay { secs } => {
                let by = std::time::Duration::try_from_secs_f64(secs).unwrap_or_default();
                self.site.control.clock().sleep(by).await;
                self.serve(request).await
            }
            FaultKind::DropBefore => self.link.sever().await,
            FaultKind::DropAfter => {
                self.serve(request).await;
                self.link.sever().await
            }
            FaultKind::Garbage(garbage) => breakage::garbage(self.serve(request).await, garbage),
            FaultKind::Truncate { after } => breakage::truncate(self.serve(request).await, after),
            FaultKind::CloseAfter => {
                breakage::close_after(self.serve(request).await, self.link.clone())
            }
            FaultKind::AnnounceClose => with(self.serve(request).await, CONNECTION, "close"),
        }
    }

    /// Sends the content back while it arrives; the visit ends with the stream.
    fn mirror(mut self, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default();
        match self.admit(&parts, query, Match::Nothing) {
            Err(reply) => self.finish(*reply),
            Ok(_) => mirror::reply(self, &parts.headers, body),
        }
    }

    async fn read(&mut self, body: Incoming) -> Result<Upload, BodyError> {
        let upload = upload::read(body).await?;
        self.uploaded(&upload);
        Ok(upload)
    }

    /// Notes what the content was.
    pub(super) fn uploaded(&mut self, upload: &Upload) {
        self.arrival.body_bytes = upload.bytes;
        self.arrival.body_sha256.clone_from(&upload.sha256);
        self.arrival.trailers = fields(&upload.trailers);
    }

    /// Notes the answer and gives it its identifier.
    pub(super) fn answered(&mut self, reply: Reply) -> Reply {
        self.arrival.status = Some(reply.status().as_u16());
        with(reply, "rcrequestid", &self.arrival.request_id)
    }

    fn finish(mut self, reply: Reply) -> Reply {
        let head = self.arrival.method == "HEAD";
        let reply = self.answered(reply);
        let reply = if head { breakage::head_only(reply) } else { reply };
        let served = self.link.served();
        match self.rules.requests_per_connection {
            Some(most) if served >= most => breakage::close_after(reply, self.link.clone()),
            _ => reply,
        }
    }

    fn note_sent(&self, found: Match, reply: &Reply) {
        let Match::Route(index) = found else { return };
        let operation = self.site.catalog.routes.get(index).operation;
        if super::send::Kind::of(operation).is_some() && reply.status().is_success() {
            self.site.control.change(|state, _| state.counts.messages_sent += 1);
        }
    }

    fn call<'a>(
        &'a self,
        parts: &'a request::Parts,
        upload: &'a Upload,
        hosts: &'a Hosts,
        method: &'a str,
        path: &'a str,
        user: u64,
    ) -> Call<'a> {
        Call {
            catalog: self.site.catalog,
            rules: &self.rules,
            method: if method.is_empty() { parts.method.as_str() } else { method },
            sent_method: parts.method.as_str(),
            path,
            query: parts.uri.query().unwrap_or_default(),
            fields: &parts.headers,
            upload,
            hosts,
            user,
            now: crate::clock::Timestamp::from_unix_millis(self.arrival.at_unix_millis),
            serial: self.arrival.number,
        }
    }

    /// Scheme and authority as the caller reached us.
    fn base(&self, parts: &request::Parts) -> String {
        if let Some(base) = &self.site.public_base {
            return base.trim_end_matches('/').to_owned();
        }
        let scheme = if self.link.secure { "https" } else { "http" };
        let authority = parts.uri.authority().map(http::uri::Authority::as_str);
        let host = authority.or_else(|| text(&parts.headers, HOST.as_str())).unwrap_or("localhost");
        format!("{scheme}://{host}")
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let (api, place, status) = (self.api, self.place, self.arrival.status);
        let arrival = std::mem::take(&mut self.arrival);
        let logged = self.rules.log_capacity > 0;
        self.site.control.change(|state, _| {
            state.counts.in_flight -= 1;
            state.counts.api_401 += u64::from(api && status == Some(401));
            let limited = api && place == Place::Api && status == Some(429);
            state.counts.api_429 += u64::from(limited);
            if logged {
                state.record(arrival);
            }
        });
    }
}

/// The answer to a content that broke off; hardly anybody is left to read it.
fn broken_off() -> Reply {
    refusal(StatusCode::BAD_REQUEST, "CMN-101", "The content broke off")
}

const TOKEN: &str = "/restapi/oauth/token";
const WSTOKEN: &str = "/restapi/oauth/wstoken";
const MIRROR: &str = "/restapi/v1.0/sandbox/mirror";
