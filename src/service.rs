//! A whole proxy, put together from its settings: store, keepers, workers, admin listener.
//!
//! The keepers run on the runtime that [`Service::start`] is called on, apart from the worker
//! threads: a renewal never competes with a request. The end comes in the order that loses nothing:
//! readiness is off at once; the workers drain, which may need tokens still; then a renewal under way
//! is finished and stored; the admin listener, which tells of all this, ends last.
//!
//! A reload is a second proxy beside the first: [`Service::succeed`] starts it from the new settings
//! and hands it the listening sockets, [`Service::retire`] lets the first one finish. The two are to
//! each other what two processes with one store are, so nothing else is needed for tokens to survive.

use std::fmt;
use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::ClientConfig;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::info;

use crate::admin::reload::{self, Orders, ReloadOrder};
use crate::admin::{Admin, AdminStartError, Instruments};
use crate::audit::{AuditError, AuditLog};
use crate::clock::Clock;
use crate::metrics::Reloads;
use crate::oauth::endpoint::{ClientError, TokenEndpoint, http_client};
use crate::proxy::throttle::Throttle;
use crate::server::{
    Counters, InboundCertificates, Parts, Passed, PassedError, Server, ServerError,
};
use crate::settings::{ApplicationSettings, Settings, StoreSettings};
use crate::store::file::FileStore;
use crate::store::memory::MemoryStore;
use crate::store::redis::RedisStore;
use crate::store::{StoreError, TokenStore};
use crate::telemetry::chain;
use crate::token::Generation;
use crate::token::identities::Identities;
use crate::token::keeper::Unavailable;
use crate::token::names::Names;
#[cfg(feature = "otlp")]
use crate::trace;
use crate::upstream::{TlsError, Trust, client_config, with_settings};
use limits::Lasting;

mod limits;

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing to trust, or nothing readable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token endpoint's client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Listeners and threads.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The admin listener.
    #[error(transparent)]
    Admin(#[from] AdminStartError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Sockets that somebody else has opened.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// What a command would write is gone when the command ends.
    #[error(
        "store.memory keeps sessions in the proxy's own process, where no command reaches them: set \
         store.directory or store.redis"
    )]
    MemoryOnly,
}

/// Why a proxy with other settings does not take this one's place.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// It does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Requests that are served now would not be.
    #[error("identity \"{identity}\" has a token now and would have none: {}", chain(&*.why.reason))]
    NoToken {
        /// Whose.
        identity: String,
        /// Why.
        why: Unavailable,
    },
}

/// How long a successor may take to get every token that its predecessor has.
const READINESS: Duration = Duration::from_secs(30);

/// A running proxy.
#[derive(Debug)]
pub struct Service {
    server: Server,
    keeping: Keeping,
    /// RingCentral's limits, for a successor; none if nobody has kept to them yet.
    limits: Option<Arc<Lasting>>,
    throttle: Option<Arc<Throttle>>,
    admin: Option<Admin>,
    /// Ends when nobody is left who could be traced.
    #[cfg(feature = "otlp")]
    exporting: Option<JoinHandle<()>>,
    /// Every proxy that notes in it has one: whose is the last closes it.
    audit: Arc<AuditLog>,
    /// What a successor goes on counting with.
    instruments: Instruments,
    orders: Orders,
}

/// The identities and the task that keeps their tokens.
struct Keeping {
    identities: Arc<Identities>,
    /// The store that goes with the process, for a successor.
    memory: Option<Arc<dyn TokenStore>>,
    task: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl fmt::Debug for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeping").field("identities", &self.identities).finish_non_exhaustive()
    }
}

