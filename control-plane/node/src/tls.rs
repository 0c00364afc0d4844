//! Mutual TLS between nodes: TLS 1.3, ring, one CA, and names from the configuration.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use turnpike_broker::name::NodeName;
use webpki::EndEntityCert;

use crate::config::Peering;

/// What both roles need.
#[derive(Debug, Clone)]
pub struct Tls {
    /// For peers that connect to us.
    pub server: Arc<ServerConfig>,
    /// For peers that we connect to.
    pub client: Arc<ClientConfig>,
}

/// Why the certificates of `[peering]` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {detail}")]
pub struct TlsError {
    key: &'static str,
    detail: String,
}

impl TlsError {
    fn of_file(key: &'static str, path: &Path, detail: impl std::fmt::Display) -> Self {
        Self { key, detail: format!("{}: {detail}", path.display()) }
    }
}

impl Tls {
    /// Reads and checks the files of `[peering]`.
    pub fn load(peering: &Peering, node: &NodeName) -> Result<Self, TlsError> {
        let chain = certificates("peering.certificate", &peering.certificate)?;
        if !chain.first().is_some_and(|certificate| names(certificate, node)) {
            let detail = format!("its subject alternative names do not contain this node's name, {node}");
            return Err(TlsError::of_file("peering.certificate", &peering.certificate, detail));
        }
        let key = PrivateKeyDer::from_pem_file(&peering.key)
            .map_err(|error| TlsError::of_file("peering.key", &peering.key, error))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates("peering.ca", &peering.ca)? {
            roots.add(certificate).map_err(|error| TlsError::of_file("peering.ca", &peering.ca, error))?;
        }
        let roots = Arc::new(roots);
        let unusable = |detail: String| TlsError { key: "peering", detail };
        let provider = provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .and_then(|builder| {
                builder.with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key.clone_key())
            })
            .map_err(|error| unusable(error.to_string()))?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .and_then(|builder| builder.with_root_certificates(roots).with_client_auth_cert(chain, key))
            .map_err(|error| unusable(error.to_string()))?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

/// The one provider of this program.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The one configured peer that a verified certificate is for.
pub fn peer_of<'a>(
    certificate: &CertificateDer<'_>,
    peers: impl IntoIterator<Item = &'a NodeName>,
) -> Result<&'a NodeName, &'static str> {
    let mut matching = peers.into_iter().filter(|peer| names(certificate, peer));
    match (matching.next(), matching.next()) {
        (Some(peer), None) => Ok(peer),
        (None, _) => Err("its certificate names no peer of this node"),
        // A wildcard would let one node speak for another.
        (Some(_), Some(_)) => Err("its certificate names several peers of this node"),
    }
}

/// The name that a peer's certificate must carry.
pub fn server_name(peer: &NodeName) -> Result<ServerName<'static>, String> {
    DnsName::try_from(peer.as_str().to_owned())
        .map(ServerName::DnsName)
        .map_err(|_| format!("{peer} cannot be a host name in a certificate"))
}

fn names(certificate: &CertificateDer<'_>, node: &NodeName) -> bool {
    let Ok(name) = server_name(node) else { return false };
    EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| TlsError::of_file(key, path, error))?;
    if found.is_empty() { Err(TlsError::of_file(key, path, "no certificate in it")) } else { Ok(found) }
}
