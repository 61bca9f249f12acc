//! What is asked, and the answers: one function per resource.
//!
//! A GET tells what is known even while the store is away; a change says what came of it. No answer
//! and no log line holds a token or a JWT.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::watch;
use tracing::info;

use super::access::Gate;
use super::content::{self, NewIdentity, answer, json as json_answer};
use super::error::AdminError;
use super::figures;
use super::health::{Health, Seen};
use super::observer::{self, Observer};
use super::page;
use super::readiness::{Intake, Member, Report, judge, serves};
use super::reload::Superior;
use super::resource::Resource;
use super::{Instruments, Phase};
use crate::audit::{self, Decision};
use crate::clock::Clock;
use crate::metrics::Page;
use crate::settings::IdentitySettings;
use crate::store::Enrolment;
use crate::telemetry::chain;
use crate::token::Generation;
use crate::token::identities::{EnrolError, Identities, IdentityId};
use crate::token::keeper::Keeper;
use crate::token::roster::{self, Known, Line, Moment, Origin, Range};

/// How long a change waits for what comes of it. A turn in the budget may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the store may take.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// Lines in an answer unless more are asked for, and at most.
const LINES: usize = 100;
const MOST_LINES: usize = 1000;

/// Everything an answer is made from.
pub(super) struct Desk {
    pub(super) identities: Arc<Identities>,
    pub(super) instruments: Instruments,
    configured: Vec<Arc<IdentitySettings>>,
    pub(super) health: Health,
    pub(super) observer: Observer,
    pub(super) gate: Gate,
    pub(super) clock: Clock,
    phase: watch::Receiver<Phase>,
    superior: Superior,
}

type Answer = Result<Response<Full<Bytes>>, AdminError>;

impl Desk {
    pub(super) fn new(
        identities: Arc<Identities>,
        instruments: Instruments,
        gate: Gate,
        clock: Clock,
        phase: watch::Receiver<Phase>,
        superior: Superior,
    ) -> Self {
        let configured = identities.configured().map(|(_, keeper)| Arc::clone(keeper.settings()));
        let configured = configured.collect();
        let health = Health::new(Arc::clone(&identities), clock.clone());
        let observer = Observer::new(&instruments, &clock);
        Self { identities, instruments, configured, health, observer, gate, clock, phase, superior }
    }

    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Looks at the store and at everything else in the background. It never returns.
    pub(super) async fn watch(&self) {
        tokio::join!(self.health.watch(), self.observe());
    }

    async fn observe(&self) {
        loop {
            self.observer.look(
                &self.identities,
                &self.instruments,
                &self.health.seen(),
                &self.clock,
            );
            self.clock.sleep(observer::EVERY).await;
        }
    }

    /// Lets something else end first, descriptors mostly.
    pub(super) async fn pause(&self) {
        self.clock.sleep(Duration::from_millis(100)).await;
    }