impl Keeping {
    fn start(
        identities: Arc<Identities>,
        memory: Option<Arc<dyn TokenStore>>,
        certificates: Option<InboundCertificates>,
        clock: &Clock,
    ) -> Self {
        let (end, ending) = oneshot::channel();
        let clock = clock.clone();
        let task = tokio::spawn({
            let identities = Arc::clone(&identities);
            async move {
                tokio::select! {
                    // An error says that the service was dropped, which ends it too.
                    () = identities.run(async { drop(ending.await) }) => {}
                    () = tell_when_ready(&identities) => {}
                    () = watch(certificates, &clock) => {}
                }
            }
        });
        Self { identities, memory, task, end }
    }

    /// Finishes and stores a renewal under way.
    async fn stop(self) {
        // An error says that the keepers have ended already.
        let _ = self.end.send(());
        self.task.await.expect("keepers do not panic");
    }

    /// Waits until everybody who has a token in `others` has one here.
    async fn catch_up(&self, others: &Identities, clock: &Clock) -> Result<(), SuccessionError> {
        let deadline = clock.now() + READINESS;
        for (_, theirs) in others.configured().filter(|(_, keeper)| keeper.status().usable) {
            let Some(id) = self.identities.find(theirs.name()) else { continue };
            let ours = self.identities.keeper(id);
            let why = tokio::select! {
                biased;
                outcome = ours.wait_usable() => outcome.err(),
                () = clock.sleep(clock.now().until(deadline)) => Some(ours.unavailable()),
            };
            if let Some(why) = why {
                let identity = theirs.name().to_owned();
                return Err(SuccessionError::NoToken { identity, why });
            }
        }
        Ok(())
    }
}

impl Service {
    /// Binds, opens the store, and starts everything. Requests may come from now on; those that
    /// come before the first token wait for it.
    ///
    /// Wants to be called on a tokio runtime, which has to keep running.
    pub fn start(settings: &Settings, clock: &Clock) -> Result<Self, StartError> {
        Self::start_on(settings, clock, Passed::default())
    }

    /// The same, on sockets that somebody else has opened, as far as they were.
    pub fn start_on(
        settings: &Settings,
        clock: &Clock,
        mut passed: Passed,
    ) -> Result<Self, StartError> {
        let passed = &mut passed;
        let tls = Arc::new(tls(settings)?);
        let store = store(settings, clock)?;
        let memory = is_memory(settings).then(|| Arc::clone(&store));
        let audit = Arc::new(AuditLog::open(settings.audit.as_ref(), clock)?);
        let names = Arc::default();
        let identities = identities_in(store, settings, &tls, clock, &names)?;
        let identities = Arc::new(identities.audited(&audit, "serve"));
        let limits = Lasting::with(settings, &names, clock, None)?;
        let throttle = limits.as_ref().and_then(|limits| limits.throttle(settings));
        let certificates = certificates(settings)?;
        #[cfg(feature = "otlp")]
        let (tracer, exporting) = trace::start(settings.trace.as_ref(), &tls, clock)?.unzip();
        let parts = Parts {
            identities: Arc::clone(&identities),
            tls,
            certificates: certificates.clone(),
            throttle: throttle.clone(),
            counters: Counters::new(settings),
            audit: AuditLog::clone(&audit),
            #[cfg(feature = "otlp")]
            tracer,
            clock: clock.clone(),
        };
        let server = Server::start(settings, &parts, passed, None)?;
        let instruments = instruments(&parts, limits.as_deref(), None);
        let (superior, orders) = reload::orders();
        let shown = instruments.clone();
        let start = |admin| Admin::start(admin, &identities, shown, clock, superior, passed, None);
        let admin = settings.admin.as_ref().map(start).transpose()?;
        passed.refuse_rest()?;
        let keeping = Keeping::start(identities, memory, certificates, clock);
        Ok(Self {
            server,
            keeping,
            limits,
            throttle,
            admin,
            #[cfg(feature = "otlp")]
            exporting,
            audit,
            instruments,
            orders,
        })
    }

