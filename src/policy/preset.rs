//! Presets: rules under a name, for what most people want to keep apart.
//!
//! Their paths are wide on purpose, and so hold for operations that the table does not know: other
//! versions, other hosts, accounts by id or by `~`.

use super::PolicyError;

/// Rules under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// What it is called in a configuration.
    pub name: &'static str,
    /// What it means, in a few words.
    pub meaning: &'static str,
    /// What it allows, and with that denies everything else.
    pub allow: &'static [&'static str],
    /// What it denies.
    pub deny: &'static [&'static str],
}

/// All of them.
pub const PRESETS: [Preset; 6] = [
    Preset {
        name: "read-only",
        meaning: "GET and HEAD, and the searches and reports that are asked for by POST; nothing is changed or sent",
        allow: &[
            "GET *",
            "searchDirectoryEntries",
            "auditTrailSearch",
            "searchViaPost2",
            "parsePhoneNumber",
            "analyticsCallsAggregationFetch",
            "analyticsCallsTimelineFetch",
            "aggregatePerformanceReportCalls",
            "performanceReportCallsTimeline",
        ],
        deny: &[],
    },
    Preset {
        name: "no-sms",
        meaning: "no SMS, MMS, fax or page is sent, alone or in batches; what there is may be read",
        allow: &[],
        deny: &[
            "POST /restapi/**/sms/**",
            "POST /restapi/**/mms/**",
            "POST /restapi/**/fax/**",
            "POST /restapi/**/company-pager/**",
            "POST /restapi/**/a2p-sms/batch/**",
            "POST /restapi/**/a2p-sms/batches/**",
            "POST /restapi/**/message-threads/**",
            "POST /cx/social-messaging/**",
        ],
    },
    Preset {
        name: "no-messages",
        meaning: "no message is sent, read, changed or subscribed to: SMS, MMS, fax, pages, voicemail, Team Messaging, their exports and events",
        allow: &[],
        deny: &[
            "* /restapi/**/sms/**",
            "* /restapi/**/mms/**",
            "* /restapi/**/fax/**",
            "* /restapi/**/company-pager/**",
            "* /restapi/**/a2p-sms/**",
            "* /restapi/**/message-store/**",
            "* /restapi/**/message-sync/**",
            "* /restapi/**/message-threads/**",
            "* /restapi/**/message-store-report/**",
            "* /restapi/**/glip/**",
            "* /team-messaging/**",
            "* /cx/social-messaging/**",
            "POST /restapi/{version}/subscription/**",
            "PUT /restapi/{version}/subscription/**",
        ],
    },
    Preset {
        name: "no-recordings",
        meaning: "recordings of calls, meetings and webinars are neither listed nor fetched, nor their transcripts, on any host; voicemail is a message",
        allow: &[],
        deny: &[
            "GET /**/recording/**",
            "GET /**/recordings/**",
            "GET /**/meeting-recordings/**",
            "GET /ai/ringsense/**",
        ],
    },
    Preset {
        name: "no-calls",
        meaning: "no call is made or controlled, and no phone registered that could make one",
        allow: &[],
        deny: &[
            "POST /restapi/**/ring-out/**",
            "DELETE /restapi/**/ring-out/**",
            "POST /restapi/**/ringout/**",
            "DELETE /restapi/**/ringout/**",
            "POST /restapi/**/telephony/**",
            "PUT /restapi/**/telephony/**",
            "PATCH /restapi/**/telephony/**",
            "DELETE /restapi/**/telephony/**",
            "* /restapi/**/sip-provision/**",
            "* /restapi/**/sip-info/**",
        ],
    },
    Preset {
        name: "no-webhooks",
        meaning: "nothing is made or changed that sends events to another server",
        allow: &[],
        deny: &[
            "POST /restapi/{version}/subscription/**",
            "PUT /restapi/{version}/subscription/**",
            "POST /restapi/**/webhooks/**",
            "PUT /restapi/**/webhooks/**",
            "PATCH /restapi/**/webhooks/**",
            "POST /team-messaging/**/webhooks/**",
            "PUT /team-messaging/**/webhooks/**",
            "PATCH /team-messaging/**/webhooks/**",
        ],
    },
];

/// The preset of this name.
pub(super) fn find(name: &str) -> Result<&'static Preset, PolicyError> {
    if let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) {
        return Ok(preset);
    }
    let distance = |known: &&str| strsim::damerau_levenshtein(&name.to_ascii_lowercase(), known);
    let names = PRESETS.map(|preset| preset.name);
    let near = names.iter().copied().min_by_key(distance).filter(|known| distance(known) <= 3);
    let cure = match near {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("there are {}", names.join(", ")),
    };
    Err(PolicyError::Preset { name: name.to_owned(), cure })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Source;
    use crate::policy::rule::Rule;

    #[test]
    fn every_rule_of_every_preset_is_one() {
        for preset in PRESETS {
            assert!(preset.allow.len() + preset.deny.len() > 0);
            for text in preset.allow.iter().chain(preset.deny) {
                assert_eq!(Rule::known(text, Source::Preset(preset.name)).text, *text);
            }
        }
    }

    #[test]
    fn a_preset_that_is_none_is_told_with_its_cure() {
        let message = |name| find(name).unwrap_err().to_string();
        assert_eq!(message("no-sm"), "preset \"no-sm\" is none: did you mean \"no-sms\"?");
        assert_eq!(message("readonly"), "preset \"readonly\" is none: did you mean \"read-only\"?");
        assert_eq!(
            message("paranoid"),
            "preset \"paranoid\" is none: there are read-only, no-sms, no-messages, no-recordings, no-calls, no-webhooks"
        );
    }
}
