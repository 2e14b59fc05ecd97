//! Certificates of the moment, as PEM files in a directory.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// A CA that writes what it signs.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Ca {
    /// Its own certificate is `ca.pem` in the folder.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "probe-engine tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        fs::write(folder.join("ca.pem"), issuer.pem()).expect("written");
        Self { issuer, folder: folder.to_owned() }
    }

    /// A file of the folder, as a flag takes it.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Writes `server.pem` and `server.key`, for 127.0.0.1; those that were there are replaced.
    pub fn sign_server(&self) {
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        self.sign("server", params, ExtendedKeyUsagePurpose::ServerAuth);
    }

    /// Writes `client.pem` and `client.key`.
    pub fn sign_client(&self) {
        let params = CertificateParams::new(Vec::new()).expect("no names");
        self.sign("client", params, ExtendedKeyUsagePurpose::ClientAuth);
    }

    fn sign(&self, name: &str, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) {
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        for (suffix, text) in [("key", key.serialize_pem()), ("pem", certificate.pem())] {
            let new = self.folder.join("new");
            fs::write(&new, text).expect("written");
            fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a mode");
            fs::rename(new, self.folder.join(format!("{name}.{suffix}"))).expect("in its place");
        }
    }
}