    /// A proxy with `settings` that takes over this one's listening sockets, with the connections
    /// that wait in them, once it has a token for every identity that has one here. Then
    /// [`retire`](Self::retire) this one.
    ///
    /// Sessions are found in the store, so no token is requested for them. The audit log goes on, unless
    /// another file is wanted. If anything is wrong with the new settings, everything stays as it is.
    pub async fn succeed(
        &self,
        settings: &Settings,
        clock: &Clock,
    ) -> Result<Self, SuccessionError> {
        let tls = Arc::new(tls(settings).map_err(StartError::from)?);
        let certificates = certificates(settings)?;
        let store = match &self.keeping.memory {
            Some(memory) if is_memory(settings) => Arc::clone(memory),
            _ => store(settings, clock)?,
        };
        let memory = is_memory(settings).then(|| Arc::clone(&store));
        let audit = self.audit_for(settings, clock)?;
        let names = self.keeping.identities.names();
        let identities = identities_in(store, settings, &tls, clock, names)?;
        let identities = Arc::new(identities.audited(&audit, "serve"));
        let limits = Lasting::with(settings, names, clock, self.limits.as_ref())?;
        let throttle = limits.as_ref().and_then(|limits| limits.throttle(settings));
        #[cfg(feature = "otlp")]
        let (tracer, exporting) =
            trace::start(settings.trace.as_ref(), &tls, clock).map_err(StartError::from)?.unzip();
        let parts = Parts {
            identities: Arc::clone(&identities),
            tls,
            certificates: certificates.clone(),
            throttle: throttle.clone(),
            counters: self.instruments.counters.succeed(&self.keeping.identities, settings),
            audit: AuditLog::clone(&audit),
            #[cfg(feature = "otlp")]
            tracer,
            clock: clock.clone(),
        };
        let instruments = instruments(&parts, limits.as_deref(), Some(&self.instruments));
        let keeping = Keeping::start(identities, memory, certificates, clock);
        match self.take_over(settings, &parts, &keeping, &instruments).await {
            Ok((server, admin, orders)) => Ok(Self {
                server,
                keeping,
                limits,
                throttle,
                admin,
                #[cfg(feature = "otlp")]
                exporting,
                audit,
                instruments,
                orders,
            }),
            Err(error) => {
                keeping.stop().await;
                Err(error)
            }
        }
    }

    fn audit_for(&self, settings: &Settings, clock: &Clock) -> Result<Arc<AuditLog>, StartError> {
        let wanted = settings.audit.as_ref();
        if self.audit.is_at(wanted) {
            return Ok(Arc::clone(&self.audit));
        }
        Ok(Arc::new(AuditLog::open(wanted, clock)?))
    }

    async fn take_over(
        &self,
        settings: &Settings,
        parts: &Parts,
        keeping: &Keeping,
        instruments: &Instruments,
    ) -> Result<(Server, Option<Admin>, Orders), SuccessionError> {
        let Parts { identities, clock, .. } = parts;
        keeping.catch_up(&self.keeping.identities, clock).await?;
        let (superior, orders) = reload::orders();
        // The workers last: they serve from the moment they are there.
        let (new, old) = (settings.admin.as_ref(), self.admin.as_ref());
        let shown = instruments.clone();
        let none = &mut Passed::default();
        let start = |admin| Admin::start(admin, identities, shown, clock, superior, none, old);
        let admin = new.map(start).transpose().map_err(StartError::from)?;
        match Server::start(settings, parts, &mut Passed::default(), Some(&self.server)) {
            Ok(server) => Ok((server, admin, orders)),
            Err(error) => {
                if let Some(admin) = admin {
                    admin.stop().await;
                }
                Err(StartError::from(error).into())
            }
        }
    }

    /// How often the configuration was read anew in this process: whoever reloads counts here.
    pub fn reloads(&self) -> &Reloads {
        &self.instruments.configuration
    }

    /// The next order to reload.
    pub async fn reload_ordered(&mut self) -> ReloadOrder {
        self.orders.next().await
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.server.addresses()
    }

    /// The Unix sockets where it listens.
    pub fn sockets(&self) -> impl Iterator<Item = &Path> {
        self.server.sockets()
    }

