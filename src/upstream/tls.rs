//! The TLS settings towards RingCentral, shared by API and token requests.
//!
//! ring is the provider because a TLS client is ready 24 ms earlier with it than with aws-lc-rs, at
//! the same cost per byte. The server is always verified: against the platform's roots, or against
//! the CAs of a file instead.
//!
//! rustls can write the keys of connections to the file that `SSLKEYLOGFILE` names. That variable is
//! not looked at: whoever sets it would read tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

use super::key_log::KeyLogFile;
use crate::settings::{ClientCertificate, UpstreamSettings};

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
    /// A file of the proxy's own certificate cannot be read as PEM.
    #[error("upstream: \"{}\" cannot be read as PEM", path.display())]
    ClientFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The proxy's own certificate and its key are not for each other.
    #[error("upstream: client_certificate_file and client_key_file do not go together")]
    Mismatch(#[source] rustls::Error),
    /// The keys of connections cannot be written.
    #[error("upstream.tls_key_log_file \"{}\" cannot be written", path.display())]
    KeyLog {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
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

/// The same with what `[upstream]` says besides: a certificate to show, and a file for keys.
pub fn with_settings(
    mut config: ClientConfig,
    upstream: &UpstreamSettings,
) -> Result<ClientConfig, TlsError> {
    if let Some(files) = &upstream.client_certificate {
        config.client_auth_cert_resolver = certificate(files, &config)?;
    }
    if let Some(path) = &upstream.tls_key_log_file {
        let log = KeyLogFile::open(path);
        let failed = |source| TlsError::KeyLog { path: path.clone(), source };
        config.key_log = Arc::new(log.map_err(failed)?);
    }
    Ok(config)
}

fn certificate(
    files: &ClientCertificate,
    config: &ClientConfig,
) -> Result<Arc<dyn ResolvesClientCert>, TlsError> {
    let unreadable = |path: &PathBuf| {
        let path = path.clone();
        move |source| TlsError::ClientFile { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable(&files.certificate_file))?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file);
    let key = key.map_err(unreadable(&files.key_file))?;
    let certified = CertifiedKey::from_der(chain, key, config.crypto_provider());
    Ok(Arc::new(SingleCertAndKey::from(certified.map_err(TlsError::Mismatch)?)))
}

fn roots_of(path: &Path) -> Result<RootCertStore, TlsError> {
    let unreadable = |source| TlsError::CaFile { path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots.add(certificate.map_err(unreadable)?).map_err(TlsError::Roots)?;
    }
    if roots.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(roots) }
}
