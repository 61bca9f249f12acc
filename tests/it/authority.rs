//! A certificate authority, what it issues, and TLS with that.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    SanType,
};
use ringbearer::settings::SubjectName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An authority. Its files go when it is dropped.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    files: TempDir,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let files = TempDir::new().unwrap();
        std::fs::write(files.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, files }
    }

    /// Its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.files.path().join("ca.pem")
    }

    /// A certificate for these names, in the syntax of `tls_subject`.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for name in names {
            match name.parse().unwrap() {
                SubjectName::Common(name) => {
                    params.distinguished_name.push(DnType::CommonName, name);
                }
                SubjectName::Dns(name) => {
                    params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
                }
                SubjectName::Uri(name) => {
                    params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
                }
                SubjectName::Email(name) => {
                    params.subject_alt_names.push(SanType::Rfc822Name(name.try_into().unwrap()));
                }
            }
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.files.path().join(format!("{file}.{kind}"));
        let issued = Issued { chain: path("pem"), key: path("key") };
        std::fs::write(&issued.chain, certificate.pem()).unwrap();
        std::fs::write(&issued.key, key.serialize_pem()).unwrap();
        issued
    }

    /// The proxy's own.
    pub(crate) fn server(&self) -> Issued {
        self.issue("server", &["DNS:localhost"])
    }

    /// What trusts it, and shows `own` when asked.
    pub(crate) fn client(&self, own: Option<&Issued>) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(self.roots());
        match own {
            None => config.with_no_client_auth(),
            Some(own) => config.with_client_auth_cert(own.chain(), own.key()).unwrap(),
        }
    }

    /// A server that talks to nobody without a certificate of its own.
    pub(crate) fn demanding(&self, server: &Issued) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(self.roots());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_client_cert_verifier(verifier.build().unwrap());
        TlsAcceptor::from(Arc::new(config.with_single_cert(server.chain(), server.key()).unwrap()))
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }
}

impl Issued {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_file(&self.chain).unwrap()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).unwrap()
    }

    /// `[proxy.tls]` with it, and more lines.
    pub(crate) fn tls(&self, lines: &str) -> String {
        let (chain, key) = (self.chain.display(), self.key.display());
        format!("[proxy.tls]\ncertificate_file = \"{chain}\"\nkey_file = \"{key}\"\n{lines}\n")
    }

    /// Puts another in its place, each file at once.
    pub(crate) fn replace_by(&self, other: &Issued) {
        for (from, to) in [(&other.chain, &self.chain), (&other.key, &self.key)] {
            replace(to, &std::fs::read(from).unwrap());
        }
    }
}

/// Renames a new file over an old one.
pub(crate) fn replace(path: &Path, content: &[u8]) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// A TLS connection to `localhost` at this address.
pub(crate) async fn connect(
    config: ClientConfig,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// A client of `https://localhost`, which is at this address.
pub(crate) fn https(config: ClientConfig, address: SocketAddr) -> reqwest::Client {
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .resolve("localhost", address)
        .no_proxy()
        .build()
        .unwrap()
}