    /// What apps are shown, if they speak TLS. It is read anew when its files change, or on order.
    pub fn certificates(&self) -> Option<&InboundCertificates> {
        self.server.certificates()
    }

    /// The Unix sockets where the admin listener listens.
    pub fn admin_sockets(&self) -> impl Iterator<Item = &Path> {
        self.admin.iter().flat_map(Admin::sockets)
    }

    /// Where the admin listener listens, if there is one.
    pub fn admin_addresses(&self) -> &[SocketAddr] {
        self.admin.as_ref().map_or(&[], Admin::addresses)
    }

    /// Whose tokens it keeps.
    pub fn identities(&self) -> &Arc<Identities> {
        &self.keeping.identities
    }

    /// Where it is noted what is done here.
    pub fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// What keeps to RingCentral's limits, if anything does.
    pub fn throttle(&self) -> Option<&Arc<Throttle>> {
        self.throttle.as_ref()
    }

    /// Drains, finishes what has been begun, and returns.
    ///
    /// # Panics
    /// If a worker or a keeper did.
    pub async fn stop(self) {
        if let Some(admin) = &self.admin {
            admin.drain();
        }
        self.server.stop().await;
        self.keeping.stop().await;
        #[cfg(feature = "otlp")]
        exported(self.exporting).await;
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
        close(self.audit).await;
        if let Some(limits) = self.limits {
            limits.stop().await;
        }
    }

    /// Leaves new connections to a successor, from now on.
    pub async fn cede(&mut self) {
        self.server.cede().await;
    }

    /// Leaves everything new to a successor, finishes what has been begun, however long that takes,
    /// and returns; once `hasten` is over it [`stop`](Self::stop)s.
    ///
    /// # Panics
    /// If a worker or a keeper did.
    pub async fn retire(self, hasten: impl Future<Output = ()>) {
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
        self.server.retire(hasten).await;
        self.keeping.stop().await;
        #[cfg(feature = "otlp")]
        exported(self.exporting).await;
        close(self.audit).await;
        if let Some(limits) = self.limits {
            limits.stop().await;
        }
    }
}

/// Has everything written, if nobody else notes anything there any more.
async fn close(audit: Arc<AuditLog>) {
    let Some(audit) = Arc::into_inner(audit).filter(AuditLog::is_on) else { return };
    let closing = tokio::task::spawn_blocking(move || audit.close());
    closing.await.expect("the audit log's thread does not panic");
}

const fn is_memory(settings: &Settings) -> bool {
    matches!(settings.store, StoreSettings::Memory)
}

/// Waits until every span has been sent.
#[cfg(feature = "otlp")]
async fn exported(exporting: Option<JoinHandle<()>>) {
    if let Some(exporting) = exporting {
        exporting.await.expect("the exporter does not panic");
    }
}

/// What is shown of a proxy with these `parts`.
fn instruments(
    parts: &Parts,
    limits: Option<&Lasting>,
    predecessor: Option<&Instruments>,
) -> Instruments {
    let lasting = predecessor.map(|it| (Arc::clone(&it.configuration), Arc::clone(&it.is_drained)));
    let (configuration, is_drained) = lasting.unwrap_or_default();
    Instruments {
        counters: parts.counters.clone(),
        certificates: parts.certificates.as_ref().map(|it| Arc::clone(it.reloads())),
        configuration,
        audit: parts.audit.clone(),
        limits: limits.map(|it| Arc::clone(it.board())),
        is_drained,
    }
}

fn certificates(settings: &Settings) -> Result<Option<InboundCertificates>, StartError> {
    let loaded = settings.proxy.tls.as_ref().map(InboundCertificates::load).transpose();
    loaded.map_err(|error| ServerError::from(error).into())
}

/// Has certificates read anew when they change. It never returns.
async fn watch(certificates: Option<InboundCertificates>, clock: &Clock) {
    match certificates {
        Some(certificates) => certificates.watch(clock).await,
        None => pending().await,
    }
}

