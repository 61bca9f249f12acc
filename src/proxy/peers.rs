//! Who calls, told by the connection alone. PURE over what is known of its other end.
//!
//! It is told once, when a connection is made; a request then knows its client without looking. Only
//! what nobody can write into a request counts: a verified certificate, the user that the kernel names
//! at a Unix socket, the address that packets come from. Of several marks the most specific counts:
//! certificate, user, group, the narrowest network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::settings::{ClientSettings, Network, SubjectName};

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Where it is.
    pub place: Place,
    /// The names in its certificate, if that was verified.
    pub names: &'a [SubjectName],
}

/// Where the other end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this address.
    Address(IpAddr),
    /// On this machine, as this user and its group when it connected.
    Unix {
        /// Of the user.
        uid: u32,
        /// Of its primary group.
        gid: u32,
    },
    /// On this machine; the system does not say who it is.
    Unknown,
}

/// Whose a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// Nobody's: a request has to show a key, where there are clients.
    #[default]
    Unknown,
    /// This client's.
    Known(ClientId),
    /// The certificate names two clients.
    Ambiguous,
}

/// A client, in the roll that it was found in and in no other: the numbers of another mean others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId {
    roll: u32,
    index: u32,
}

/// The clients by what their connections are known by.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    roll: u32,
    subjects: HashMap<SubjectName, u32>,
    users: HashMap<u32, u32>,
    groups: HashMap<u32, u32>,
    /// The narrowest first.
    networks: Vec<(Network, u32)>,
}

impl Peers {
    /// From the configuration, in whose order the clients are numbered.
    pub fn new(clients: &[ClientSettings]) -> Self {
        static ROLLS: AtomicU32 = AtomicU32::new(1);
        let mut peers = Self { roll: ROLLS.fetch_add(1, Ordering::Relaxed), ..Self::default() };
        for (client, index) in clients.iter().zip(0..) {
            let marks = &client.peers;
            peers.subjects.extend(marks.subjects.iter().cloned().map(|name| (name, index)));
            peers.users.extend(marks.users.iter().map(|user| (*user, index)));
            peers.groups.extend(marks.groups.iter().map(|group| (*group, index)));
            peers.networks.extend(marks.networks.iter().map(|network| (*network, index)));
        }
        peers.networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.bits()));
        peers
    }

    /// Whether certificates are looked at.
    pub fn know_certificates(&self) -> bool {
        !self.subjects.is_empty()
    }

    /// Whose the connection is, and whether its address alone says so.
    pub fn find(&self, peer: Peer<'_>) -> (Caller, bool) {
        let mut named = peer.names.iter().filter_map(|name| self.subjects.get(name).copied());
        if let Some(client) = named.next() {
            let is_one = named.all(|other| other == client);
            return (if is_one { self.known(client) } else { Caller::Ambiguous }, false);
        }
        match peer.place {
            Place::Address(address) => {
                let found = self.networks.iter().find(|(network, _)| network.contains(address));
                found.map_or_else(Default::default, |(_, client)| (self.known(*client), true))
            }
            Place::Unix { uid, gid } => {
                let found = self.users.get(&uid).or_else(|| self.groups.get(&gid));
                (found.map_or(Caller::Unknown, |client| self.known(*client)), false)
            }
            Place::Unknown => (Caller::Unknown, false),
        }
    }

    /// The place of a client that was found here; `None` if it was found in another roll.
    pub fn index(&self, id: ClientId) -> Option<usize> {
        (id.roll == self.roll).then_some(id.index as usize)
    }

    fn known(&self, index: u32) -> Caller {
        Caller::Known(ClientId { roll: self.roll, index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Bound, PeerSettings};

    fn client(subjects: &[&str], users: &[u32], groups: &[u32], nets: &[&str]) -> ClientSettings {
        let peers = PeerSettings {
            subjects: subjects.iter().map(|name| name.parse().unwrap()).collect(),
            users: users.to_vec(),
            groups: groups.to_vec(),
            networks: nets.iter().map(|network| network.parse().unwrap()).collect(),
        };
        ClientSettings {
            name: String::new(),
            keys: Vec::new(),
            peers,
            identities: Bound::Any,
            client_id: None,
            rewrite_links: true,
            policy: None,
            priority: std::num::NonZeroU32::MIN,
        }
    }

    fn peers() -> Peers {
        Peers::new(&[
            client(&["DNS:a.test", "CN:a"], &[1000], &[], &["10.0.0.0/8"]),
            client(&["DNS:b.test"], &[], &[7], &["10.1.0.0/16", "fd00::/8"]),
        ])
    }

    /// The number of the client, and whether its address alone says so.
    fn found(place: Place, names: &[&str]) -> Result<(Option<usize>, bool), ()> {
        let peers = peers();
        let names: Vec<SubjectName> = names.iter().map(|name| name.parse().unwrap()).collect();
        match peers.find(Peer { place, names: &names }) {
            (Caller::Known(id), by_address) => Ok((peers.index(id), by_address)),
            (Caller::Unknown, by_address) => Ok((None, by_address)),
            (Caller::Ambiguous, _) => Err(()),
        }
    }

    fn at(address: &str) -> Place {
        Place::Address(address.parse().unwrap())
    }

    #[test]
    fn the_narrowest_network_counts() {
        assert_eq!(found(at("10.2.0.1"), &[]), Ok((Some(0), true)));
        assert_eq!(found(at("10.1.0.1"), &[]), Ok((Some(1), true)));
        assert_eq!(found(at("::ffff:10.1.0.1"), &[]), Ok((Some(1), true)));
        assert_eq!(found(at("fd00::1"), &[]), Ok((Some(1), true)));
        assert_eq!(found(at("127.0.0.1"), &[]), Ok((None, false)));
    }

    #[test]
    fn a_user_counts_before_its_group() {
        let unix = |uid, gid| found(Place::Unix { uid, gid }, &[]).unwrap().0;
        assert_eq!(unix(1000, 1000), Some(0));
        assert_eq!(unix(1001, 7), Some(1));
        assert_eq!(unix(1000, 7), Some(0));
        assert_eq!(unix(7, 1000), None, "numbers of users are none of groups");
        assert_eq!(unix(0, 0), None, "root is nobody special");
        assert_eq!(found(Place::Unknown, &[]), Ok((None, false)));
    }

    #[test]
    fn a_certificate_counts_before_the_address_and_names_one_client_only() {
        let place = at("10.1.0.1");
        assert_eq!(found(place, &["DNS:a.test"]), Ok((Some(0), false)));
        assert_eq!(found(place, &["CN:x", "DNS:a.test", "CN:a"]), Ok((Some(0), false)));
        assert_eq!(found(place, &["CN:a.test"]), Ok((Some(1), true)), "another kind of name");
        assert_eq!(found(place, &["DNS:a.test", "DNS:b.test"]), Err(()));
    }

    #[test]
    fn a_client_of_one_roll_is_none_of_another() {
        let (one, other) = (peers(), peers());
        let peer = Peer { place: at("10.2.0.1"), names: &[] };
        let (Caller::Known(id), _) = one.find(peer) else { panic!("it is known") };
        assert_eq!((one.index(id), other.index(id)), (Some(0), None));
    }
}
