//! How much clients may ask for, and how long they may take: `[proxy]` and `[proxy.http2]`.

use std::time::Duration;

use bytesize::ByteSize;

use super::SettingsError;
use super::resolve::{HOUR, MINUTE, SECOND, time, within};
use crate::config::{Http2Config, ProxyConfig};
use crate::timers::stall::Pace;

/// What holds for every client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections of all clients to this process.
    pub max_connections: usize,
    /// Requests of one identity that have been let in and not been answered to the end.
    pub max_in_flight: usize,
    /// The longest content of a request, if there is to be any limit.
    pub max_request_bytes: Option<u64>,
    /// How long a TLS handshake, or the preface of HTTP/2, may take.
    pub handshake_timeout: Duration,
    /// How slowly content may be sent, and answers be taken.
    pub pace: Pace,
    /// HTTP/2 only.
    pub http2: Http2Limits,
}

/// `[proxy.http2]`: what one client may do on one HTTP/2 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Limits {
    /// Requests at once.
    pub max_streams: u32,
    /// The fields of a request, uncompressed.
    pub max_header_bytes: u32,
    /// Requests that it has cancelled before they were looked at.
    pub max_pending_resets: usize,
    /// Requests that were cancelled because they broke the protocol.
    pub max_error_resets: usize,
    /// How often it is asked for a sign of life while requests are in flight.
    pub ping_interval: Duration,
    /// How long that may take.
    pub ping_timeout: Duration,
}

/// Reads `[proxy]`.
pub(super) fn limits(config: &ProxyConfig) -> Result<ClientLimits, SettingsError> {
    let stall = time("proxy.client_stall_timeout", config.client_stall_timeout, MINUTE, HOUR)?;
    let least = ("proxy.client_stall_bytes", config.client_stall_bytes.unwrap_or(ByteSize::kib(1)));
    let longest = config.max_request_bytes;
    let longest = longest.map(|it| size(("proxy.max_request_bytes", it), 1, ByteSize::tib(1)));
    let handshake = config.handshake_timeout;
    Ok(ClientLimits {
        max_connections: count(
            ("proxy.max_connections", config.max_connections.map(u32::from)),
            10_000,
            1_000_000,
        )?,
        max_in_flight: count(
            ("proxy.max_in_flight", config.max_in_flight.map(u32::from)),
            2000,
            1_000_000,
        )?,
        max_request_bytes: longest.transpose()?,
        handshake_timeout: time("proxy.handshake_timeout", handshake, 10 * SECOND, 5 * MINUTE)?,
        pace: Pace { timeout: stall, bytes: size(least, 1, ByteSize::mib(1))? },
        http2: http2(&config.http2)?,
    })
}

fn http2(config: &Http2Config) -> Result<Http2Limits, SettingsError> {
    let number = |key, written: Option<std::num::NonZeroU32>, usual, most| {
        count((key, written.map(u32::from)), usual, most)
    };
    let fields = config.max_header_bytes.unwrap_or(ByteSize::kib(32));
    let fields = size(("proxy.http2.max_header_bytes", fields), 1024, ByteSize::mib(1))?;
    let streams = number("proxy.http2.max_streams", config.max_streams, 100, 10_000)?;
    let pending = "proxy.http2.max_pending_resets";
    let errors = "proxy.http2.max_error_resets";
    Ok(Http2Limits {
        max_streams: u32::try_from(streams).unwrap_or(u32::MAX),
        max_header_bytes: u32::try_from(fields).unwrap_or(u32::MAX),
        max_pending_resets: number(pending, config.max_pending_resets, 20, 1000)?,
        max_error_resets: number(errors, config.max_error_resets, 1000, 100_000)?,
        ping_interval: time("proxy.http2.ping_interval", config.ping_interval, 20 * SECOND, HOUR)?,
        ping_timeout: time("proxy.http2.ping_timeout", config.ping_timeout, 20 * SECOND, HOUR)?,
    })
}

/// A number within its bounds.
pub(super) fn count(
    (key, written): (&'static str, Option<u32>),
    usual: u32,
    most: u32,
) -> Result<usize, SettingsError> {
    let count = written.unwrap_or(usual);
    within(key, &count, &1, &most, ToString::to_string)?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

fn size(
    (key, size): (&'static str, ByteSize),
    least: u64,
    most: ByteSize,
) -> Result<u64, SettingsError> {
    within(key, &size, &ByteSize(least), &most, ToString::to_string)?;
    Ok(size.0)
}
