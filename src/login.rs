//! Logging in and out: how a person's session gets into the store, and out of it again.
//!
//! It works beside running proxies, by the same rules: the application's budget, the identity's lease,
//! a store that was probed before anything is asked for. What is saved here they hear of through the
//! store, and use at once.
//!
//! [`subject`] says whose login it is; `authorization` and `device` in [`crate::oauth`] know the
//! protocols; [`callback`] listens for the browser, [`browser`] opens it, [`registrar`] obtains, keeps
//! and ends sessions, [`transfer`] carries them to another store and back.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;

use crate::oauth::TokenError;
use crate::oauth::authorization::{PasteError, Refusal};
use crate::store::StoreError;

pub mod browser;
pub mod callback;
mod device;
pub mod registrar;
pub mod subject;
pub mod transfer;

/// How long a login waits for the person.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Why nobody is logged in or out.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// It is not clear who.
    #[error(transparent)]
    Subject(#[from] subject::SubjectError),
    /// The store failed.
    #[error("the store is not usable, and without it nothing is asked for")]
    Store(#[from] StoreError),
    /// RingCentral gave no session.
    #[error("no session was opened")]
    Token(#[from] TokenError),
    /// RingCentral has one, but it could not be kept.
    #[error("a session was opened, but it could not be stored, and was ended again")]
    NotKept(#[source] StoreError),
    /// RingCentral sent the browser back without a code, or the person said no on the device.
    #[error("RingCentral refused the login ({0})")]
    Refused(Refusal),
    /// What was pasted does not do.
    #[error(transparent)]
    Paste(#[from] PasteError),
    /// Standard input failed.
    #[error("standard input cannot be read")]
    Input(#[source] io::Error),
    /// Nobody came.
    #[error(
        "nobody has logged in within {}: run it again", humantime::format_duration(*.after)
    )]
    Late {
        /// How long that was.
        after: Duration,
    },
    /// Another program has the port of the redirect address.
    #[error(
        "{address} is in use: end the process that has it, use --paste, or choose another redirect_uri \
         and register it for the app"
    )]
    InUse {
        /// The address of `redirect_uri`.
        address: SocketAddr,
    },
    /// The port of the redirect address cannot be had.
    #[error("{address}, where redirect_uri leads, cannot be listened on: use --paste")]
    Listen {
        /// The address of `redirect_uri`.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The redirect address is not on this machine.
    #[error(
        "redirect_uri {redirect_uri} does not lead to this program: use --paste, or register and \
         configure one such as http://127.0.0.1:8765/callback"
    )]
    NotHere {
        /// It.
        redirect_uri: String,
    },
    /// There is neither a terminal nor a browser.
    #[error(
        "there is neither a terminal nor a browser here: say how with --paste, --device, --jwt-file or \
         --no-browser"
    )]
    Nobody,
    /// The server has no device login.
    #[error("the server offers no login on a device ({status} at {url}): use --paste")]
    NoDevice {
        /// What it said.
        status: StatusCode,
        /// Who was asked.
        url: String,
    },
    /// RingCentral did not end a session.
    #[error("the revocation endpoint answered {status}")]
    NotRevoked {
        /// What it answered.
        status: StatusCode,
    },
    /// RingCentral was not there to end a session.
    #[error("the revocation endpoint cannot be reached")]
    NoRevocation(#[source] io::Error),
    /// The codes of a device login ended first.
    #[error("the code was not entered in time: run it again")]
    CodeExpired,
    /// Others use the identity all the time.
    #[error("another process holds the lease of identity {identity:?}: try again in a minute")]
    Busy {
        /// Whose lease.
        identity: String,
    },
    /// Others use up the budget, or RingCentral has asked for silence.
    #[error(
        "application {application:?} may not ask for a token just now: its budget of token requests is \
         used up, or RingCentral has asked for silence; try again in a minute"
    )]
    NoTurn {
        /// Whose budget.
        application: String,
    },
}
