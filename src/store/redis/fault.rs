//! What a failure of the server calls for. Pure.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What to do about an error, for the message that reports it.
pub(super) fn cure(error: &RedisError) -> &'static str {
    match error.kind() {
        ErrorKind::AuthenticationFailed => return LOGIN,
        ErrorKind::Server(ServerErrorKind::NoPerm) => return RIGHTS,
        ErrorKind::Server(ServerErrorKind::ReadOnly) => return REPLICA,
        ErrorKind::Server(ServerErrorKind::Moved) => return CLUSTER,
        ErrorKind::Server(ServerErrorKind::BusyLoading) => return LOADING,
        ErrorKind::Server(ServerErrorKind::ClusterDown) => return BROKEN_CLUSTER,
        ErrorKind::MasterNameNotFoundBySentinel => return PRIMARY,
        _ if error.is_timeout() => return SILENT,
        _ if error.is_connection_dropped() && !error.is_connection_refusal() => return CLOSED,
        _ => {}
    }
    // The codes of other errors, and those of errors inside a script, stand in the text only.
    let text = error.to_string();
    let known = KNOWN.iter().find(|(words, _)| text.contains(words));
    known.map_or(UNKNOWN, |(_, cure)| cure)
}

const LOGIN: &str = "it refuses user or password: correct them in store.redis";
const RIGHTS: &str = "its user may not: grant the rights that docs/redis.md lists";
const REPLICA: &str =
    "it is a replica: name the primary in store.redis, or the sentinels that know it";
const CLUSTER: &str = "it belongs to a cluster: write redis+cluster:// or rediss+cluster://";
const LOADING: &str = "it is still reading its data: wait for it";
const BROKEN_CLUSTER: &str = "the cluster is not whole: see CLUSTER INFO";
const PRIMARY: &str = "the sentinels know no such server, or none that is up: check the name at the end of store.redis";
const SILENT: &str = "it gives no answer in time: check that it runs, that the network lets it \
     through, and that it speaks TLS if store.redis says rediss://";
const CLOSED: &str = "it closed the connection: if it speaks TLS there, write rediss://";
const UNTRUSTED: &str = "its certificate is not from a CA that is trusted: set store.redis_ca_file";
const UNKNOWN: &str = "check that it runs, its address and its password";

const KNOWN: &[(&str, &str)] = &[
    ("not valid for name", "its certificate has another name: use that one in store.redis"),
    ("certificate expired", "its certificate has expired: renew it, or correct the clock"),
    ("invalid peer certificate", UNTRUSTED),
    ("corrupt message", "it speaks no TLS there: use its TLS port, or redis:// within one machine"),
    ("WRONGPASS", LOGIN),
    ("NOAUTH", "it wants a password: write it into store.redis"),
    ("NOPERM", RIGHTS),
    ("The user executing the script", RIGHTS),
    ("READONLY", REPLICA),
    ("MOVED", CLUSTER),
    ("OOM", "its memory is full: raise maxmemory, or let it evict other keys"),
    ("MISCONF", "it cannot write its disk: see its log"),
    ("NOREPLICAS", "too few replicas are connected to it: see min-replicas-to-write"),
    ("CLUSTERDOWN", BROKEN_CLUSTER),
    ("cluster support disabled", "it is no cluster: write redis:// or rediss://"),
];

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn each_failure_has_the_cure_of_its_cause() {
        let server = |kind: ServerErrorKind| RedisError::from((ErrorKind::Server(kind), "no"));
        let other = |code: &str| redis::make_extension_error(code.into(), Some("no".into()));
        let tls = |text: &str| RedisError::from(io::Error::other(text.to_owned()));
        let cases = [
            (RedisError::from((ErrorKind::AuthenticationFailed, "no")), LOGIN),
            (other("WRONGPASS"), LOGIN),
            (server(ServerErrorKind::NoPerm), RIGHTS),
            (server(ServerErrorKind::ReadOnly), REPLICA),
            (server(ServerErrorKind::Moved), CLUSTER),
            (server(ServerErrorKind::ClusterDown), BROKEN_CLUSTER),
            (server(ServerErrorKind::BusyLoading), LOADING),
            (other("NOAUTH"), "it wants a password: write it into store.redis"),
            (other("The user executing the script can't run this command"), RIGHTS),
            (other("MISCONF"), "it cannot write its disk: see its log"),
            (RedisError::from(io::Error::from(io::ErrorKind::TimedOut)), SILENT),
            (tls("invalid peer certificate: UnknownIssuer"), UNTRUSTED),
            (RedisError::from(io::Error::from(io::ErrorKind::ConnectionReset)), CLOSED),
            (RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused)), UNKNOWN),
        ];
        for (error, cure_of_cause) in cases {
            assert_eq!(cure(&error), cure_of_cause, "{error}");
        }
    }
}
