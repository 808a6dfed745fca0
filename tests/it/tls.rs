//! TLS on the listener: which versions, which certificate, who may come.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use clickpesa_relay::http::WEBHOOKS;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    client::Resumption,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
    version::{TLS12, TLS13},
};

use crate::harness::{
    Connection, Directory, PATIENCE, Process, Setup, eventually, payment, request, signed,
};

/// The name in the certificate.
const NAME: &str = "relay.test";

/// An authority, and what it has signed.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
struct Issued {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new([]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self) -> Issued {
        let parameters = CertificateParams::new([NAME.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        Issued { certificate: parameters.signed_by(&key, &self.0).unwrap(), key }
    }

    /// What a sender trusts in that trusts in this authority, and who it is.
    fn client(&self, version: &'static SupportedProtocolVersion, own: Option<&Issued>) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(Issued { certificate, key }) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        // Who resumes a session is not shown the certificate again.
        config.resumption = Resumption::disabled();
        Client(Arc::new(config))
    }
}

struct Client(Arc<ClientConfig>);

type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Client {
    fn open(&self, address: SocketAddr) -> Connection<Stream> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        let session = ClientConnection::new(Arc::clone(&self.0), name).unwrap();
        Connection(StreamOwned::new(session, stream))
    }

    /// The status of the answer to a signed webhook, or why there is none.
    fn post(&self, address: SocketAddr) -> Result<u16, String> {
        let mut connection = self.open(address);
        let sent = connection.0.write_all(&webhook()).map_err(|error| error.to_string());
        let mut answer = [0; 12];
        let received = connection.0.read_exact(&mut answer).map_err(|error| error.to_string());
        sent.and(received)?;
        let status = answer.strip_prefix(b"HTTP/1.1 ").expect("an answer in HTTP");
        Ok(std::str::from_utf8(status).unwrap().parse().unwrap())
    }
}

fn webhook() -> Vec<u8> {
    request("POST", WEBHOOKS, &[], &signed(&payment("REF-1")))
}

fn put(directory: &Directory, issued: &Issued) {
    directory.put("key", &issued.key.serialize_pem());
    directory.put("certificate", &issued.certificate.pem());
}

fn setup(directory: &Directory) -> Setup {
    Setup::new()
        .set("http.tls.certificate_file", &directory.path("certificate"))
        .set("http.tls.key_file", &directory.path("key"))
}

#[test]
fn both_versions_that_are_safe_are_spoken() {
    let (directory, authority) = (Directory::new(), Authority::new());
    put(&directory, &authority.issue());
    let process = Process::serve_ready(&setup(&directory));
    let address = process.address("http.listen");
    for version in [&TLS12, &TLS13] {
        assert_eq!(authority.client(version, None).post(address), Ok(200), "{version:?}");
    }
    let stranger = Authority::new().client(&TLS13, None).post(address).unwrap_err();
    assert!(stranger.contains("invalid peer certificate"), "{stranger}");
}

/// A greeting that offers no more than TLS 1.1, byte for byte, as no library sends it any more.
#[test]
fn older_versions_are_refused() {
    let (directory, authority) = (Directory::new(), Authority::new());
    put(&directory, &authority.issue());
    let process = Process::serve_ready(&setup(&directory));
    let tls_1_1 = [3, 2];
    // ECDSA and RSA with SHA-256.
    let signature_algorithms = [0, 13, 0, 6, 0, 4, 4, 3, 4, 1];
    // No session; one suite, AES128-SHA; no compression; the extensions.
    let suite = [0, 2, 0, 0x2f];
    let body =
        [&tls_1_1[..], &[7; 32], &[0], &suite, &[1, 0], &[0, 10], &signature_algorithms].concat();
    let handshake = [&[1, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat();
    let length = [0, u8::try_from(handshake.len()).unwrap()];
    let mut connection = Connection::open(process.address("http.listen"));
    connection.send(&[&[22, 3, 1][..], &length, &handshake].concat());
    let mut answer = Vec::new();
    connection.0.read_to_end(&mut answer).ok();
    let [21, _, _, 0, 2, 2, alert] = answer[..] else { panic!("no fatal alert: {answer:?}") };
    assert_eq!(alert, 70, "protocol_version");
}

#[test]
fn without_tls_nothing_is_said() {
    let (directory, authority) = (Directory::new(), Authority::new());
    put(&directory, &authority.issue());
    let process = Process::serve_ready(&setup(&directory).set("http.head_within", "500ms"));
    let address = process.address("http.listen");
    let mut plain = Connection::open(address);
    plain.send(&webhook());
    let mut said = Vec::new();
    plain.0.read_to_end(&mut said).ok();
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    // Who greets and then is silent is not waited for.
    let mut silent = Connection::open(address);
    silent.0.read_to_end(&mut Vec::new()).ok();
    assert_eq!(process.samples().sum("received_total", &[]), 0.0);
}

#[test]
fn a_new_certificate_is_shown_to_new_connections() {
    let (directory, before, after) = (Directory::new(), Authority::new(), Authority::new());
    put(&directory, &before.issue());
    let process = Process::serve_ready(&setup(&directory));
    let address = process.address("http.listen");
    let [old, new] = [&before, &after].map(|authority| authority.client(&TLS13, None));
    let mut open = old.open(address);
    open.send(&webhook());
    assert_eq!(open.answer().status, 200);

    // Half of a change is a key that is not the certificate's.
    let renewed = after.issue();
    directory.put("key", &renewed.key.serialize_pem());
    let refused =
        |count| process.samples().sum("settings_reloads_total", &["outcome=\"refused\""]) >= count;
    eventually("half a change is refused", || refused(1.0).then_some(()));
    assert_eq!(old.post(address), Ok(200));
    directory.put("certificate", &renewed.certificate.pem());
    eventually("the new certificate is shown", || new.post(address).is_ok().then_some(()));
    assert!(old.post(address).is_err());
    open.send(&webhook());
    assert_eq!(open.answer().status, 200, "connections that are open go on");
}

#[test]
fn senders_may_be_asked_for_a_certificate() {
    let directory = Directory::new();
    let [authority, of_senders, stranger] = [(); 3].map(|()| Authority::new());
    put(&directory, &authority.issue());
    directory.put("authorities", &of_senders.0.pem());
    let asking = setup(&directory).set("http.tls.client_ca_file", &directory.path("authorities"));
    let process = Process::serve_ready(&asking);
    let address = process.address("http.listen");
    for version in [&TLS12, &TLS13] {
        let post = |own: Option<&Issued>| authority.client(version, own).post(address);
        assert_eq!(post(Some(&of_senders.issue())), Ok(200), "{version:?}");
        assert!(post(Some(&stranger.issue())).is_err(), "{version:?}");
        assert!(post(None).is_err(), "{version:?}");
    }
    assert_eq!(process.samples().sum("received_total", &[]), 2.0, "the others said nothing");
}

#[test]
fn connections_are_limited_here_too() {
    let (directory, authority) = (Directory::new(), Authority::new());
    put(&directory, &authority.issue());
    let limited = setup(&directory).set("http.connections_per_address_max", "2");
    let process = Process::serve_ready(&limited);
    let address = process.address("http.listen");
    let client = authority.client(&TLS13, None);
    let mut open: Vec<_> = (0..2).map(|_| client.open(address)).collect();
    for connection in &mut open {
        connection.send(&webhook());
        assert_eq!(connection.answer().status, 200);
    }
    assert!(client.post(address).is_err());
    let refused = process.samples().sum("connections_refused_total", &["of=\"address\""]);
    assert_eq!(refused, 1.0);
    drop(open);
    eventually("there is room again", || client.post(address).is_ok().then_some(()));
}
