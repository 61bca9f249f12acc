//! How a server is set up, as far as it tells: for whoever checks that it can be relied on.

use std::collections::HashMap;

use redis::{ErrorKind, RedisResult, ServerErrorKind};

use super::{RedisStore, failure};
use crate::store::StoreError;

/// What a server has said of itself. Its user may be allowed none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examined {
    /// Its own name and version, as in `Redis 7.0.15`.
    pub version: Option<String>,
    /// Whether it appends every change to a file.
    pub appends: Option<bool>,
    /// `appendfsync`.
    pub syncs: Option<String>,
    /// `maxmemory-policy`.
    pub eviction: Option<String>,
    /// Replicas that are connected.
    pub replicas: Option<u32>,
}

impl RedisStore {
    /// Asks the server, which has to answer; what it may not tell is left out.
    pub async fn examine(&self) -> Result<Examined, StoreError> {
        self.run::<String>("be reached", &redis::cmd("PING")).await?;
        let info: RedisResult<String> = self.link.run(&redis::cmd("INFO")).await;
        let mut examined = told(info)
            .map_err(|it| self.failed_to_tell(it))?
            .map_or_else(Examined::default, |info| of_info(&info));
        let syncs: RedisResult<HashMap<String, String>> =
            self.link.run(redis::cmd("CONFIG").arg("GET").arg("appendfsync")).await;
        let syncs = told(syncs).map_err(|it| self.failed_to_tell(it))?;
        examined.syncs = syncs.and_then(|mut found| found.remove("appendfsync"));
        Ok(examined)
    }

    fn failed_to_tell(&self, error: redis::RedisError) -> StoreError {
        failure(self.address.clone(), "tell how it is set up", error)
    }
}

/// `None` where the user may not ask, or the server has no such command, as hosted ones have not.
fn told<T>(answer: RedisResult<T>) -> RedisResult<Option<T>> {
    match answer {
        Ok(told) => Ok(Some(told)),
        Err(error) => match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError) => Ok(None),
            _ => Err(error),
        },
    }
}

/// `INFO`: lines of `key:value`. PURE.
fn of_info(info: &str) -> Examined {
    let value = |key: &str| {
        let of_key =
            |line: &str| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim().to_owned());
        info.lines().find_map(of_key)
    };
    let version = match (value("valkey_version"), value("redis_version")) {
        (Some(version), _) => Some(format!("Valkey {version}")),
        (None, version) => version.map(|version| format!("Redis {version}")),
    };
    Examined {
        version,
        appends: value("aof_enabled").map(|enabled| enabled == "1"),
        syncs: None,
        eviction: value("maxmemory_policy"),
        replicas: value("connected_slaves").and_then(|number| number.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_tells_is_read_and_what_it_does_not_is_left_out() {
        let info = "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1.0\r\n# Persistence\r\n\
                    aof_enabled:1\r\nmaxmemory_policy:noeviction\r\nconnected_slaves:2\r\n";
        let expected = Examined {
            version: Some("Valkey 8.1.0".into()),
            appends: Some(true),
            syncs: None,
            eviction: Some("noeviction".into()),
            replicas: Some(2),
        };
        assert_eq!(of_info(info), expected);
        assert_eq!(of_info("redis_version:7.0.15").version.as_deref(), Some("Redis 7.0.15"));
        assert_eq!(of_info("something else"), Examined::default());
    }
}
