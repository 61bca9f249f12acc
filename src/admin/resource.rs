//! What there is to ask for, and how. PURE.

/// What a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Page,
    State,
    Health,
    Readiness,
    Metrics,
    Identities,
    Identity(String),
    Renewal(String),
    Reload,
    Drain,
}

impl Resource {
    pub(super) fn of(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let resource = match (parts.next()?, parts.next(), parts.next()) {
            ("", None, _) => Self::Page,
            ("state", None, _) => Self::State,
            ("healthz", None, _) => Self::Health,
            ("readyz", None, _) => Self::Readiness,
            ("metrics", None, _) => Self::Metrics,
            ("reload", None, _) => Self::Reload,
            ("drain", None, _) => Self::Drain,
            ("identities", None, _) => Self::Identities,
            ("identities", Some(name), None) => Self::Identity(name.to_owned()),
            ("identities", Some(name), Some("renew")) => Self::Renewal(name.to_owned()),
            _ => return None,
        };
        parts.next().is_none().then_some(resource)
    }

    /// As `Allow` has them.
    pub(super) const fn methods(&self) -> &'static str {
        match self {
            Self::Page | Self::State | Self::Health | Self::Readiness | Self::Metrics => {
                "GET, HEAD"
            }
            Self::Identities => "GET, HEAD, POST",
            Self::Identity(_) => "GET, HEAD, DELETE",
            Self::Drain => "POST, DELETE",
            Self::Renewal(_) | Self::Reload => "POST",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resources_to_the_letter() {
        let identity = |name: &str| Some(Resource::Identity(name.into()));
        for (path, expected) in [
            ("/healthz", Some(Resource::Health)),
            ("/readyz", Some(Resource::Readiness)),
            ("/metrics", Some(Resource::Metrics)),
            ("/identities", Some(Resource::Identities)),
            ("/identities/sales", identity("sales")),
            ("/identities/", identity("")),
            ("/identities/sales/renew", Some(Resource::Renewal("sales".into()))),
            ("/identities/sales/renew/", None),
            ("/identities/sales/revoke", None),
            ("/healthz/", None),
            ("/", Some(Resource::Page)),
            ("//", None),
            ("/state", Some(Resource::State)),
            ("*", None),
            ("/Healthz", None),
            ("/drain", Some(Resource::Drain)),
            ("/drain/", None),
        ] {
            assert_eq!(Resource::of(path), expected, "{path}");
        }
    }
}