/// Logs each identity's first token. It never returns.
async fn tell_when_ready(identities: &Identities) {
    let each = identities.iter().map(|(_, keeper)| async {
        keeper.became_usable().await;
        let generation = keeper.status().generation.map(Generation::number);
        info!(identity = keeper.name(), generation, "ready");
    });
    join_all(each).await;
    pending::<()>().await;
}

/// The identities of `settings`, with their store and their token endpoint.
pub fn identities(
    settings: &Settings,
    tls: &ClientConfig,
    clock: &Clock,
) -> Result<Identities, StartError> {
    identities_in(store(settings, clock)?, settings, tls, clock, &Arc::default())
}

fn identities_in(
    store: Arc<dyn TokenStore>,
    settings: &Settings,
    tls: &ClientConfig,
    clock: &Clock,
    names: &Arc<Names>,
) -> Result<Identities, StartError> {
    let (endpoint, names) = (endpoint(settings, tls)?, Arc::clone(names));
    let identities = Identities::by(names, &settings.identities, store, endpoint, clock.clone());
    Ok(identities.knowing(&settings.applications))
}

/// The same, for somebody who asks for one of them and leaves the others alone.
pub fn identities_on_demand(
    settings: &Settings,
    tls: &ClientConfig,
    clock: &Clock,
) -> Result<Identities, StartError> {
    let (store, endpoint) = (store(settings, clock)?, endpoint(settings, tls)?);
    let identities = Identities::on_demand(&settings.identities, store, endpoint, clock.clone());
    Ok(identities.knowing(&settings.applications))
}

/// Where the sessions are kept. Wants to be called on a tokio runtime.
pub fn store(settings: &Settings, clock: &Clock) -> Result<Arc<dyn TokenStore>, StartError> {
    Ok(match &settings.store {
        StoreSettings::Redis { server, seal } => Arc::new(RedisStore::open(server, seal.clone())?),
        StoreSettings::Memory => Arc::new(MemoryStore::new(clock.clone())),
        StoreSettings::File { directory, seal } => {
            Arc::new(FileStore::open(directory, seal.clone(), clock.clone())?)
        }
    })
}

/// The store of `settings`, for a command whose work is to outlive it.
pub fn lasting_store(
    settings: &Settings,
    clock: &Clock,
) -> Result<Arc<dyn TokenStore>, StartError> {
    match &settings.store {
        StoreSettings::Memory => Err(StartError::MemoryOnly),
        _ => store(settings, clock),
    }
}

/// The client of RingCentral's token endpoint.
pub fn endpoint(settings: &Settings, tls: &ClientConfig) -> Result<TokenEndpoint, StartError> {
    let upstream = &settings.upstream;
    let http = http_client(tls.clone(), upstream.http_proxy.as_ref(), upstream.response_timeout)?;
    Ok(TokenEndpoint::new(http))
}

/// The TLS settings towards RingCentral, of requests for tokens and of all others.
pub fn tls(settings: &Settings) -> Result<ClientConfig, TlsError> {
    let config = client_config(&trust(settings))?;
    with_settings(config, &settings.upstream)
}

/// Loading the platform's certificates takes longer than everything else at start, so it is left
/// out where nothing speaks TLS.
fn trust(settings: &Settings) -> Trust {
    let is_https = |url: &http::Uri| url.scheme_str() == Some("https");
    let asks_by_https = |app: &ApplicationSettings| {
        [&app.token_url, &app.revoke_url, &app.device_authorization_url].into_iter().any(is_https)
    };
    let wanted = settings.upstream.origin.tls
        || settings.upstream.hosts.iter().any(|host| host.origin.tls)
        || settings.trace.as_ref().is_some_and(|trace| trace.collector.tls)
        || settings.applications.iter().any(|app| asks_by_https(app));
    match &settings.upstream.ca_file {
        _ if !wanted => Trust::Nobody,
        Some(file) => Trust::File(file.clone()),
        None => Trust::Platform,
    }
}
