//! `check --online`: one token and one request for each identity, by the same keepers as `serve`.
//!
//! Nothing is listened on. What is obtained is stored, and `serve` goes on with it: no token
//! request is wasted. Of what RingCentral answers, only status and error code are shown, and who
//! the identity is.

use std::fmt;
use std::io::Write;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, StatusCode};
use humantime::format_duration;
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::cli::{EXTENSION, Failure, serve};
use crate::clock::{Clock, Stopwatch};
use crate::oauth::TokenError;
use crate::oauth::endpoint::http_client;
use crate::service::{self, StartError};
use crate::settings::{Credential, Settings};
use crate::telemetry::chain;
use crate::token::Generation;
use crate::token::identities::Identities;
use crate::token::keeper::{Keeper, Unavailable};
use crate::token::slot::LocalBearer;

/// Long enough for a turn in the budget, which comes within a minute, and for an answer.
const PATIENCE: Duration = Duration::from_secs(75);

/// Checks every identity in turn and says what came of it.
pub(in crate::cli) fn run(settings: &Settings, out: &mut impl Write) -> Result<(), Failure> {
    serve::runtime()?.block_on(async {
        let clock = Clock::system();
        let tls = service::tls(settings).map_err(StartError::from)?;
        let identities = service::identities(settings, &tls, &clock)?;
        let upstream = &settings.upstream;
        let http = http_client(tls, upstream.http_proxy.as_ref(), upstream.response_timeout)
            .map_err(StartError::from)?;
        let check = Check { settings, http, clock };
        let (end, ending) = oneshot::channel::<()>();
        let examine = async {
            let result = check.all(&identities, out).await;
            drop(end);
            result
        };
        tokio::join!(identities.run(async { drop(ending.await) }), examine).1
    })
}

struct Check<'a> {
    settings: &'a Settings,
    http: reqwest::Client,
    clock: Clock,
}

/// What is known of one identity in the end.
enum Finding {
    Good { status: StatusCode, life: Duration, took: Duration, extension: Extension },
    NoToken(Unavailable),
    Refused { status: StatusCode, code: String },
    Unreachable(reqwest::Error),
    Late,
}

/// Who an identity is.
#[derive(Default, Deserialize)]
struct Extension {
    #[serde(rename = "extensionNumber")]
    number: Option<String>,
    name: Option<String>,
    #[serde(rename = "errorCode")]
    error_code: Option<String>,
}

struct Token {
    value: HeaderValue,
    generation: Generation,
}

impl Check<'_> {
    async fn all(&self, identities: &Identities, out: &mut impl Write) -> Result<(), Failure> {
        let (mut failed, mut checked) = (0, 0);
        for ((_, keeper), settings) in identities.iter().zip(&self.settings.identities) {
            let target = match settings.credential {
                // There is no user behind it who could be asked for.
                Credential::ClientCredentials => CLIENT_INFO,
                _ => EXTENSION,
            };
            let late = self.clock.sleep(PATIENCE);
            let finding = tokio::select! {
                finding = self.one(keeper, target) => finding,
                () = late => Finding::Late,
            };
            checked += 1;
            failed += usize::from(!finding.is_good());
            writeln!(out, "online       {}: {finding}", keeper.name()).map_err(Failure::Output)?;
        }
        if failed == 0 { Ok(()) } else { Err(Failure::Online { failed, checked }) }
    }

    async fn one(&self, keeper: &Keeper, target: &'static str) -> Finding {
        let token = match self.token(keeper).await {
            Ok(token) => token,
            Err(why) => return Finding::NoToken(why),
        };
        let finding = self.ask(keeper, target, &token).await;
        // The stored token may be dead before its time: then a new one decides.
        let dead = matches!(&finding, Finding::Refused { status, .. } if *status == StatusCode::UNAUTHORIZED);
        if !dead || keeper.rejected(token.generation).await.is_err() {
            return finding;
        }
        match self.token(keeper).await {
            Ok(newer) => self.ask(keeper, target, &newer).await,
            Err(why) => Finding::NoToken(why),
        }
    }

    async fn token(&self, keeper: &Keeper) -> Result<Token, Unavailable> {
        keeper.first_outcome().await?;
        let mut local = LocalBearer::default();
        let bearer = local.current(keeper.slot(), self.clock.now());
        let bearer = bearer.ok_or_else(|| keeper.unavailable())?;
        Ok(Token { value: bearer.value.clone(), generation: bearer.generation })
    }

    async fn ask(&self, keeper: &Keeper, target: &'static str, token: &Token) -> Finding {
        let watch = Stopwatch::start();
        let url = self.settings.upstream.origin.uri(target).to_string();
        let request = self.http.get(url).header(AUTHORIZATION, token.value.clone());
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Finding::Unreachable(error.without_url()),
        };
        let (status, took) = (answer.status(), watch.elapsed());
        let content = answer.bytes().await.unwrap_or_default();
        let extension: Extension = serde_json::from_slice(&content).unwrap_or_default();
        if !(status.is_success() || status == StatusCode::FORBIDDEN) {
            let code = extension.error_code.unwrap_or_else(|| "no error code".to_owned());
            return Finding::Refused { status, code };
        }
        keeper.accepted(token.generation);
        let now = self.clock.now();
        let life = keeper.status().expires_at.map_or(Duration::ZERO, |end| now.until(end));
        Finding::Good { status, life, took, extension }
    }
}

impl Finding {
    fn is_good(&self) -> bool {
        matches!(self, Self::Good { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good { status, life, took, extension } => {
                let life = format_duration(Duration::from_secs(life.as_secs()));
                let ms = took.as_millis();
                write!(f, "good; the token lives for {life}, and RingCentral ")?;
                match *status {
                    StatusCode::FORBIDDEN => write!(
                        f,
                        "accepts it ({ms} ms), though the app may not read who it is (403)"
                    ),
                    _ => write!(f, "answered in {ms} ms{extension}"),
                }
            }
            Self::NoToken(why) => {
                let reason: &TokenError = &why.reason;
                write!(f, "no token: {}", chain(reason))
            }
            Self::Refused { status: StatusCode::UNAUTHORIZED, code } => write!(
                f,
                "RingCentral refuses its token ({code}): check that token_url and upstream.url belong together"
            ),
            Self::Refused { status, code } => write!(
                f,
                "it has a token, but RingCentral answered {status} ({code}): check upstream.url, or try again later"
            ),
            Self::Unreachable(error) => {
                write!(f, "it has a token, but upstream.url cannot be reached: {}", chain(error))
            }
            Self::Late => write!(
                f,
                "nothing came of it within {}: the budget of token requests may be used up; try again in a minute",
                format_duration(PATIENCE)
            ),
        }
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(number) = &self.number else { return Ok(()) };
        write!(f, " as extension {}", number.escape_debug())?;
        match &self.name {
            Some(name) => write!(f, ", {}", name.escape_debug()),
            None => Ok(()),
        }
    }
}

const CLIENT_INFO: &str = "/restapi/v1.0/client-info";
