//! The TLS settings towards RingCentral, shared by API and token requests.
//!
//! ring is the provider because a TLS client is ready 24 ms earlier with it than with aws-lc-rs, at
//! the same cost per byte. The server is always verified: against the platform's roots, or against
//! the CAs of a file instead.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA file cannot be read, or is not PEM.
    #[error("ca_file \"{}\" cannot be read as PEM certificates", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The CA file holds no certificate.
    #[error("ca_file \"{}\" holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// A certificate is not acceptable, or the platform has no roots.
    #[error("no CAs to trust: set upstream.ca_file, or install the platform's ca-certificates")]
    Roots(#[source] rustls::Error),
}

/// Whose certificates are accepted.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Nobody's: where no TLS is spoken.
    Nobody,
    /// Those that the CAs of this PEM file have signed.
    File(PathBuf),
    /// Those that the platform accepts.
    Platform,
}

/// TLS 1.2 and 1.3, without client certificate, resuming sessions.
pub fn client_config(trust: &Trust) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of both versions");
    let config = match trust {
        Trust::Nobody => builder.with_root_certificates(RootCertStore::empty()),
        Trust::File(path) => builder.with_root_certificates(roots_of(path)?),
        Trust::Platform => builder.with_platform_verifier().map_err(TlsError::Roots)?,
    };
    Ok(config.with_no_client_auth())
}

fn roots_of(path: &Path) -> Result<RootCertStore, TlsError> {
    let unreadable = |source| TlsError::CaFile { path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots.add(certificate.map_err(unreadable)?).map_err(TlsError::Roots)?;
    }
    if roots.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(roots) }
}
