//! RingCentral's other hosts: media and notifications, unless the configuration says otherwise.

use std::collections::BTreeMap;

use super::identity::check_name;
use super::{HostSettings, Origin, SettingsError, UrlProblem, Warning};
use crate::config::HostConfig;

/// Refuses an origin that is the proxy's own.
type RefuseOwn<'a> = &'a dyn Fn(&'static str, &Origin) -> Result<(), SettingsError>;

/// Every `[host.NAME]`, and RingCentral's own where `platform` is RingCentral and they are not named.
pub(super) fn hosts(
    written: BTreeMap<String, HostConfig>,
    platform: &Origin,
    allow_plain_http: bool,
    refuse_own: RefuseOwn<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<HostSettings>, SettingsError> {
    let mut hosts = ringcentrals(platform);
    for (name, config) in written {
        let host = host(&name, config, allow_plain_http, refuse_own, warnings)
            .map_err(|error| error.within("host", &name))?;
        hosts.retain(|known| known.name != host.name);
        hosts.push(host);
    }
    Ok(hosts)
}

fn host(
    name: &str,
    config: HostConfig,
    allow_plain_http: bool,
    refuse_own: RefuseOwn<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<HostSettings, SettingsError> {
    check_name(name)?;
    if name == "as" {
        return Err(SettingsError::ReservedHost);
    }
    let url = config.url.ok_or(SettingsError::Missing {
        key: "url",
        cure: "name scheme and host, such as https://media.ringcentral.com; wss:// for WebSockets",
    })?;
    let refuse = |problem| SettingsError::Url { key: "url", problem };
    let (websocket, http) = match url.split_once("://") {
        Some(("wss", rest)) => (true, format!("https://{rest}")),
        Some(("ws", rest)) => (true, format!("http://{rest}")),
        _ => (false, url),
    };
    let origin = Origin::parse(&http).map_err(refuse)?;
    if origin.is_clear_text_to_another_machine() {
        if !allow_plain_http {
            return Err(refuse(UrlProblem::PlainHttp));
        }
        warnings.push(Warning::PlainHttp { key: "host", url: origin.to_string() });
    }
    refuse_own("url", &origin)?;
    let rewrite_links = config.rewrite_links.unwrap_or(true);
    Ok(HostSettings { name: name.to_owned(), origin, websocket, rewrite_links })
}

/// Where RingCentral keeps media and notifications. A stand-in has them at its own origin.
fn ringcentrals(platform: &Origin) -> Vec<HostSettings> {
    if !matches!(platform.host(), "platform.ringcentral.com" | "platform.ringcentral.biz") {
        return Vec::new();
    }
    let known = |name: &str, url, websocket| HostSettings {
        name: name.to_owned(),
        origin: Origin::parse(url).expect("it is one"),
        websocket,
        rewrite_links: true,
    };
    vec![
        known("media", "https://media.ringcentral.com", false),
        known("ws", "https://ws-api.ringcentral.com", true),
    ]
}
