//! TLS towards apps and towards RingCentral: which files, and what is asked of the other side.

use std::path::{Path, PathBuf};

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::resolve::{check_certificates, file, is_world_readable, read};
use super::{ClientCa, ClientCertificate, InboundTls, SettingsError, TlsVersion, Warning};
use crate::config::TlsConfig;

/// `[proxy.tls]`.
pub(super) fn inbound(
    config: TlsConfig,
    directory: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<InboundTls, SettingsError> {
    let certificate = "proxy.tls.certificate_file";
    let key = "proxy.tls.key_file";
    let missing = |key, cure| SettingsError::Missing { key, cure };
    let certificate_file = file(certificate, config.certificate_file, directory)?
        .ok_or(missing(certificate, "[proxy.tls] needs a certificate chain, PEM"))?;
    let key_file = file(key, config.key_file, directory)?
        .ok_or(missing(key, "[proxy.tls] needs the key of the certificate, PEM"))?;
    check_certificates(certificate, &certificate_file)?;
    check_key(key, &key_file, warnings)?;
    let min_version = match config.min_version.as_deref() {
        None | Some("1.2") => TlsVersion::V1_2,
        Some("1.3") => TlsVersion::V1_3,
        Some(_) => return Err(SettingsError::TlsVersion),
    };
    let ca_file = file("proxy.tls.client_ca_file", config.client_ca_file, directory)?;
    let client_ca = client_ca(ca_file, config.client_certificates.as_deref())?;
    Ok(InboundTls { certificate_file, key_file, client_ca, min_version })
}

fn client_ca(
    file: Option<PathBuf>,
    demand: Option<&str>,
) -> Result<Option<ClientCa>, SettingsError> {
    let is_required = match demand {
        None | Some("required") => true,
        Some("optional") => false,
        Some(_) => return Err(SettingsError::ClientCertificates),
    };
    let Some(file) = file else {
        return match demand {
            None => Ok(None),
            Some(_) => Err(SettingsError::UselessWithout {
                key: "proxy.tls.client_certificates",
                with: "proxy.tls.client_ca_file",
            }),
        };
    };
    check_certificates("proxy.tls.client_ca_file", &file)?;
    Ok(Some(ClientCa { file, is_required }))
}

/// `[upstream]`'s own certificate, with its key.
pub(super) fn client_certificate(
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    directory: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<Option<ClientCertificate>, SettingsError> {
    let (certificate, key) = ("upstream.client_certificate_file", "upstream.client_key_file");
    let certificate_file = file(certificate, certificate_file, directory)?;
    let key_file = file(key, key_file, directory)?;
    match (certificate_file, key_file) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(SettingsError::UselessWithout { key: certificate, with: key }),
        (None, Some(_)) => Err(SettingsError::UselessWithout { key, with: certificate }),
        (Some(certificate_file), Some(key_file)) => {
            check_certificates(certificate, &certificate_file)?;
            check_key(key, &key_file, warnings)?;
            Ok(Some(ClientCertificate { certificate_file, key_file }))
        }
    }
}

fn check_key(
    what: &'static str,
    path: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<(), SettingsError> {
    let pem = read(what, path)?;
    if PrivateKeyDer::from_pem_slice(&pem).is_err() {
        return Err(SettingsError::NoPem { what, path: path.to_owned(), wanted: "private key" });
    }
    if is_world_readable(path) {
        warnings.push(Warning::WorldReadable { path: path.to_owned() });
    }
    Ok(())
}
