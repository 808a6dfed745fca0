//! TLS for the public listener: the certificate, which can change, and who may come with one.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier},
    sign::CertifiedKey,
};

/// The files that TLS needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate, and behind it those that lead to its authority, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// The authorities of senders' certificates, in PEM; without, none is asked for.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS cannot be had with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of that kind.
    #[error("`{}`: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: pem::Error,
    },
    /// The certificate cannot be used, or the key is not its own.
    #[error("the certificate and its key: {0}")]
    Certificate(#[from] rustls::Error),
    /// The authorities cannot be used.
    #[error("the authorities of senders: {0}")]
    Authorities(#[from] VerifierBuilderError),
}

/// The certificate in force, for as many connections as there are.
pub struct Certificate(RwLock<Arc<CertifiedKey>>);

impl Certificate {
    /// Reads a certificate with its key.
    ///
    /// # Errors
    /// When they cannot be read, or do not belong together.
    pub fn read(files: &Files) -> Result<Self, TlsError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |cause| TlsError::File { path, cause }
        };
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect);
        let certificates = certificates.and_then(not_empty).map_err(failed(&files.certificate))?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(failed(&files.key))?;
        let certified = CertifiedKey::from_der(certificates, key, &ring::default_provider())?;
        Ok(Self(RwLock::new(Arc::new(certified))))
    }

    /// Puts another in its place, for new connections.
    pub fn replace(&self, other: &Self) {
        *self.0.write().expect("replacing does not panic") = other.get();
    }

    fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().expect("replacing does not panic"))
    }
}

fn not_empty(
    certificates: Vec<CertificateDer<'static>>,
) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    if certificates.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(certificates) }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

/// Without the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Certificate")
    }
}

/// What the listener is told: TLS 1.2 and 1.3, this certificate, and whose certificate a sender
/// has to show.
///
/// # Errors
/// When the authorities cannot be read.
pub fn server_config(
    certificate: Arc<Certificate>,
    files: &Files,
) -> Result<ServerConfig, TlsError> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let failed = |cause| TlsError::File { path: path.clone(), cause };
            let mut roots = RootCertStore::empty();
            for authority in CertificateDer::pem_file_iter(path).map_err(failed)? {
                roots.add(authority.map_err(failed)?)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    Ok(builder.with_cert_resolver(certificate))
}
