//! Certificates for servers on loopback.

use rcgen::{CertificateParams, KeyPair};

/// A certificate that signs itself.
pub struct Certificate {
    pub pem: String,
    /// Its private key in PEM.
    pub key: String,
    /// The certificate in DER.
    pub der: Vec<u8>,
    /// Its private key as PKCS #8 in DER.
    pub key_der: Vec<u8>,
}

impl Certificate {
    pub fn of_loopback() -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            pem: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
            key_der: key.serialize_der(),
        }
    }

    /// The certificate as one that a client trusts.
    pub fn root(&self) -> reqwest::Certificate {
        reqwest::Certificate::from_pem(self.pem.as_bytes()).expect("a certificate")
    }
}
