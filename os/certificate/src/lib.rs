//! Node certificates: how a TLS session proves a node id.
//!
//! A node presents two X.509 v3 certificates: a short-lived leaf over its session key, and a self-signed CA certificate over its node
//! key that signed the leaf. The CA's key *is* the node id; names in the certificates mean nothing. Nothing here reads
//! the clock: times are passed in, in Unix seconds.

mod web;

use os_identity::{NodeId, Signature};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};
pub use web::{WEB_LIFETIME_S, WebKey};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// How long a session certificate is valid. Mesh asks for a new one well before.
pub const LIFETIME_S: u64 = 14 * 24 * 3600;
/// The same for a node that has lost the time: it may lag by years, and must be let in to learn what time it is.
pub const LIFETIME_WITHOUT_CLOCK_S: u64 = 20 * 365 * 24 * 3600;
/// Tolerance for clocks that differ.
const BACKDATE_S: u64 = 2 * 24 * 3600;

/// Whoever can sign with a node key without showing it.
pub trait NodeSigner {
    fn node_id(&self) -> NodeId;
    fn sign_raw(&self, message: &[u8]) -> Signature;
}

impl NodeSigner for os_identity::NodeKey {
    fn node_id(&self) -> NodeId {
        self.node_id()
    }

    fn sign_raw(&self, message: &[u8]) -> Signature {
        self.sign_raw(message)
    }
}

/// Why a chain proves no node id, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("peer presented {0} certificates, a node presents two")]
    Length(usize),
    #[error("node certificate is not over an Ed25519 key")]
    NotEd25519,
    #[error("session certificate is not signed by the node key or is out of date: {0}")]
    Chain(webpki::Error),
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("cannot make a key")]
    Key,
    #[error("time {0} is outside what a certificate can say")]
    Time(u64),
}

/// `(leaf, ca)` in DER: `session_key` (Ed25519 public key) certified by the node key, from about `now` on.
pub fn certify(
    node: &impl NodeSigner,
    session_key: &[u8; 32],
    now: u64,
    lifetime_s: u64,
) -> Result<(CertificateDer<'static>, CertificateDer<'static>), CertificateError> {
    let signer = CaKey { node, public: *node.node_id().as_bytes() };
    let mut ca = params("macula node", now, lifetime_s)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_der = ca.self_signed(&signer)?.der().clone();
    let issuer = Issuer::new(ca, signer);
    let leaf = params("macula session", now, lifetime_s)?;
    let leaf_der = leaf.signed_by(&SessionKey(*session_key), &issuer)?.der().clone();
    Ok((leaf_der, ca_der))
}

/// A certificate that a key signs for itself, under a name that means nothing: for protocols whose peers look at the key, or at
/// none of it. Valid from about `now` on.
pub fn self_signed(
    node: &impl NodeSigner,
    name: &str,
    now: u64,
    lifetime_s: u64,
) -> Result<CertificateDer<'static>, CertificateError> {
    let signer = CaKey { node, public: *node.node_id().as_bytes() };
    Ok(params(name, now, lifetime_s)?.self_signed(&signer)?.der().clone())
}

/// SHA-256 of a certificate, lower case hexadecimal: how browsers and people name it.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, certificate);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The node id that a presented chain proves. The TLS handshake proves that the peer holds the leaf's key.
///
/// `certain` is a time that has been for sure: a certificate that had ended by then is refused. One that begins later is
/// judged as of its beginning, for it may well be our clock that is wrong.
pub fn node_id_of_chain(chain: &[CertificateDer<'_>], certain: u64) -> Result<NodeId, CertificateError> {
    let [leaf, ca] = chain else {
        return Err(CertificateError::Length(chain.len()));
    };
    let anchors = [anchor_from_trusted_cert(ca).map_err(CertificateError::Chain)?];
    let node = ed25519_of_spki(anchors[0].subject_public_key_info.as_ref())?;
    let leaf = EndEntityCert::try_from(leaf).map_err(CertificateError::Chain)?;
    let verify = |time| {
        let (algorithms, usage) = ([webpki::ring::ED25519], KeyUsage::client_auth());
        leaf.verify_for_usage(&algorithms, &anchors, &[], time, usage, None, None).map(drop)
    };
    match verify(UnixTime::since_unix_epoch(std::time::Duration::from_secs(certain))) {
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => verify(not_before),
        other => other,
    }
    .map_err(CertificateError::Chain)?;
    Ok(node)
}

/// Whom a chain names that has been verified before, at whatever time that was.
pub fn node_id_of_verified_chain(chain: &[CertificateDer<'_>]) -> Result<NodeId, CertificateError> {
    let [_, ca] = chain else {
        return Err(CertificateError::Length(chain.len()));
    };
    let anchor = anchor_from_trusted_cert(ca).map_err(CertificateError::Chain)?;
    ed25519_of_spki(anchor.subject_public_key_info.as_ref())
}

/// SubjectPublicKeyInfo without its outer SEQUENCE, as webpki keeps it: AlgorithmIdentifier 1.3.101.112, BIT STRING.
fn ed25519_of_spki(spki: &[u8]) -> Result<NodeId, CertificateError> {
    const PREFIX: [u8; 10] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let key = spki.strip_prefix(&PREFIX).ok_or(CertificateError::NotEd25519)?;
    NodeId::try_from(key).map_err(|_| CertificateError::NotEd25519)
}

fn params(name: &str, now: u64, lifetime_s: u64) -> Result<CertificateParams, CertificateError> {
    let mut p = CertificateParams::default();
    p.distinguished_name = DistinguishedName::new();
    p.distinguished_name.push(DnType::CommonName, name);
    p.serial_number = Some(SerialNumber::from(now.max(1)));
    p.not_before = time_of(now.saturating_sub(BACKDATE_S))?;
    p.not_after = time_of(now.saturating_add(lifetime_s))?;
    Ok(p)
}

fn time_of(unix: u64) -> Result<time::OffsetDateTime, CertificateError> {
    let seconds = i64::try_from(unix).map_err(|_| CertificateError::Time(unix))?;
    time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| CertificateError::Time(unix))
}

struct SessionKey([u8; 32]);

impl PublicKeyData for SessionKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

struct CaKey<'a, N> {
    node: &'a N,
    public: [u8; 32],
}

