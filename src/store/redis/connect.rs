//! One connection for the whole process, made anew when it breaks: to one server, to the nodes of a
//! cluster, or to the server that the sentinels name.
//!
//! Every answer comes within seconds. Whoever calls while a connection is being made waits for that
//! one attempt and shares its failure, so that callers do not queue up before a dead server. After a
//! time-out a single server's connection is dropped too: a network that swallowed it keeps silent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError, RedisFuture, RedisResult,
    ServerErrorKind, TlsCertificates, TlsMode, Value,
};
use socket2::TcpKeepalive;
use tokio::runtime::Handle;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use crate::settings::{RedisLogin, RedisSettings, RedisTopology};

/// No answer within this time counts as none.
const PATIENCE: Duration = Duration::from_secs(2);
/// Asking the sentinels and a cluster's nodes takes several answers.
const PATIENCE_FOR_SEVERAL: Duration = Duration::from_secs(4);

/// A connection whose other end acknowledges nothing for so long is dead.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Commands on their way at a time: enough for a survey of thousands.
const BUFFER: usize = 512;

/// The connection, shared by all clones.
#[derive(Clone)]
pub(super) struct Link(Arc<Shares>);

struct Shares {
    way: Way,
    runtime: Handle,
    current: Mutex<Current>,
}

/// How a connection is made.
enum Way {
    One(Client),
    Cluster { client: ClusterClient, nodes: Vec<Client> },
    Sentinels(AsyncMutex<SentinelClient>),
}

#[derive(Default)]
struct Current {
    number: u64,
    attempt: Option<Attempt>,
}

type Attempt = Shared<BoxFuture<'static, RedisResult<Connection>>>;

#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// One command, or several for keys of one slot.
#[derive(Clone, Copy)]
enum Call<'a> {
    One(&'a Cmd),
    Several(&'a Pipeline),
}

impl Link {
    /// Connects when it is first used. Its tasks run where this is called.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn new(settings: &RedisSettings) -> RedisResult<Self> {
        let way = Way::new(settings)?;
        let (runtime, current) = (Handle::current(), Mutex::default());
        Ok(Self(Arc::new(Shares { way, runtime, current })))
    }

    /// The answer to a command.
    pub(super) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        self.call(Call::One(command)).await
    }

    /// The answers to several commands for keys of one slot.
    pub(super) async fn pipe<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        self.call(Call::Several(commands)).await
    }

    /// A connection of its own that hears what is published.
    pub(super) async fn subscribe(&self, channel: &str) -> RedisResult<PubSub> {
        let subscribe = async |client: &Client| {
            let mut subscription = client.get_async_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok(subscription)
        };
        match &self.0.way {
            Way::One(client) => in_time(PATIENCE, subscribe(client)).await,
            Way::Sentinels(sentinels) => {
                let ask = async {
                    let client = sentinels.lock().await.async_get_client().await?;
                    subscribe(&client).await
                };
                in_time(PATIENCE_FOR_SEVERAL, ask).await
            }
            // Every node of a cluster hears what is published at any.
            Way::Cluster { nodes, .. } => {
                let mut failure = None;
                for client in nodes {
                    match in_time(PATIENCE, subscribe(client)).await {
                        Ok(subscription) => return Ok(subscription),
                        Err(error) => failure = Some(error),
                    }
                }
                Err(failure.expect("there is at least one node"))
            }
        }
    }

    async fn call<T: FromRedisValue>(&self, call: Call<'_>) -> RedisResult<T> {
        let (number, was_there, connection) = self.connection().await?;
        let result = call.send(connection).await;
        let Err(error) = &result else { return result };
        if !self.is_over(error) {
            return result;
        }
        self.forget(number);
        // It broke while nobody used it. Whatever is called may be called twice.
        if !was_there || error.is_timeout() {
            return result;
        }
        let (number, _, connection) = self.connection().await?;
        let result = call.send(connection).await;
        if result.as_ref().is_err_and(|error| self.is_over(error)) {
            self.forget(number);
        }
        result
    }

    /// The current connection, by its number, and whether it was there already.
    async fn connection(&self) -> RedisResult<(u64, bool, Connection)> {
        let (number, attempt) = {
            let mut current = self.current();
            let attempt = if let Some(attempt) = &current.attempt {
                attempt.clone()
            } else {
                current.number += 1;
                current.attempt.insert(self.connect()).clone()
            };
            (current.number, attempt)
        };
        let was_there = attempt.peek().is_some();
        match attempt.await {
            Ok(connection) => Ok((number, was_there, connection)),
            Err(error) => {
                self.forget(number);
                Err(error)
            }
        }
    }

    /// Begins at once, in a task: it does not end with whoever asked for it.
    fn connect(&self) -> Attempt {
        let shares = Arc::clone(&self.0);
        let task = self
            .0
            .runtime
            .spawn(async move { in_time(shares.way.patience(), shares.way.connect()).await });
        task.map(|ended| ended.unwrap_or_else(|_| Err(ENDING.into()))).boxed().shared()
    }

    fn forget(&self, number: u64) {
        let mut current = self.current();
        if current.number == number {
            current.attempt = None;
        }
    }

    /// Whether the connection is of no use any more. A cluster's looks after itself.
    fn is_over(&self, error: &RedisError) -> bool {
        let kind = error.kind();
        match self.0.way {
            Way::Cluster { .. } => {
                kind == ErrorKind::ClusterConnectionNotFound || error.is_connection_dropped()
            }
            // The server may have become a replica, and another the primary.
            Way::One(_) | Way::Sentinels(_) => {
                let demoted = matches!(
                    kind,
                    ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
                );
                demoted || error.is_io_error() || error.is_unrecoverable_error()
            }
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    fn new(settings: &RedisSettings) -> RedisResult<Self> {
        let certificates = settings.ca_pem.as_ref().map(|ca| TlsCertificates {
            client_tls: None,
            root_cert: Some(ca.as_bytes().to_vec()),
        });
        let infos = addresses(settings).map(|address| info(address, settings));
        let infos = infos.collect::<RedisResult<Vec<_>>>()?;
        let open = |info: ConnectionInfo| match &certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        };
        match &settings.topology {
            RedisTopology::One => {
                Ok(Self::One(open(infos.into_iter().next().expect("settings name a host"))?))
            }
            RedisTopology::Cluster => {
                let mut builder = ClusterClient::builder(infos.clone())
                    .tcp_settings(tcp())
                    .connection_timeout(PATIENCE)
                    .response_timeout(PATIENCE)
                    .overall_response_timeout(Some(PATIENCE_FOR_SEVERAL))
                    .retries(4)
                    .min_retry_wait(50)
                    .max_retry_wait(500);
                if let Some(certificates) = &certificates {
                    builder = builder.certs(certificates.clone());
                }
                let nodes = infos.into_iter().map(open).collect::<RedisResult<_>>()?;
                Ok(Self::Cluster { client: builder.build()?, nodes })
            }
            RedisTopology::Sentinels { primary, login } => {
                let client = sentinels(settings, primary, login, certificates)?;
                Ok(Self::Sentinels(AsyncMutex::new(client)))
            }
        }
    }

    const fn patience(&self) -> Duration {
        match self {
            Self::One(_) => PATIENCE,
            Self::Cluster { .. } | Self::Sentinels(_) => PATIENCE_FOR_SEVERAL,
        }
    }

    async fn connect(&self) -> RedisResult<Connection> {
        let patience = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_pipeline_buffer_size(BUFFER);
        let client = match self {
            Self::One(client) => client.clone(),
            Self::Sentinels(sentinels) => sentinels.lock().await.async_get_client().await?,
            Self::Cluster { client, .. } => {
                return client.get_async_connection().await.map(Connection::Cluster);
            }
        };
        let connection = client.get_multiplexed_async_connection_with_config(&patience).await?;
        Ok(Connection::One(connection))
    }
}

