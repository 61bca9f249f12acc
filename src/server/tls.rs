//! TLS towards apps: certificate and key from PEM files, HTTP/2 or HTTP/1.1 by ALPN.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::settings::InboundTls;

/// Why `[proxy.tls]` is unusable.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// A file cannot be read as PEM.
    #[error("proxy.tls: \"{}\" cannot be read as PEM", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key do not go together.
    #[error("proxy.tls: the certificate and the key do not go together")]
    Mismatch(#[source] rustls::Error),
}

/// Accepts TLS 1.2 and 1.3 connections.
pub(super) fn acceptor(files: &InboundTls) -> Result<TlsAcceptor, TlsFilesError> {
    let chain = certificates(&files.certificate_file)?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file)
        .map_err(|source| TlsFilesError::Unreadable { path: files.key_file.clone(), source })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of both versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsFilesError::Mismatch)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let unreadable = |source| TlsFilesError::Unreadable { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)
}