impl<N> PublicKeyData for CaKey<'_, N> {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl<N: NodeSigner> SigningKey for CaKey<'_, N> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.node.sign_raw(message).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use os_identity::NodeKey;

    const NOW: u64 = 1_795_000_000;

    fn chain(node: &NodeKey, session: &NodeKey) -> Vec<CertificateDer<'static>> {
        let (leaf, ca) = certify(node, session.node_id().as_bytes(), NOW, LIFETIME_S).unwrap();
        vec![leaf, ca]
    }

    #[test]
    fn a_chain_proves_the_node_key() {
        let (node, session) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
        let chain = chain(&node, &session);
        assert_eq!(node_id_of_chain(&chain, NOW).unwrap(), node.node_id());
        assert_eq!(node_id_of_verified_chain(&chain).unwrap(), node.node_id());
    }

    #[test]
    fn a_self_signed_certificate_is_over_its_key() {
        let node = NodeKey::from_seed(&[1; 32]);
        let certificate = self_signed(&node, "some name", NOW, LIFETIME_S).unwrap();
        let anchor = anchor_from_trusted_cert(&certificate).unwrap();
        assert_eq!(ed25519_of_spki(anchor.subject_public_key_info.as_ref()).unwrap(), node.node_id());
        assert!(node_id_of_chain(&[certificate], NOW).is_err(), "alone it is no chain");
    }

    #[test]
    fn another_nodes_leaf_proves_nothing() {
        let session = NodeKey::from_seed(&[2; 32]);
        let honest = chain(&NodeKey::from_seed(&[1; 32]), &session);
        let other = chain(&NodeKey::from_seed(&[3; 32]), &session);
        let mixed = [honest[0].clone(), other[1].clone()];
        assert!(matches!(node_id_of_chain(&mixed, NOW), Err(CertificateError::Chain(_))));
        assert!(matches!(node_id_of_chain(&honest[..1], NOW), Err(CertificateError::Length(1))));
        assert!(node_id_of_chain(&[honest[1].clone(), honest[1].clone()], NOW).is_err());
    }

    #[test]
    fn chains_end_with_their_time() {
        let chain = chain(&NodeKey::from_seed(&[1; 32]), &NodeKey::from_seed(&[2; 32]));
        assert!(node_id_of_chain(&chain, NOW + LIFETIME_S).is_ok());
        assert!(node_id_of_chain(&chain, NOW + LIFETIME_S + 1).is_err());
    }

    #[test]
    fn a_node_that_has_lost_the_time_knows_its_peers_and_is_known() {
        let (node, session) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
        let years = |n: u64| n * 365 * 86_400;
        assert_eq!(node_id_of_chain(&chain(&node, &session), NOW - years(7)).unwrap(), node.node_id());
        let behind = NOW - years(7);
        let (leaf, ca) =
            certify(&node, session.node_id().as_bytes(), behind, LIFETIME_WITHOUT_CLOCK_S).unwrap();
        assert_eq!(node_id_of_chain(&[leaf, ca], NOW).unwrap(), node.node_id());
    }

    #[test]
    fn not_yet_is_no_way_around_the_signature() {
        let session = NodeKey::from_seed(&[2; 32]);
        let honest = chain(&NodeKey::from_seed(&[1; 32]), &session);
        let other = chain(&NodeKey::from_seed(&[3; 32]), &session);
        assert!(node_id_of_chain(&[honest[0].clone(), other[1].clone()], 1).is_err());
        assert!(node_id_of_chain(&[honest[1].clone(), honest[1].clone()], 1).is_err());
    }

    #[test]
    fn every_flipped_byte_is_refused() {
        let good = chain(&NodeKey::from_seed(&[1; 32]), &NodeKey::from_seed(&[2; 32]));
        let node = node_id_of_chain(&good, NOW).unwrap();
        for which in 0..2 {
            for i in 0..good[which].len() {
                let mut bytes = good[which].to_vec();
                bytes[i] ^= 1;
                let mut bad = good.clone();
                bad[which] = bytes.into();
                // A flip in the CA certificate outside its key and name cannot matter: the leaf's signature decides.
                if let Ok(id) = node_id_of_chain(&bad, NOW) {
                    assert_eq!(id, node);
                    assert_eq!(which, 1, "byte {i} of the leaf");
                }
            }
        }
    }
}