fn sentinels(
    settings: &RedisSettings,
    primary: &str,
    login: &RedisLogin,
    certificates: Option<TlsCertificates>,
) -> RedisResult<SentinelClient> {
    let kind = SentinelServerType::Master;
    let mut builder = SentinelClientBuilder::new(addresses(settings), primary, kind)?
        .set_client_to_redis_db(settings.database)
        .set_client_to_redis_tcp_settings(tcp())
        .set_client_to_sentinel_tcp_settings(tcp());
    if settings.tls {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_tls_mode(TlsMode::Secure);
    }
    if let Some(certificates) = certificates {
        builder = builder
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_certificates(certificates);
    }
    if let Some(username) = &settings.login.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = &settings.login.password {
        builder = builder.set_client_to_redis_password(password.expose());
    }
    if let Some(username) = &login.username {
        builder = builder.set_client_to_sentinel_username(username);
    }
    if let Some(password) = &login.password {
        builder = builder.set_client_to_sentinel_password(password.expose());
    }
    builder.build()
}

fn addresses(settings: &RedisSettings) -> impl Iterator<Item = ConnectionAddr> {
    settings.hosts.iter().cloned().map(|(host, port)| {
        if settings.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    })
}

fn info(address: ConnectionAddr, settings: &RedisSettings) -> RedisResult<ConnectionInfo> {
    let mut login = RedisConnectionInfo::default().set_db(settings.database);
    if let Some(username) = &settings.login.username {
        login = login.set_username(username);
    }
    if let Some(password) = &settings.login.password {
        login = login.set_password(password.expose());
    }
    Ok(address.into_connection_info()?.set_redis_settings(login).set_tcp_settings(tcp()))
}

fn tcp() -> TcpSettings {
    let keepalive =
        TcpKeepalive::new().with_time(UNACKNOWLEDGED).with_interval(Duration::from_secs(5));
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(UNACKNOWLEDGED)
}

impl Call<'_> {
    async fn send<T: FromRedisValue>(self, mut connection: Connection) -> RedisResult<T> {
        match self {
            Self::One(command) => command.query_async(&mut connection).await,
            Self::Several(commands) => commands.query_async(&mut connection).await,
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(one) => one.req_packed_command(command),
            Self::Cluster(cluster) => cluster.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(one) => one.req_packed_commands(commands, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(one) => one.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}

const ENDING: (ErrorKind, &str) = (ErrorKind::Client, "the process is ending");

async fn in_time<T>(
    patience: Duration,
    work: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    let late = |_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    timeout(patience, work).await.map_err(late)?
}
