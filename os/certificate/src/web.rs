//! A certificate for browsers: they take no Ed25519.

use rcgen::{PublicKeyData, SanType, SignatureAlgorithm, SigningKey};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls_pki_types::CertificateDer;

use crate::{BACKDATE_S, CertificateError, params};

/// Together with what it is backdated by less than the 14 days after which browsers trust no certificate by its hash alone (W3C
/// WebTransport, `serverCertificateHashes`).
pub const WEB_LIFETIME_S: u64 = 14 * 24 * 3600 - BACKDATE_S - 3600;

/// A key on P-256. Nobody vouches for it: whoever connects compares the certificate's hash with one that it has from elsewhere.
pub struct WebKey {
    pkcs8: Vec<u8>,
    pair: EcdsaKeyPair,
}

impl WebKey {
    pub fn generate() -> Result<Self, CertificateError> {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .map_err(|_| CertificateError::Key)?
            .as_ref()
            .to_vec();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &random)
            .map_err(|_| CertificateError::Key)?;
        Ok(Self { pkcs8, pair })
    }

    pub fn to_pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Self-signed, for these host names, valid from about `now` on for [`WEB_LIFETIME_S`].
    pub fn certificate(
        &self,
        hosts: &[String],
        now: u64,
    ) -> Result<CertificateDer<'static>, CertificateError> {
        let mut params = params("macula node", now, WEB_LIFETIME_S)?;
        let san = |host: &String| Ok::<_, rcgen::Error>(SanType::DnsName(host.as_str().try_into()?));
        params.subject_alt_names = hosts.iter().map(san).collect::<Result<_, _>>()?;
        Ok(params.self_signed(self)?.der().clone())
    }
}

impl PublicKeyData for WebKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for WebKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        signature.map(|s| s.as_ref().to_vec()).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{ServerName, UnixTime};
    use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

    use super::*;

    const NOW: u64 = 1_795_000_000;

    #[test]
    fn it_is_good_for_its_names_and_its_time() {
        let host = "macula-abc.local".to_owned();
        let key = WebKey::generate().unwrap();
        let der = key.certificate(std::slice::from_ref(&host), NOW).unwrap();
        let anchors = [anchor_from_trusted_cert(&der).unwrap()];
        let certificate = EndEntityCert::try_from(&der).unwrap();
        let valid = |at: u64| {
            let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
            let algorithms = [webpki::ring::ECDSA_P256_SHA256];
            let usage = KeyUsage::server_auth();
            certificate.verify_for_usage(&algorithms, &anchors, &[], at, usage, None, None).is_ok()
        };
        assert!(valid(NOW) && valid(NOW + WEB_LIFETIME_S) && !valid(NOW + WEB_LIFETIME_S + 1));
        const { assert!(BACKDATE_S + WEB_LIFETIME_S < 14 * 24 * 3600) };
        let name = |text: &str| ServerName::try_from(text.to_owned()).unwrap();
        assert!(certificate.verify_is_valid_for_subject_name(&name(&host)).is_ok());
        assert!(certificate.verify_is_valid_for_subject_name(&name("other.local")).is_err());
    }
}
