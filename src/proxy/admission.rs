//! Whether a request may pass, who answers it, and whose token it carries.
//!
//! It asks the pure rooms in their order: `hostnames`, `cors`, `access`, `selection`, `policy`. Only [`Proxy::known`]
//! waits, for the store, where a name is not known to this process yet.

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;

use super::access::{Endpoint, Refusal as Barred};
use super::cors::{Cors, Visitor};
use super::error::ProxyError;
use super::facade::Facade;
use super::facade::pass::Pass;
use super::headers::Found;
use super::hostnames::Hostnames;
use super::peers::{Caller, Peer};
use super::record::Record;
use super::routes::Site;
use super::selection::{Asked, Chosen, Denied, Hint, Selection};
use super::{Proxy, access};
use crate::policy::Policy;
use crate::settings::ClientSettings;
use crate::token::identities::IdentityId;

/// Who gets in.
#[derive(Debug)]
pub struct Admission {
    /// By what they show, and as whom they call.
    pub selection: Selection,
    /// What SDKs log in to.
    pub facade: Facade,
    /// By which hosts.
    pub hosts: Hostnames,
    /// From which web pages.
    pub cors: Cors,
    /// What everybody may ask for.
    pub policy: Option<Arc<Policy>>,
}

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The identity that everybody calls as there.
    pub identity: Option<IdentityId>,
    /// Whether requests have to name a host that is known.
    pub is_guarded: bool,
    /// Whether clients speak TLS there.
    pub tls: bool,
    /// Who is at the other end of the connection, if that has an address.
    pub peer: Option<SocketAddr>,
    /// Whose the connection is.
    pub caller: Caller,
}

impl Entry {
    /// The same for a connection whose other end is known. A browser may be led to call from a
    /// client's network by a name of its page's own (DNS rebinding), so such a name has to be known.
    #[must_use]
    pub fn recognizing(self, peer: Peer<'_>, admission: &Admission) -> Self {
        let (caller, by_address) = admission.selection.peers().find(peer);
        let is_guarded = self.is_guarded || by_address && admission.hosts.guard_networks();
        Self { is_guarded, caller, ..self }
    }
}

/// Whose token a request is to carry.
pub(super) enum Whose {
    Known(IdentityId),
    /// Somebody who may have been added since this process started.
    Stranger(String),
    /// The same, by a token of the facade's, which is void if there is nobody of that name.
    Sealed(String),
}

impl Proxy {
    /// On whose behalf a request comes, if it names a host of the proxy's and no stranger's page sent
    /// it.
    pub(super) fn judge(
        &self,
        head: &Parts,
        found: &Found,
        entry: Entry,
    ) -> Result<Visitor, ProxyError> {
        if entry.is_guarded && !self.admission.hosts.include(head) {
            return Err(ProxyError::Refused(Barred::StrangeHost));
        }
        let judged = self.admission.cors.judge(head, found);
        judged.map_err(|_| ProxyError::Refused(Barred::CrossSite))
    }

    /// The endpoint that answers a request here; `None` if it may go on to RingCentral.
    pub(super) fn admit(
        &self,
        head: &Parts,
        found: &Found,
        site: Site,
        visitor: Visitor,
    ) -> Result<Option<Endpoint>, ProxyError> {
        let admitted = access::admit(&head.method, &head.uri, head.version, &head.headers, found);
        let endpoint = match admitted {
            Ok(()) if site == Site::PLATFORM => Endpoint::of_widget(head.uri.path()),
            Ok(()) => None,
            Err(Barred::TokenManagement(endpoint)) => Some(endpoint),
            Err(refusal) => return Err(ProxyError::Refused(refusal)),
        };
        let is_here = |it: &Endpoint| site == Site::PLATFORM && self.admission.facade.answers(*it);
        let answers = endpoint.filter(is_here);
        if visitor == Visitor::Traveller && !answers.is_some_and(Endpoint::is_for_travellers) {
            return Err(ProxyError::Refused(Barred::CrossSite));
        }
        match answers {
            Some(endpoint) => Ok(Some(endpoint)),
            None => admitted.map(|()| None).map_err(ProxyError::Refused),
        }
    }

    /// As whom a request is sent, and by which client.
    pub(super) fn identity(
        &self,
        head: &Parts,
        found: &Found,
        entry: Entry,
        path: Option<&str>,
        pass: Option<&Pass>,
        record: &mut Record,
    ) -> Result<(Whose, Option<&ClientSettings>), ProxyError> {
        let selection = &self.admission.selection;
        let caller =
            selection.caller(&head.headers, pass, entry.caller).map_err(ProxyError::Denied)?;
        record.called_by(caller);
        let fixed = entry.identity.map(|id| self.identities.keeper(id).name());
        let asked = Asked { fixed, path, uri: &head.uri, fields: &head.headers, found };
        let hint = pass.map_or(Hint::None, |pass| Hint::Sealed(&pass.identity));
        let chosen = selection.choose_for(caller, asked, hint).map_err(ProxyError::Denied)?;
        self.check_policies(caller, head)?;
        let whose = match self.whose(chosen)? {
            Whose::Stranger(name) if pass.is_some() => Whose::Sealed(name),
            whose => whose,
        };
        Ok((whose, caller))
    }

    /// Whether everybody, and this caller, may ask for what the request asks for. Its target is the one
    /// that is sent: every prefix has been taken off.
    fn check_policies(
        &self,
        caller: Option<&ClientSettings>,
        head: &Parts,
    ) -> Result<(), ProxyError> {
        let everybodys = self.admission.policy.as_deref().map(|policy| (None, policy));
        let its = caller.and_then(|client| Some((Some(&*client.name), client.policy.as_deref()?)));
        for (client, policy) in everybodys.into_iter().chain(its) {
            policy.judge(&head.method, &head.uri, &head.headers).map_err(|refusal| {
                ProxyError::Policy { client: client.map(str::to_owned), refusal: Box::new(refusal) }
            })?;
        }
        Ok(())
    }

    pub(super) fn whose(&self, chosen: Chosen<'_>) -> Result<Whose, ProxyError> {
        match chosen {
            Chosen::Only => self.identities.only().map(Whose::Known).ok_or(ProxyError::NoIdentity),
            Chosen::Named(name) => {
                let known = self.identities.find(&name);
                Ok(known.map_or_else(|| Whose::Stranger(name.into_owned()), Whose::Known))
            }
        }
    }

    /// Looks a stranger up in the store.
    pub(super) async fn known(
        &self,
        whose: &Whose,
        record: &mut Record,
    ) -> Result<IdentityId, ProxyError> {
        let name = match whose {
            Whose::Known(id) => return Ok(*id),
            Whose::Stranger(name) | Whose::Sealed(name) => name,
        };
        let found = self.timers.within(self.limits.token_wait, self.identities.discover(name));
        match found.await {
            Ok(Ok(Some(id))) => {
                record.identified(id, self.identities.keeper(id).name());
                Ok(id)
            }
            Ok(Ok(None)) if matches!(whose, Whose::Sealed(_)) => {
                Err(ProxyError::Denied(Denied::PassVoid))
            }
            Ok(Ok(None)) => Err(ProxyError::UnknownIdentity(name.clone())),
            Ok(Err(_)) | Err(_) => Err(ProxyError::IdentityNotRead(name.clone())),
        }
    }
}
