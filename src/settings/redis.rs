//! `store.redis` → [`RedisSettings`]: one server, a cluster, or sentinels that know the primary.

use std::net::IpAddr;

use http::uri::Authority;
use percent_encoding::percent_decode_str;

use super::SettingsError;
use crate::secret::Secret;

/// The Redis or Valkey server of `[store]`.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// What stands at the hosts.
    pub topology: RedisTopology,
    /// Host and port of each.
    pub hosts: Vec<(String, u16)>,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// How to log in.
    pub login: RedisLogin,
    /// The number of the database; a cluster has only 0.
    pub database: i64,
    /// The hosts as they were written, for messages.
    pub address: String,
    /// The CAs to trust instead of the platform's, PEM.
    pub ca_pem: Option<String>,
    /// What every key begins with.
    pub prefix: String,
    /// So many replicas have to have a session before it is used.
    pub wait_replicas: u32,
}

impl RedisSettings {
    /// Whether a connection by these is one by the others too.
    pub fn is_same(&self, other: &Self) -> bool {
        let Self { topology, hosts, tls, login, database, address, ca_pem, prefix, wait_replicas } =
            self;
        topology.is_same(&other.topology)
            && login.is_same(&other.login)
            && (hosts, tls, database) == (&other.hosts, &other.tls, &other.database)
            && (address, ca_pem, prefix) == (&other.address, &other.ca_pem, &other.prefix)
            && *wait_replicas == other.wait_replicas
    }
}

impl RedisLogin {
    fn is_same(&self, other: &Self) -> bool {
        let [ours, theirs] = [self, other].map(|it| it.password.as_ref().map(Secret::expose));
        self.username == other.username && ours == theirs
    }
}

/// What stands at the hosts of a [`RedisSettings`].
#[derive(Clone, Debug)]
pub enum RedisTopology {
    /// One server.
    One,
    /// Some nodes of a cluster, from which the others are learnt.
    Cluster,
    /// Sentinels, which know the server.
    Sentinels {
        /// The name that they know the server by.
        primary: String,
        /// How to log in to the sentinels themselves.
        login: RedisLogin,
    },
}

/// User and password, if there are any.
#[derive(Clone, Debug, Default)]
pub struct RedisLogin {
    /// The user; without one it is `default`.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
}

impl RedisTopology {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::One, Self::One) | (Self::Cluster, Self::Cluster) => true,
            (
                Self::Sentinels { primary, login },
                Self::Sentinels { primary: theirs, login: their_login },
            ) => primary == theirs && login.is_same(their_login),
            _ => false,
        }
    }

    /// What a URL of it begins with, but for TLS.
    pub const fn scheme(&self) -> &'static str {
        match self {
            Self::One => "redis",
            Self::Cluster => "redis+cluster",
            Self::Sentinels { .. } => "redis+sentinel",
        }
    }
}

/// `SCHEME://[user[:password]@]host[:port][,…][/PRIMARY][/database][?sentinel_password=…]`.
/// Sessions do not cross a network in the clear unless `allow_plain`.
pub(super) fn parse(url: &str, allow_plain: bool) -> Result<RedisSettings, SettingsError> {
    let (scheme, rest) = url.split_once("://").ok_or(SettingsError::RedisUrl)?;
    let (tls, kind) = match scheme.strip_prefix("rediss") {
        Some(kind) => (true, kind),
        None => (false, scheme.strip_prefix("redis").ok_or(SettingsError::RedisUrl)?),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (parse_login(login)?, hosts),
        None => (RedisLogin::default(), authority),
    };
    let (topology, database) = match kind {
        "" => (RedisTopology::One, path),
        "+cluster" => (RedisTopology::Cluster, path),
        "+sentinel" => {
            let (primary, database) = path.split_once('/').unwrap_or((path, ""));
            (
                RedisTopology::Sentinels { primary: primary.into(), login: sentinel(query)? },
                database,
            )
        }
        _ => return Err(SettingsError::RedisUrl),
    };
    let database = if database.is_empty() { Ok(0) } else { database.parse() };
    let database = database.map_err(|_| SettingsError::RedisUrl)?;
    refuse_contradictions(&topology, database, query)?;
    let default_port =
        if matches!(topology, RedisTopology::Sentinels { .. }) { 26379 } else { 6379 };
    let hosts: Vec<_> =
        hosts.split(',').map(|host| parse_host(host, default_port)).collect::<Result<_, _>>()?;
    if matches!(topology, RedisTopology::One) && hosts.len() > 1 {
        return Err(SettingsError::RedisHosts);
    }
    if !tls && !allow_plain && !hosts.iter().all(|(host, _)| is_here(host)) {
        return Err(SettingsError::PlainRedis);
    }
    let address = shown(&hosts, &topology);
    let (ca_pem, prefix, wait_replicas) = (None, String::new(), 0);
    Ok(RedisSettings {
        topology,
        hosts,
        tls,
        login,
        database,
        address,
        ca_pem,
        prefix,
        wait_replicas,
    })
}