    /// The answer to a request that arrived from `peer` at `local`.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        local: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> Response<Full<Bytes>> {
        let (head, content) = request.into_parts();
        let mut whom = None;
        let attended = self.attend(&head, content, local, &mut whom).await;
        let code = attended.as_ref().err().map(|error| error.status_and_code().1);
        let answer = attended.unwrap_or_else(AdminError::into_response);
        if code.is_some() || !asks(&head.method) {
            self.note(&head, peer, whom.as_deref(), answer.status(), code);
        }
        answer
    }

    /// Changes, and whatever was refused.
    fn note(
        &self,
        head: &Parts,
        peer: Option<SocketAddr>,
        identity: Option<&str>,
        status: StatusCode,
        code: Option<&str>,
    ) {
        let operation = audit::Operation {
            peer,
            identity,
            method: head.method.as_str(),
            path: head.uri.path(),
            decision: match code {
                None => Decision::Allowed,
                Some(_) if status.is_client_error() => Decision::Refused,
                Some(_) => Decision::Failed,
            },
            code,
            status: status.as_u16(),
        };
        self.instruments.audit.note(&audit::Event::Operation(operation));
    }

    async fn attend(
        &self,
        head: &Parts,
        content: Incoming,
        local: SocketAddr,
        whom: &mut Option<String>,
    ) -> Answer {
        self.gate.admit(&head.uri, &head.headers, local)?;
        let resource = Resource::of(head.uri.path()).ok_or(AdminError::Unknown)?;
        if !resource.methods().split(", ").any(|method| method == head.method.as_str()) {
            return Err(AdminError::Method(resource.methods()));
        }
        if let Resource::Identity(name) | Resource::Renewal(name) = &resource {
            *whom = Some(name.clone());
        }
        let asks = asks(&head.method);
        if !asks {
            self.gate.allow_change(&head.headers)?;
        }
        match resource {
            Resource::Page => Ok(page::answer()),
            Resource::State => Ok(self.state().await),
            Resource::Health => Ok(json_answer(StatusCode::OK, &json!({"status": "ok"}))),
            Resource::Readiness => Ok(self.readiness().await),
            Resource::Metrics => Ok(self.metrics().await),
            Resource::Identities if asks => self.list(head.uri.query()).await,
            Resource::Identities => self.add(content, whom).await,
            Resource::Identity(name) if asks => self.show(&name, StatusCode::OK).await,
            Resource::Identity(name) => self.remove(&name).await,
            Resource::Renewal(name) => self.renew(&name).await,
            Resource::Reload => self.reload().await,
            Resource::Drain => Ok(self.drain(head.method == Method::POST)),
        }
    }

    /// Reads the configuration again.
    async fn reload(&self) -> Answer {
        match self.superior.order().await {
            Some(Ok(())) => Ok(json_answer(StatusCode::OK, &json!({"status": "reloaded"}))),
            Some(Err(why)) => Err(AdminError::NotReloaded(why)),
            None => Err(AdminError::NoReload),
        }
    }

    /// Asks not to be sent requests any more, or to be sent some again. Those that come are served.
    fn drain(&self, begins: bool) -> Response<Full<Bytes>> {
        let was = self.instruments.is_drained.swap(begins, Ordering::Relaxed);
        let status = if begins { "drained" } else { "serving" };
        if was != begins {
            let text = if begins {
                "an operator has drained this proxy: /readyz answers 503, requests are served"
            } else {
                "an operator has put this proxy back into service"
            };
            info!("{text}");
            self.observer.operated(None, text, &self.clock);
        }
        json_answer(StatusCode::OK, &json!({ "status": status }))
    }

    async fn readiness(&self) -> Response<Full<Bytes>> {
        let report = self.report(&self.health.look().await);
        json_answer(report.code(), &report.content())
    }

    /// Whether requests are to come here.
    pub(super) fn report(&self, store: &Seen) -> Report {
        let members = self.identities.configured().map(|(_, keeper)| {
            let status = keeper.status();
            let trouble = (!serves(&status)).then(|| chain(&*keeper.unavailable().reason));
            let note = status.dying.map(|dying| dying.of(keeper.name()).to_string());
            Member { name: keeper.name().to_owned(), trouble, note }
        });
        let intake = match *self.phase.borrow() {
            Phase::Serving if self.instruments.is_drained.load(Ordering::Relaxed) => {
                Intake::Drained
            }
            Phase::Serving => Intake::Open,
            Phase::Draining | Phase::Ended => Intake::Ending,
        };
        judge(intake, store.fault.as_deref(), &members.collect::<Vec<_>>())
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let seen = self.health.look().await;
        let page = figures::page(&self.identities, &self.instruments, &seen, &self.clock);
        answer(StatusCode::OK, Page::CONTENT_TYPE, page)
    }

    async fn list(&self, query: Option<&str>) -> Answer {
        let range = range(query.unwrap_or_default()).ok_or(AdminError::Query)?;
        let (store, applications) = (self.identities.store(), self.identities.applications());
        let page = roster::page(store, &self.configured, applications, &range);
        let (known, next, fault) = match self.in_time(page).await {
            Ok((known, next)) => (known, next, None),
            Err(fault) => {
                let (known, next) = self.without_store(&range);
                (known, next, Some(fault.to_string()))
            }
        };
        let lines: Vec<_> = known.iter().map(|known| self.line(known)).collect();
        let content = json!({ "identities": lines, "next": next, "store_error": fault });
        Ok(json_answer(StatusCode::OK, &content))
    }

    /// What the keepers know by themselves.
    pub(super) fn without_store(&self, range: &Range) -> (Vec<Known>, Option<String>) {
        let of = |keeper: &Keeper, origin| Known::from_settings(keeper.settings(), origin);
        let configured = self.identities.configured().map(|(_, it)| of(it, Origin::Configured));
        let mut known: Vec<_> = configured
            .chain(self.identities.added().map(|(_, it)| of(it, Origin::Added)))
            .filter(|known| range.after.as_ref().is_none_or(|after| known.name > *after))
            .collect();
        known.sort_by(|a, b| a.name.cmp(&b.name));
        let more = known.len() > range.limit;
        known.truncate(range.limit);
        let next = known.last().map(|known| known.name.clone()).filter(|_| more);
        (known, next)
    }

    async fn show(&self, name: &str, status: StatusCode) -> Answer {
        if !IdentitySettings::is_name(name) {
            return Err(AdminError::NoIdentity);
        }
        let (store, applications) = (self.identities.store(), self.identities.applications());
        let found = roster::find(store, &self.configured, applications, name);
        let known = match (self.in_time(found).await, self.identities.find(name)) {
            (Ok(known), _) => known.ok_or(AdminError::NoIdentity)?,
            (Err(_), Some(id)) => {
                let added = !self.configured.iter().any(|it| it.name == name);
                let origin = if added { Origin::Added } else { Origin::Configured };
                Known::from_settings(self.identities.keeper(id).settings(), origin)
            }
            (Err(fault), None) => return Err(fault),
        };
        Ok(json_answer(status, &json!(self.line(&known))))
    }

    pub(super) fn line(&self, known: &Known) -> Line {
        let keeper = self.identities.find(&known.name).map(|id| self.identities.keeper(id));
        Line::of(known, keeper.map(Keeper::status).as_ref(), self.clock.now())
    }

    async fn add(&self, content: Incoming, whom: &mut Option<String>) -> Answer {
        let content = content::read(content, &self.clock).await?;
        let NewIdentity { name, application, jwt } = NewIdentity::parse(&content)?;
        *whom = Some(name.clone());
        let applications = self.identities.applications();
        let chosen = applications.iter().find(|it| it.name == application).ok_or_else(|| {
            let known = applications.iter().map(|it| it.name.clone()).collect();
            AdminError::NoApplication { known }
        })?;
        let enrolment = Enrolment { client_id: chosen.client_id.clone(), jwt };
        let with = if enrolment.jwt.is_some() { "a JWT" } else { "nothing: it waits for a login" };
        let there = async {
            if !IdentitySettings::is_name(&name) {
                return Err(EnrolError::Name);
            }
            let there = self.identities.store().enrolment(&name).await?.is_some();
            self.identities.enrol(&name, enrolment).await.map(|()| there)
        };
        let there = self.in_time(there).await?;
        info!(identity = name, application, with, "an operator has added this identity");
        self.observer.operated(Some(&name), "an operator has added this identity", &self.clock);
        self.show(&name, if there { StatusCode::OK } else { StatusCode::CREATED }).await
    }

    async fn remove(&self, name: &str) -> Answer {
        let there = async {
            let configured = self.configured.iter().any(|it| it.name == name);
            let enrolled = IdentitySettings::is_name(name)
                && self.identities.store().enrolment(name).await?.is_some();
            if configured || enrolled {
                self.identities.remove(name).await?;
            }
            Ok::<_, EnrolError>(enrolled)
        };
        if !self.in_time(there).await? {
            return Err(AdminError::NoIdentity);
        }
        info!(identity = name, "an operator has removed this identity");
        self.observer.operated(Some(name), "an operator has removed this identity", &self.clock);
        Ok(json_answer(StatusCode::OK, &json!({ "name": name, "removed": true })))
    }

    async fn renew(&self, name: &str) -> Answer {
        let id = match self.identities.find(name) {
            Some(id) => id,
            None => {
                self.in_time(self.identities.discover(name)).await?.ok_or(AdminError::NoIdentity)?
            }
        };
        info!(identity = name, "an operator has ordered a renewal");
        self.observer.operated(Some(name), "an operator has ordered a renewal", &self.clock);
        let keeper = self.identities.keeper(id);
        tokio::select! {
            biased;
            outcome = keeper.renew() => match outcome {
                Ok(()) => Ok(self.renewed(id)),
                Err(why) => Err(AdminError::NotRenewed { identity: name.to_owned(), why }),
            },
            () = self.clock.sleep(PATIENCE) => {
                let wait = "it waits for its turn or for an answer, and goes on: see /identities";
                let content = json!({ "name": name, "outcome": "pending", "message": wait });
                Ok(json_answer(StatusCode::ACCEPTED, &content))
            }
        }
    }

    fn renewed(&self, id: IdentityId) -> Response<Full<Bytes>> {
        let keeper = self.identities.keeper(id);
        let status = keeper.status();
        let content = json!({
            "name": keeper.name(),
            "outcome": "renewed",
            "generation": status.generation.map(Generation::number),
            "expires_at": status.expires_at.map(Moment),
        });
        json_answer(StatusCode::OK, &content)
    }

    async fn in_time<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, AdminError>
    where
        AdminError: From<E>,
    {
        tokio::select! {
            biased;
            done = work => Ok(done?),
            () = self.clock.sleep(STORE_PATIENCE) => Err(AdminError::StoreSilent(STORE_PATIENCE)),
        }
    }
}

/// Whether a method changes nothing.
fn asks(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn range(query: &str) -> Option<Range> {
    let mut range = Range { after: None, limit: LINES };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MOST_LINES).contains(limit));
                range.limit = limit?;
            }
            "after" => range.after = Some(value.into_owned()),
            _ => return None,
        }
    }
    Some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_bounded_and_a_typo_in_it_is_refused() {
        let of = |query: &str| range(query).map(|it| (it.after, it.limit));
        assert_eq!(of(""), Some((None, 100)));
        assert_eq!(of("limit=1000&after=sales"), Some((Some("sales".into()), 1000)));
        for query in ["limit=0", "limit=1001", "limit=x", "limt=5"] {
            assert_eq!(of(query), None, "{query}");
        }
    }
}
