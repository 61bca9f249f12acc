//! `networks`: from which addresses a client calls. PURE.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// All addresses that begin with the same bits (RFC 4632).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

/// What is wrong with the text of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message explains its variant")]
pub enum NetworkProblem {
    #[error("write it like \"10.0.0.0/8\", \"fd00::/8\" or, for one address, \"10.1.2.3\"")]
    Text,
    #[error("it begins at {0}: write that, so that nobody takes it for a single address")]
    Inside(Network),
    #[error("that is everybody: name the networks, or leave it to proxy.allow_remote_clients")]
    Everybody,
    #[error("write it as an IPv4 network")]
    Mapped,
}

impl Network {
    /// Whether an address is one of its own. An IPv4 address that arrived by an IPv6 socket counts as
    /// what it is.
    pub fn contains(self, address: IpAddr) -> bool {
        Self::of(address.to_canonical(), self.bits) == Some(self)
    }

    /// How many bits its addresses share; the more, the narrower it is.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    fn of(address: IpAddr, bits: u8) -> Option<Self> {
        let first = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits.into())?).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128_u32.checked_sub(bits.into())?).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Some(Self { first, bits })
    }
}

impl FromStr for Network {
    type Err = NetworkProblem;

    fn from_str(text: &str) -> Result<Self, NetworkProblem> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| NetworkProblem::Text)?;
        if address.to_canonical() != address {
            return Err(NetworkProblem::Mapped);
        }
        let all = if address.is_ipv4() { 32 } else { 128 };
        let is_number = |bits: &&str| bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = match bits {
            None => all,
            Some(bits) => {
                let bits = Some(bits).filter(is_number).and_then(|bits| bits.parse().ok());
                bits.ok_or(NetworkProblem::Text)?
            }
        };
        let network = Self::of(address, bits).ok_or(NetworkProblem::Text)?;
        if bits == 0 {
            return Err(NetworkProblem::Everybody);
        }
        if network.first == address { Ok(network) } else { Err(NetworkProblem::Inside(network)) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        network.parse::<Network>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        for (network, address, is_inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "::10.1.2.3", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("128.0.0.0/1", "200.1.1.1", true),
            ("128.0.0.0/1", "127.0.0.1", false),
            ("192.168.7.128/25", "192.168.7.127", false),
            ("192.168.7.128/25", "192.168.7.128", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("fd00::/8", "10.0.0.1", false),
            ("::1", "::1", true),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(contains(network, address), is_inside, "{address} in {network}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_with_the_cure() {
        let refused = |text: &str| text.parse::<Network>().unwrap_err();
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "a",
            "10.0.0.0/8/",
        ] {
            assert_eq!(refused(text), NetworkProblem::Text, "{text}");
        }
        assert_eq!(refused("0.0.0.0/0"), NetworkProblem::Everybody);
        assert_eq!(refused("::/0"), NetworkProblem::Everybody);
        assert_eq!(refused("::ffff:10.0.0.0/104"), NetworkProblem::Mapped);
        assert_eq!(
            refused("10.1.2.3/8").to_string(),
            "it begins at 10.0.0.0/8: write that, so that nobody takes it for a single address"
        );
    }

    proptest! {
        #[test]
        fn it_is_the_first_bits_that_count(address: u32, bits in 1_u8..=32, flipped in 0_u32..32) {
            let network = Network::of(IpAddr::V4(address.into()), bits).unwrap();
            prop_assert!(network.contains(IpAddr::V4(address.into())));
            let other = IpAddr::V4((address ^ (1 << (31 - flipped))).into());
            prop_assert_eq!(network.contains(other), flipped >= u32::from(bits));
        }
    }
}
