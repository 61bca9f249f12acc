//! `[trace]`: where traces go. Whether this program can send any was decided when it was built.

use std::num::NonZeroU32;

use super::{Origin, SettingsError, TraceSettings};
use crate::config::TraceConfig;

pub(super) fn trace(config: TraceConfig) -> Result<Option<TraceSettings>, SettingsError> {
    let Some(url) = config.otlp_url else {
        return match config.sample_one_in {
            None | Some(NonZeroU32::MIN) => Ok(None),
            Some(_) => {
                let (key, with) = ("trace.sample_one_in", "trace.otlp_url");
                Err(SettingsError::UselessWithout { key, with })
            }
        };
    };
    let problem = |problem| SettingsError::Url { key: "trace.otlp_url", problem };
    let collector = Origin::parse(&url).map_err(problem)?;
    if cfg!(not(feature = "otlp")) {
        return Err(SettingsError::NoTraces);
    }
    let sample_one_in = config.sample_one_in.unwrap_or(NonZeroU32::MIN);
    Ok(Some(TraceSettings { collector, sample_one_in }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::chain;

    fn traced(url: Option<&str>, one_in: Option<u32>) -> Result<Option<TraceSettings>, String> {
        let sample_one_in = one_in.and_then(NonZeroU32::new);
        let config = TraceConfig { otlp_url: url.map(str::to_owned), sample_one_in };
        trace(config).map_err(|error| chain(&error))
    }

    #[test]
    fn traces_are_off_unless_a_collector_is_named() {
        assert_eq!(traced(None, Some(1)), Ok(None));
        let useless = "trace.sample_one_in is of use only with trace.otlp_url: add trace.otlp_url or \
                       remove trace.sample_one_in";
        assert_eq!(traced(None, Some(5)), Err(useless.to_owned()));
        let path = traced(Some("http://127.0.0.1:4318/v1/traces"), None).unwrap_err();
        assert!(path.starts_with("trace.otlp_url "), "{path}");
    }

    #[cfg(feature = "otlp")]
    #[test]
    fn a_collector_gets_every_request_unless_it_wants_fewer() {
        let collector = Origin::parse("http://127.0.0.1:4318").unwrap();
        let sample_one_in = NonZeroU32::MIN;
        let all = TraceSettings { collector, sample_one_in };
        assert_eq!(traced(Some("http://127.0.0.1:4318"), None), Ok(Some(all.clone())));
        let sample_one_in = NonZeroU32::new(100).unwrap();
        let few = TraceSettings { sample_one_in, ..all };
        assert_eq!(traced(Some("http://127.0.0.1:4318"), Some(100)), Ok(Some(few)));
    }

    #[cfg(not(feature = "otlp"))]
    #[test]
    fn a_program_without_traces_says_so() {
        let why = "trace.otlp_url needs a program that was built with traces: cargo build --release \
                   --features otlp";
        assert_eq!(traced(Some("http://127.0.0.1:4318"), None), Err(why.to_owned()));
    }
}