fn refuse_contradictions(
    topology: &RedisTopology,
    database: i64,
    query: &str,
) -> Result<(), SettingsError> {
    match topology {
        RedisTopology::Cluster if database != 0 => Err(SettingsError::RedisClusterDatabase),
        RedisTopology::Sentinels { primary, .. } if primary.is_empty() => {
            Err(SettingsError::RedisPrimary)
        }
        RedisTopology::One | RedisTopology::Cluster if !query.is_empty() => {
            Err(SettingsError::RedisQuery)
        }
        _ => Ok(()),
    }
}

fn parse_login(text: &str) -> Result<RedisLogin, SettingsError> {
    let (username, password) = text.split_once(':').unwrap_or((text, ""));
    let given = |text: &str| -> Result<Option<String>, SettingsError> {
        let decoded = percent_decode_str(text).decode_utf8().map_err(|_| SettingsError::RedisUrl);
        Ok((!text.is_empty()).then_some(decoded?.into_owned()))
    };
    Ok(RedisLogin { username: given(username)?, password: given(password)?.map(Secret::new) })
}

fn sentinel(query: &str) -> Result<RedisLogin, SettingsError> {
    let mut login = RedisLogin::default();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "sentinel_username" => login.username = Some(value.into_owned()),
            "sentinel_password" => login.password = Some(Secret::new(value.into_owned())),
            _ => return Err(SettingsError::RedisQuery),
        }
    }
    Ok(login)
}

fn parse_host(text: &str, default_port: u16) -> Result<(String, u16), SettingsError> {
    let authority: Authority = text.parse().map_err(|_| SettingsError::RedisUrl)?;
    let host = authority.host().trim_matches(['[', ']']);
    let has_port = authority.as_str().len() > authority.host().len();
    match authority.port_u16() {
        _ if host.is_empty() => Err(SettingsError::RedisUrl),
        None if has_port => Err(SettingsError::RedisUrl),
        port => Ok((host.to_owned(), port.unwrap_or(default_port))),
    }
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn shown(hosts: &[(String, u16)], topology: &RedisTopology) -> String {
    let each = hosts.iter().map(|(host, port)| {
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    });
    let hosts = each.collect::<Vec<_>>().join(",");
    match topology {
        RedisTopology::Sentinels { primary, .. } => format!("{hosts}/{primary}"),
        RedisTopology::One | RedisTopology::Cluster => hosts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> RedisSettings {
        parse(url, false).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn one_server_has_user_password_and_database() {
        let one = parsed("rediss://proxy:p%40ss@cache.example.com:6380/2");
        assert!(matches!(one.topology, RedisTopology::One) && one.tls);
        assert_eq!(one.hosts, [("cache.example.com".to_owned(), 6380)]);
        assert_eq!(one.login.username.as_deref(), Some("proxy"));
        assert_eq!(one.login.password.unwrap().expose(), "p@ss");
        assert_eq!((one.database, one.address.as_str()), (2, "cache.example.com:6380"));
        let bare = parsed("redis://[::1]");
        assert_eq!(bare.address, "[::1]:6379");
        assert!(bare.login.username.is_none() && bare.login.password.is_none());
    }

    #[test]
    fn a_cluster_has_several_nodes_and_sentinels_know_a_primary_by_name() {
        let cluster = parsed("rediss+cluster://:pw@a:7000,b:7001,c");
        assert!(matches!(cluster.topology, RedisTopology::Cluster));
        assert_eq!(cluster.address, "a:7000,b:7001,c:6379");
        let url = "redis+sentinel://u:p@127.0.0.1,localhost:5/main/3?sentinel_password=q%2B";
        let sentinels = parsed(url);
        assert_eq!(sentinels.address, "127.0.0.1:26379,localhost:5/main");
        assert_eq!(sentinels.database, 3);
        let RedisTopology::Sentinels { primary, login } = sentinels.topology else {
            panic!("sentinels")
        };
        assert_eq!((primary.as_str(), login.password.unwrap().expose()), ("main", "q+"));
    }

    #[test]
    fn what_does_not_do_is_refused_with_its_cure() {
        let refused = |url| parse(url, false).unwrap_err().to_string();
        let written = "store.redis is not usable: write it as rediss://user:password@host:port";
        for url in
            ["", "http://a", "redis://", "rediss://a:port", "rediss+ring://a", "rediss://a/x"]
        {
            assert_eq!(refused(url), written, "{url}");
        }
        assert_eq!(
            refused("rediss://a,b"),
            "store.redis names several servers: write rediss+cluster://host,host for a cluster, or \
             rediss+sentinel://host,host/PRIMARY for sentinels"
        );
        assert_eq!(
            refused("rediss+sentinel://a,b"),
            "store.redis names sentinels but not the server that they watch: end it with /PRIMARY"
        );
        assert_eq!(
            refused("rediss+cluster://a/1"),
            "store.redis names database 1 or higher of a cluster, which has only 0: leave it out"
        );
        assert_eq!(
            refused("rediss://a?protocol=resp3"),
            "store.redis has a parameter that is not known: only sentinels have any, \
             sentinel_username and sentinel_password"
        );
        assert!(refused("redis+cluster://127.0.0.1,10.0.0.1").contains("shows sessions"));
    }
}
