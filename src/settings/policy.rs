//! What callers may ask RingCentral for: `[policy]`, and `preset`, `allow` and `deny` of clients.

use std::sync::Arc;

use super::{SettingsError, Warning};
use crate::config::PolicyConfig;
use crate::policy::{Policy, Written};

/// The policy that is written for `whom`, if one is.
pub(super) fn policy(
    config: PolicyConfig,
    whom: &str,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Arc<Policy>>, SettingsError> {
    let PolicyConfig { preset, allow, deny } = config;
    let presets = preset.unwrap_or_default();
    let written = Written { presets, allow, deny: deny.unwrap_or_default() };
    let compiled = Policy::compile(&written).map_err(SettingsError::Policy)?;
    Ok(compiled.map(|(policy, remarks)| {
        let warning = |remark| Warning::Policy { whom: whom.to_owned(), remark };
        warnings.extend(remarks.into_iter().map(warning));
        Arc::new(policy)
    }))
}
