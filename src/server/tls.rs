//! TLS towards apps: certificate, key and client CAs from PEM files, HTTP/2 or HTTP/1.1 by ALPN.
//!
//! The files are read anew when they change, all of them together. What cannot be used leaves in place
//! what is there, and is told; connections that stand keep what they began with. A new set begins with
//! no sessions to resume, so that nobody is let in by what a former CA had signed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

use crate::clock::Clock;
use crate::metrics::Reloads;
use crate::settings::{ClientCa, InboundTls, TlsVersion};
use crate::telemetry::chain;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

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
    /// A CA cannot sign anything.
    #[error("proxy.tls: \"{}\" holds what is no certificate authority", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// There is no CA.
    #[error("proxy.tls: \"{}\" holds no certificate authority", path.display())]
    NoAuthority {
        /// The file.
        path: PathBuf,
        /// What rustls said.
        #[source]
        source: VerifierBuilderError,
    },
}

/// What apps are shown, as it is now. Clones share it.
#[derive(Clone, Debug)]
pub struct InboundCertificates(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: Mutex<Current>,
    reloads: Arc<Reloads>,
}

#[derive(Debug)]
struct Current {
    files: InboundTls,
    config: Arc<ServerConfig>,
    /// What the files were like when they were last read, in vain or not.
    seen: Vec<Option<Trace>>,
}

/// By what a change of a file is noticed, whether it is written in place, renamed over, or a link that
/// leads elsewhere.
type Trace = (u64, u64, i64, i64, u64);

impl InboundCertificates {
    /// Reads the files.
    pub fn load(files: &InboundTls) -> Result<Self, TlsFilesError> {
        let seen = traces(files);
        let current = Current { files: files.clone(), config: config(files)?, seen };
        let (current, reloads) = (Mutex::new(current), Arc::default());
        Ok(Self(Arc::new(Shared { current, reloads })))
    }

    /// What the next connection is shown.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current().config))
    }

    /// Reads the files anew, now. If they cannot be used, everything stays as it is.
    pub fn reload(&self) -> Result<(), TlsFilesError> {
        let files = self.current().files.clone();
        self.reload_from(files)
    }

    /// Reads other files from now on, if they can be used.
    pub fn reload_from(&self, files: InboundTls) -> Result<(), TlsFilesError> {
        // First, so that what changes in the meantime is noticed the next time.
        let seen = traces(&files);
        let read = config(&files);
        let mut current = self.current();
        if current.files == files {
            current.seen.clone_from(&seen);
        }
        match read {
            Ok(config) => {
                *current = Current { files, config, seen };
                self.0.reloads.loaded();
                info!("the certificates of [proxy.tls] are read anew");
                Ok(())
            }
            Err(error) => {
                self.0.reloads.refused();
                error!(cause = chain(&error), "the certificates of [proxy.tls] stay as they were");
                Err(error)
            }
        }
    }

    /// Reads the files anew whenever they change. It never returns.
    pub async fn watch(&self, clock: &Clock) {
        loop {
            clock.sleep(LOOK).await;
            let is_changed = {
                let current = self.current();
                traces(&current.files) != current.seen
            };
            if is_changed {
                // It has been told, and is tried again when they change again.
                let _ = self.reload();
            }
        }
    }

    /// What came of reading them anew.
    pub fn reloads(&self) -> &Arc<Reloads> {
        &self.0.reloads
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn traces(files: &InboundTls) -> Vec<Option<Trace>> {
    let ca = files.client_ca.iter().map(|ca| &ca.file);
    let all = [&files.certificate_file, &files.key_file].into_iter().chain(ca);
    let trace = |path: &PathBuf| {
        let it = fs::metadata(path).ok()?;
        Some((it.dev(), it.ino(), it.mtime(), it.mtime_nsec(), it.size()))
    };
    all.map(trace).collect()
}

fn config(files: &InboundTls) -> Result<Arc<ServerConfig>, TlsFilesError> {
    let chain = certificates(&files.certificate_file)?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file)
        .map_err(|source| TlsFilesError::Unreadable { path: files.key_file.clone(), source })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(files.min_version))
        .expect("ring has the suites of both versions");
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(verifier(ca, provider)?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsFilesError::Mismatch)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn versions(least: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match least {
        TlsVersion::V1_2 => &BOTH,
        TlsVersion::V1_3 => &BOTH[..1],
    }
}

fn verifier(
    ca: &ClientCa,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsFilesError> {
    let path = || ca.file.clone();
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&ca.file)? {
        let added = roots.add(certificate);
        added.map_err(|source| TlsFilesError::Authority { path: path(), source })?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if ca.is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|source| TlsFilesError::NoAuthority { path: path(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let unreadable = |source| TlsFilesError::Unreadable { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)
}
