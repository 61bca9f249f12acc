//! Every secret of a configuration, and where it is to come from.

use super::Config;
use crate::secret::SecretSource;

impl Config {
    /// Each of them under the name that messages give it: `identity sales: jwt`.
    pub(crate) fn sources(&self) -> Vec<(String, &SecretSource)> {
        let applications = self.application.iter().flat_map(|(name, it)| {
            let both = [("client_id", &it.client_id), ("client_secret", &it.client_secret)];
            both.map(|(key, source)| (format!("application {name}: {key}"), source.as_ref()))
        });
        let identities = self.identity.iter().flat_map(|(name, it)| {
            [
                ("jwt", &it.jwt),
                ("refresh_token", &it.refresh_token),
                ("authorization_code", &it.authorization_code),
                ("code_verifier", &it.code_verifier),
                ("password", &it.password),
            ]
            .map(|(key, source)| (format!("identity {name}: {key}"), source.as_ref()))
        });
        let keys = [
            ("store.encryption_keys", &self.store.encryption_keys),
            ("facade.keys", &self.facade.keys),
        ];
        let keys = keys.into_iter().flat_map(|(key, sources)| {
            sources.iter().flatten().map(move |source| (key.to_owned(), Some(source)))
        });
        let redis = ("store.redis".to_owned(), self.store.redis.as_ref());
        let all = applications.chain(identities).chain(keys).chain([redis]);
        all.filter_map(|(key, source)| Some((key, source?))).collect()
    }
}
