//! Certificates of the moment, and files that hold them.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, ExtendedKeyUsagePurpose,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

use super::CertificateFiles;

/// A CA.
pub(in crate::api) struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(in crate::api) struct Pair {
    pub(in crate::api) cert: String,
    pub(in crate::api) key: String,
}

impl Ca {
    pub(in crate::api) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA"))
    }

    pub(in crate::api) fn pem(&self) -> String {
        self.0.pem()
    }

    /// For `localhost` and 127.0.0.1.
    pub(in crate::api) fn server(&self) -> Pair {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.sign(CertificateParams::new(names).expect("names"), ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub(in crate::api) fn client(&self, serial: u64) -> Pair {
        self.client_until(serial, 2090)
    }

    /// One that has ended at the beginning of that year.
    pub(in crate::api) fn client_until(&self, serial: u64, year: i32) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(rcgen::DnType::CommonName, "operator");
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(year, 1, 1);
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Pair {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("a certificate").pem();
        Pair { cert, key: key.serialize_pem() }
    }

    /// A list that revokes these.
    pub(in crate::api) fn revokes(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).expect("a list").pem().expect("as PEM")
    }
}

/// The three files in a directory of their own.
pub(in crate::api) struct Files {
    pub(in crate::api) folder: tempfile::TempDir,
}

impl Files {
    pub(in crate::api) fn write(server: &Pair, client_ca: &str) -> Self {
        let files = Self { folder: tempfile::tempdir().expect("a directory") };
        files.replace("cert.pem", &server.cert);
        files.replace("key.pem", &server.key);
        files.replace("ca.pem", client_ca);
        files
    }

    pub(in crate::api) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// In one step; nobody else may read it.
    pub(in crate::api) fn replace(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).expect("written");
        let owners: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&new, owners).expect("a mode");
        std::fs::rename(new, self.path(name)).expect("in its place");
    }

    pub(in crate::api) fn named(&self) -> CertificateFiles {
        let path = |name: &str| Path::join(self.folder.path(), name);
        CertificateFiles { cert: path("cert.pem"), key: path("key.pem"), client_ca: path("ca.pem") }
    }
}
