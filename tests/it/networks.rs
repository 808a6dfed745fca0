//! From where webhooks may come: whom a header names, and who is let in.

use std::net::IpAddr;

use clickpesa_relay::{
    application::networks::{ForwardedHeader, Networks},
    http::WEBHOOKS,
};

use crate::harness::{App, KEY, Setup, payment, signed};

fn networks(allow_from: &str, trusted_proxies: &str, header: ForwardedHeader) -> Networks {
    let read = |written: &str| written.split_whitespace().map(|one| one.parse().unwrap()).collect();
    Networks { allow_from: read(allow_from), trusted_proxies: read(trusted_proxies), header }
}

fn address(written: &str) -> Option<IpAddr> {
    (written != "-").then(|| written.parse().unwrap())
}

/// Peer, trusted proxies, lines of the header, and the sender that comes of them; `-` is none.
const X_FORWARDED_FOR: [(&str, &str, &[&str], &str); 20] = [
    // Nobody is trusted: what stands in the header is the sender's own word.
    ("192.0.2.1", "", &[], "192.0.2.1"),
    ("192.0.2.1", "", &["198.51.100.7"], "192.0.2.1"),
    ("192.0.2.1", "10.0.0.0/8", &["198.51.100.7"], "192.0.2.1"),
    // From right to left, for as long as they are trusted.
    ("10.0.0.1", "10.0.0.0/8", &[], "10.0.0.1"),
    ("10.0.0.1", "10.0.0.0/8", &["198.51.100.7"], "198.51.100.7"),
    ("10.0.0.1", "10.0.0.0/8", &["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
    ("10.0.0.1", "10.0.0.0/8", &["203.0.113.9,198.51.100.7, 10.0.0.2"], "198.51.100.7"),
    ("10.0.0.1", "10.0.0.0/8", &["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
    ("10.0.0.1", "10.0.0.0/8", &["203.0.113.9, 10.9.9.9", "10.0.0.2"], "203.0.113.9"),
    ("10.0.0.1", "10.0.0.0/8", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    ("10.0.0.1", "10.0.0.0/8", &["", " , "], "10.0.0.1"),
    // Ports, brackets, the same address in two families.
    ("10.0.0.1", "10.0.0.0/8", &["198.51.100.7:4711"], "198.51.100.7"),
    ("::1", "::1/128", &["[2001:db8::7]:4711"], "2001:db8::7"),
    ("::1", "::1/128", &["[2001:db8::7]"], "2001:db8::7"),
    ("::ffff:10.0.0.1", "10.0.0.0/8", &["::ffff:198.51.100.7"], "198.51.100.7"),
    // What is no address ends the search: who is left of it is anybody's guess.
    ("10.0.0.1", "10.0.0.0/8", &["198.51.100.7, unknown"], "-"),
    ("10.0.0.1", "10.0.0.0/8", &["198.51.100.7, 10.0.0.2, _hidden"], "-"),
    ("10.0.0.1", "10.0.0.0/8", &["198.51.100.7, proxy.example.com"], "-"),
    // A Unix socket: whoever may open it is on this machine.
    ("-", "", &["198.51.100.7"], "-"),
    ("-", "127.0.0.1/32", &["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
];

const FORWARDED: [(&str, &str, &[&str], &str); 9] = [
    ("10.0.0.1", "10.0.0.0/8", &["for=198.51.100.7"], "198.51.100.7"),
    ("10.0.0.1", "10.0.0.0/8", &["For=203.0.113.9, FOR=198.51.100.7;proto=https"], "198.51.100.7"),
    ("10.0.0.1", "10.0.0.0/8", &["by=203.0.113.43;for=\"198.51.100.7:80\""], "198.51.100.7"),
    ("10.0.0.1", "10.0.0.0/8", &["for=\"[2001:db8::7]:80\""], "2001:db8::7"),
    ("10.0.0.1", "10.0.0.0/8", &["for=203.0.113.9", "for=10.0.0.7"], "203.0.113.9"),
    ("10.0.0.1", "10.0.0.0/8", &["for=unknown"], "-"),
    ("10.0.0.1", "10.0.0.0/8", &["for=_secret"], "-"),
    ("10.0.0.1", "10.0.0.0/8", &["198.51.100.7"], "-"),
    ("10.0.0.1", "10.0.0.0/8", &["by=10.0.0.1"], "-"),
];

#[test]
fn the_sender_is_whom_the_last_trusted_proxy_names() {
    let x_forwarded_for = X_FORWARDED_FOR.map(|case| (ForwardedHeader::XForwardedFor, case));
    let forwarded = FORWARDED.map(|case| (ForwardedHeader::Forwarded, case));
    for (header, (peer, trusted, lines, sender)) in x_forwarded_for.into_iter().chain(forwarded) {
        let networks = networks("", trusted, header);
        let found = networks.sender(address(peer), lines.iter().copied());
        assert_eq!(found, address(sender), "{peer}, trusting {trusted}: {lines:?}");
    }
}

#[test]
fn who_is_in_a_network_is_let_in() {
    let allowed = |allow_from: &str, sender: &str| {
        networks(allow_from, "", ForwardedHeader::default()).allow(address(sender))
    };
    assert!(allowed("", "192.0.2.1") && allowed("", "-"), "without networks, everybody");
    let networks = "192.0.2.0/24 2001:db8::/32";
    assert!(allowed(networks, "192.0.2.255") && allowed(networks, "2001:db8::1"));
    assert!(!allowed(networks, "192.0.3.0") && !allowed(networks, "::1"));
    assert!(!allowed(networks, "-"), "whom nobody can name is not let in");
}

// --- Through the relay ----------------------------------------------------------------

fn post(app: &App, application: &str, headers: &[(&str, &str)]) -> u16 {
    let path = format!("{WEBHOOKS}{application}");
    let answer = app.ask("POST", &path, headers, &signed(&payment("REF-1")));
    if answer.status == 403 {
        let problem = answer.json();
        assert_eq!(problem["type"], "urn:clickpesa-relay:problem:address_not_allowed");
        assert!(!answer.body.contains("127.0.0.1"), "{answer:?}");
    }
    answer.status
}

#[test]
fn an_address_that_is_not_allowed_is_403() {
    let app = Setup::new()
        .set("http.allow_from", "192.0.2.0/24")
        .set("applications.near.checksum_keys.main", KEY)
        .set("applications.near.allow_from", "127.0.0.1, ::1")
        .set("applications.proxied.checksum_keys.main", KEY)
        .set("applications.proxied.trusted_proxies", "127.0.0.0/8")
        .spawn();
    assert_eq!(post(&app, "", &[]), 403);
    let forged = [("x-forwarded-for", "192.0.2.1")];
    assert_eq!(post(&app, "", &forged), 403, "no proxy is trusted");
    assert_eq!(post(&app, "/near", &[]), 200, "it has networks of its own");
    assert_eq!(post(&app, "/proxied", &[]), 403);
    assert_eq!(post(&app, "/proxied", &forged), 200);
    let left = [("x-forwarded-for", "192.0.2.1, 198.51.100.7")];
    assert_eq!(post(&app, "/proxied", &left), 403, "the sender wrote that itself");
    let other = [("forwarded", "for=192.0.2.1")];
    assert_eq!(post(&app, "/proxied", &other), 403, "no proxy writes that header");
    let samples = app.samples();
    assert_eq!(samples.ended("rejected", "address_not_allowed"), 5.0);
    samples.assert_balanced();
}
