//! From where webhooks may come, and whom a proxy is believed to forward.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// From where webhooks may come, and whose word counts for it.
#[derive(Debug, Clone, Default)]
pub struct Networks {
    /// Senders that are let in; none is all.
    pub allow_from: Vec<IpNet>,
    /// Proxies whose word for the sender is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// Where they write it.
    pub header: ForwardedHeader,
}

/// The header in which proxies name whom they forward: only one, as a sender may write the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: addresses joined by commas.
    #[default]
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

impl ForwardedHeader {
    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }

    /// The address that one element names, if it names one.
    fn address(self, element: &str) -> Option<IpAddr> {
        match self {
            Self::XForwardedFor => parse_node(element),
            Self::Forwarded => {
                let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
                let mut nodes = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
                let node = nodes.next()?.1.trim();
                let quoted = node.strip_prefix('"').and_then(|node| node.strip_suffix('"'));
                parse_node(quoted.unwrap_or(node))
            }
        }
    }
}

impl Networks {
    /// The address that a request comes from: the peer, or whom the proxies name, from right to
    /// left for as long as they are trusted. A peer without an address, which is at the other end
    /// of a Unix socket, is trusted if any is.
    ///
    /// `lines` are those of the header, in order. Gives none where nobody trusted says it.
    pub fn sender(
        &self,
        peer: Option<IpAddr>,
        lines: impl Iterator<Item = impl AsRef<str>>,
    ) -> Option<IpAddr> {
        let is_trusted = |address: IpAddr| contain(&self.trusted_proxies, address);
        let mut sender = peer.map(|address| address.to_canonical());
        if !sender.map_or(!self.trusted_proxies.is_empty(), is_trusted) {
            return sender;
        }
        let lines: Vec<_> = lines.collect();
        let elements = lines.iter().rev().flat_map(|line| line.as_ref().rsplit(','));
        for element in elements.map(str::trim).filter(|element| !element.is_empty()) {
            sender = Some(self.header.address(element)?);
            if !sender.is_some_and(is_trusted) {
                break;
            }
        }
        sender
    }

    /// Whether a sender is let in; one that nobody can name is only where all are.
    pub fn allow(&self, sender: Option<IpAddr>) -> bool {
        self.allow_from.is_empty()
            || sender.is_some_and(|address| contain(&self.allow_from, address))
    }
}

fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Reads an address, with or without a port; IPv6 may stand in brackets.
fn parse_node(node: &str) -> Option<IpAddr> {
    let address = node.parse().or_else(|_| node.parse().map(|node: SocketAddr| node.ip()));
    let bracketed = || node.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    address.ok().or_else(bracketed).map(|address: IpAddr| address.to_canonical())
}
