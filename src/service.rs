//! A whole proxy, put together from its settings: store, keepers, workers, admin listener.
//!
//! The keepers run on the runtime that [`Service::start`] is called on, apart from the worker
//! threads: a renewal never competes with a request. The end comes in the order that loses nothing:
//! readiness is off at once; the workers drain, which may need tokens still; then a renewal under way
//! is finished and stored; the admin listener, which tells of all this, ends last.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use rustls::ClientConfig;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::info;

use crate::admin::{Admin, AdminStartError, Watched};
use crate::clock::Clock;
use crate::oauth::endpoint::{ClientError, TokenEndpoint, http_client};
use crate::server::{Server, ServerError};
use crate::settings::{ApplicationSettings, Settings, StoreSettings};
use crate::store::file::FileStore;
use crate::store::memory::MemoryStore;
use crate::store::redis::RedisStore;
use crate::store::{StoreError, TokenStore};
use crate::token::Generation;
use crate::token::identities::Identities;
#[cfg(feature = "otlp")]
use crate::trace;
use crate::upstream::{TlsError, Trust, client_config};

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
    /// What a command would write is gone when the command ends.
    #[error(
        "store.memory keeps sessions in the proxy's own process, where no command reaches them: set \
         store.directory or store.redis"
    )]
    MemoryOnly,
}

/// A running proxy.
#[derive(Debug)]
pub struct Service {
    server: Server,
    identities: Arc<Identities>,
    keepers: JoinHandle<()>,
    end_keepers: oneshot::Sender<()>,
    admin: Option<Admin>,
    /// Ends when nobody is left who could be traced.
    #[cfg(feature = "otlp")]
    exporting: Option<JoinHandle<()>>,
}

impl Service {
    /// Binds, opens the store, and starts everything. Requests may come from now on; those that
    /// come before the first token wait for it.
    ///
    /// Wants to be called on a tokio runtime, which has to keep running.
    pub fn start(settings: &Settings, clock: &Clock) -> Result<Self, StartError> {
        let tls = Arc::new(client_config(&trust(settings))?);
        let identities = Arc::new(identities(settings, &tls, clock)?);
        #[cfg(feature = "otlp")]
        let (tracer, exporting) = trace::start(settings.trace.as_ref(), &tls, clock)?.unzip();
        let server = Server::start(
            settings,
            &identities,
            &tls,
            #[cfg(feature = "otlp")]
            tracer,
            clock,
        )?;
        let admin = settings.admin.as_ref();
        let watched = Watched {
            traffic: Arc::clone(server.traffic()),
            replay_memory: server.replay_memory().clone(),
        };
        let start = |admin| Admin::start(admin, &identities, watched, clock);
        let admin = admin.map(start).transpose()?;
        let (end_keepers, ending) = oneshot::channel();
        let keepers = tokio::spawn({
            let identities = Arc::clone(&identities);
            async move {
                tokio::select! {
                    // An error says that the service was dropped, which ends it too.
                    () = identities.run(async { drop(ending.await) }) => {}
                    () = tell_when_ready(&identities) => {}
                }
            }
        });
        Ok(Self {
            server,
            identities,
            keepers,
            end_keepers,
            admin,
            #[cfg(feature = "otlp")]
            exporting,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.server.addresses()
    }

    /// Where the admin listener listens, if there is one.
    pub fn admin_addresses(&self) -> &[SocketAddr] {
        self.admin.as_ref().map_or(&[], Admin::addresses)
    }

    /// Whose tokens it keeps.
    pub fn identities(&self) -> &Arc<Identities> {
        &self.identities
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
        // An error says that the keepers have ended already.
        let _ = self.end_keepers.send(());
        self.keepers.await.expect("keepers do not panic");
        #[cfg(feature = "otlp")]
        if let Some(exporting) = self.exporting {
            exporting.await.expect("the exporter does not panic");
        }
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
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
    let (store, endpoint) = (store(settings, clock)?, endpoint(settings, tls)?);
    let identities = Identities::new(&settings.identities, store, endpoint, clock.clone());
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

/// Loading the platform's certificates takes longer than everything else at start, so it is left
/// out where nothing speaks TLS.
pub fn trust(settings: &Settings) -> Trust {
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
