//! Things that are good once: authorization codes, device codes, WebSocket tokens.
//!
//! Pure: time comes as an argument.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Timestamp;

/// All codes that are out.
#[derive(Debug, Default)]
pub(super) struct Codes {
    serial: u64,
    approvals: HashMap<String, Issued>,
    devices: HashMap<String, PendingDevice>,
    sockets: HashMap<String, Timestamp>,
}

/// What the user agreed to at the authorization endpoint.
#[derive(Clone, Debug)]
pub(super) struct Approval {
    pub(super) application: String,
    pub(super) user: u64,
    pub(super) redirect_uri: Option<String>,
    pub(super) challenge: Option<String>,
    /// Whether the challenge is the verifier itself instead of its digest.
    pub(super) plain: bool,
}

/// Where a device code stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// The user has not looked yet.
    Pending,
    /// The user said yes.
    Approved(u64),
    /// It never was, is used up or has expired.
    Unknown,
}

/// The two codes of the device flow (RFC 8628 §3.2).
#[derive(Clone, Debug)]
pub(super) struct DeviceCodes {
    pub(super) device_code: String,
    pub(super) user_code: String,
}

#[derive(Debug)]
struct Issued {
    approval: Approval,
    until: Timestamp,
    used: Option<u64>,
}

#[derive(Debug)]
struct PendingDevice {
    application: String,
    user_code: String,
    until: Timestamp,
    user: Option<u64>,
}

impl Codes {
    /// Issues an authorization code.
    pub(super) fn approve(&mut self, approval: Approval, now: Timestamp) -> String {
        self.approvals.retain(|_, issued| now < issued.until + CODE_REMEMBERED);
        let code = format!("sandbox-code-{}", self.next());
        let issued = Issued { approval, until: now + CODE_TTL, used: None };
        self.approvals.insert(code.clone(), issued);
        code
    }

    /// The approval behind a code; when it was used before, the session it was used for.
    pub(super) fn redeem(&mut self, code: &str, now: Timestamp) -> Result<Approval, Option<u64>> {
        let issued = self.approvals.get_mut(code).ok_or(None)?;
        match issued.used {
            Some(session) => Err(Some(session).filter(|session| *session != REFUSED)),
            None if now >= issued.until => Err(None),
            None => {
                issued.used = Some(REFUSED);
                Ok(issued.approval.clone())
            }
        }
    }

    /// Notes which session a code was exchanged for.
    pub(super) fn redeemed(&mut self, code: &str, session: u64) {
        if let Some(issued) = self.approvals.get_mut(code) {
            issued.used = Some(session);
        }
    }

    /// Starts a device flow.
    pub(super) fn start_device(&mut self, application: &str, now: Timestamp) -> DeviceCodes {
        self.devices.retain(|_, device| now < device.until);
        let serial = self.next();
        let device_code = format!("sandbox-device-{serial}");
        let user_code = format!("SBX-{serial:04}");
        let pending = PendingDevice {
            application: application.to_owned(),
            user_code: user_code.clone(),
            until: now + DEVICE_TTL,
            user: None,
        };
        self.devices.insert(device_code.clone(), pending);
        DeviceCodes { device_code, user_code }
    }

    /// The user says yes to the device that shows `user_code`. False if no device shows it.
    pub(super) fn approve_device(&mut self, user_code: &str, user: u64) -> bool {
        let device = self.devices.values_mut().find(|device| device.user_code == user_code);
        device.map(|device| device.user = Some(user)).is_some()
    }

    /// Asks for the outcome; an approved code is used up by that.
    pub(super) fn device(&mut self, code: &str, application: &str, now: Timestamp) -> Device {
        let known = self.devices.get(code);
        let Some(device) = known.filter(|d| d.application == application && now < d.until) else {
            return Device::Unknown;
        };
        let Some(user) = device.user else { return Device::Pending };
        self.devices.remove(code);
        Device::Approved(user)
    }

    /// Issues a WebSocket token.
    pub(super) fn issue_socket(&mut self, until: Timestamp, now: Timestamp) -> String {
        self.sockets.retain(|_, until| now < *until);
        let token = format!("sandbox-ws-{}", self.next());
        self.sockets.insert(token.clone(), until);
        token
    }

    /// Spends a WebSocket token. False if it is unknown, spent or too old.
    pub(super) fn spend_socket(&mut self, token: &str, now: Timestamp) -> bool {
        self.sockets.remove(token).is_some_and(|until| now < until)
    }

    fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

const CODE_TTL: Duration = Duration::from_secs(60);
const CODE_REMEMBERED: Duration = Duration::from_secs(600);
/// How long a device code may wait for its user, as the device endpoint announces it.
pub(super) const DEVICE_TTL: Duration = Duration::from_secs(600);
/// Stands for the session of a code that was spent on a refused exchange; real ones start at 1.
const REFUSED: u64 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

    #[test]
    fn a_websocket_token_is_good_for_thirty_seconds_and_one_connection() {
        let mut codes = Codes::default();
        let until = NOW + Duration::from_secs(30);
        let (first, second) = (codes.issue_socket(until, NOW), codes.issue_socket(until, NOW));
        assert!(codes.spend_socket(&first, NOW + Duration::from_millis(29_999)));
        assert!(!codes.spend_socket(&first, NOW), "spent twice");
        assert!(!codes.spend_socket(&second, until), "spent too late");
    }

    #[test]
    fn a_device_waits_for_its_user_and_then_gets_one_answer() {
        let mut codes = Codes::default();
        let device = codes.start_device("app", NOW);
        assert_eq!(codes.device(&device.device_code, "app", NOW), Device::Pending);
        assert!(codes.approve_device(&device.user_code, 7));
        assert_eq!(codes.device(&device.device_code, "other", NOW), Device::Unknown);
        assert_eq!(codes.device(&device.device_code, "app", NOW), Device::Approved(7));
        assert_eq!(codes.device(&device.device_code, "app", NOW), Device::Unknown);
    }
}
