//! A login on a device (RFC 8628), from the codes to the session.

use super::LoginError;
use super::registrar::{Opened, Registrar};
use super::subject::Subject;
use crate::oauth::TokenError;
use crate::oauth::authorization::Refusal;
use crate::oauth::device::{DeviceCodes, Pace};
use crate::oauth::grant::Grant;
use crate::token::budget::Class;

impl Registrar {
    /// Asks for the codes that a person enters elsewhere.
    pub async fn begin_device(&self, subject: &Subject) -> Result<DeviceCodes, LoginError> {
        self.prepare(subject).await?;
        let application = &subject.identity.application;
        let answer = self.endpoint.authorize_device(&subject.identity, &self.clock).await;
        answer.map_err(|error| match error {
            TokenError::Unexpected { status, .. } if status.is_client_error() => {
                let url = application.device_authorization_url.to_string();
                LoginError::NoDevice { status, url }
            }
            error => error.into(),
        })
    }

    /// Asks, ever patiently, until somebody has entered the code or its time is over.
    pub async fn await_device(
        &self,
        subject: &Subject,
        codes: &DeviceCodes,
    ) -> Result<Opened, LoginError> {
        let per_minute = subject.identity.application.token_requests_per_minute;
        let mut pace = Pace::new(codes.interval, per_minute);
        loop {
            let next = self.clock.now() + pace.interval();
            if next >= codes.expires_at {
                return Err(LoginError::CodeExpired);
            }
            self.clock.sleep_until(next).await;
            // Behind renewals that are due before: they keep what is there already.
            let class = Class::Expiring(codes.expires_at);
            match self.open(subject, Grant::Device(&codes.device_code), class).await {
                Err(LoginError::NoTurn { .. } | LoginError::Busy { .. }) => {}
                Err(LoginError::Token(error)) if pace.goes_on_after(&error) => {}
                Err(LoginError::Token(error)) => return Err(over(error)),
                result => return result,
            }
        }
    }
}

/// RFC 8628 §3.5 has its own words for the end.
fn over(error: TokenError) -> LoginError {
    let code = match &error {
        TokenError::GrantRefused { code } => code.split(", ").next().unwrap_or_default(),
        _ => "",
    };
    match code {
        "access_denied" => LoginError::Refused(Refusal::of(code)),
        "expired_token" => LoginError::CodeExpired,
        _ => error.into(),
    }
}
