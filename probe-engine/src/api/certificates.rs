//! Who the control API is over TCP, and whom it lets in: three PEM files, read again when they change.
//!
//! Bounds: `limits::API_PEM_BYTES_MAX` a file, one look each `limits::API_CERTIFICATES_LOOK_EVERY`.
//! **Invariant:** what is in use was read in whole and fits together; files that do not, change nothing.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::consumer::metrics::TcpStats;
use crate::{clock, limits};

/// Mode bits of a file that others than its owner and group may read or change.
const MODE_OTHERS: u32 = 0o006;

/// Where the PEM files are.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// `--api-tls-cert`: the daemon's certificate, then what leads to its CA.
    pub cert: PathBuf,
    /// `--api-tls-key`: its private key.
    pub key: PathBuf,
    /// `--api-client-ca`: CAs whose certificates are let in; revocation lists (CRL) may stand beside them.
    pub client_ca: PathBuf,
}

/// Which of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// See [`CertificateFiles::cert`].
    Cert,
    /// See [`CertificateFiles::key`].
    Key,
    /// See [`CertificateFiles::client_ca`].
    ClientCa,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cert => "--api-tls-cert",
            Self::Key => "--api-tls-key",
            Self::ClientCa => "--api-client-ca",
        })
    }
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{role} {}: cannot be read: {source}", path.display())]
    Read {
        /// Which.
        role: Role,
        /// As configured.
        path: PathBuf,
        /// Its errno.
        source: io::Error,
    },
    /// A file is no file, or holds something else.
    #[error("{role} {}: {message}", path.display())]
    Content {
        /// Which.
        role: Role,
        /// As configured.
        path: PathBuf,
        /// What is wrong, and what is wanted.
        message: String,
    },
    /// Certificate and key are not a pair.
    #[error("--api-tls-key {} is not the key of --api-tls-cert {}", key.display(), cert.display())]
    Mismatch {
        /// As configured.
        cert: PathBuf,
        /// As configured.
        key: PathBuf,
    },
}

/// What TLS handshakes are made with.
pub(super) struct Credentials {
    /// TLS 1.3, client certificates required, HTTP/2.
    pub(super) tls: Arc<ServerConfig>,
    /// Counts up when it is others who are let in.
    trust: u64,
}

/// The credentials in use.
pub(super) struct Certificates {
    files: CertificateFiles,
    current: watch::Sender<Arc<Credentials>>,
    trust: Arc<AtomicU64>,
    stats: Arc<TcpStats>,
    /// Of what is in use.
    digests: Digests,
    /// Of files that could not be used, and whether that has been told.
    refused: Option<([u8; 32], bool)>,
}

/// Whether a connection's client would still be let in.
#[derive(Clone)]
pub(super) struct Trust {
    current: Arc<AtomicU64>,
    of: u64,
}

impl Trust {
    /// CAs or revocation lists have changed since the handshake.
    pub(super) fn is_over(&self) -> bool {
        self.current.load(Ordering::Relaxed) != self.of
    }
}

/// Gives out the credentials in use; cheap to clone.
#[derive(Clone)]
pub(super) struct Newest {
    current: watch::Receiver<Arc<Credentials>>,
    trust: Arc<AtomicU64>,
}

impl Newest {
    /// For a handshake that begins now.
    pub(super) fn credentials(&self) -> (Arc<Credentials>, Trust) {
        let credentials = Arc::clone(&self.current.borrow());
        let trust = Trust { current: Arc::clone(&self.trust), of: credentials.trust };
        (credentials, trust)
    }
}

impl Certificates {
    /// Reads the files; blocks for as long as that takes.
    pub(super) fn load(files: &CertificateFiles, stats: Arc<TcpStats>) -> Result<Self, CertificateError> {
        let material = Material::read(files)?;
        let (tls, expires_at) = material.server_config(files)?;
        let current = watch::Sender::new(Arc::new(Credentials { tls, trust: 0 }));
        let digests = material.digests();
        let certificates = Self { files: files.clone(), current, trust: Arc::default(), stats, digests, refused: None };
        certificates.taken_into_use(&material, expires_at);
        Ok(certificates)
    }

    pub(super) fn newest(&self) -> Newest {
        Newest { current: self.current.subscribe(), trust: Arc::clone(&self.trust) }
    }

    /// Looks at the files again and again, until nobody asks for credentials any more.
    pub(super) async fn follow(mut self, look_every: Duration) {
        loop {
            let next = clock::now() + look_every;
            tokio::select! {
                () = clock::sleep_until(next) => {}
                () = self.current.closed() => return,
            }
            let files = self.files.clone();
            // A file system that hangs keeps one thread, and the credentials as they are.
            let Ok(material) = tokio::task::spawn_blocking(move || Material::read(&files)).await else { return };
            self.look(material);
        }
    }

    fn look(&mut self, material: Result<Material, CertificateError>) {
        let digests = material.as_ref().map(Material::digests).unwrap_or_default();
        if material.is_ok() && digests == self.digests {
            self.refused = None;
            self.stats.certificate_load_failed.store(0, Ordering::Relaxed);
            return;
        }
        let made = material.and_then(|material| Ok((material.server_config(&self.files)?, material)));
        match made {
            Ok(((tls, expires_at), material)) => {
                let others_are_let_in = digests.client_ca != self.digests.client_ca;
                let trust = self.current.borrow().trust + u64::from(others_are_let_in);
                self.current.send_replace(Arc::new(Credentials { tls, trust }));
                // After the credentials: a handshake with the old ones is never taken for one with the new.
                self.trust.store(trust, Ordering::Relaxed);
                self.digests = digests;
                self.refused = None;
                self.taken_into_use(&material, expires_at);
            }
            Err(error) => self.refuse(digests.all(), &error),
        }
    }

    /// Told at the second look that finds the same: whoever writes three files needs a moment.
    fn refuse(&mut self, digest: [u8; 32], error: &CertificateError) {
        let is_second = self.refused.is_some_and(|(seen, _)| seen == digest);
        let is_told = self.refused.is_some_and(|(seen, told)| seen == digest && told);
        if is_second && !is_told {
            warn!(%error, "the control API's new certificates cannot be used: the ones before stay in use");
        }
        if is_second {
            self.stats.certificate_load_failed.store(1, Ordering::Relaxed);
        }
        self.refused = Some((digest, is_second));
    }

    fn taken_into_use(&self, material: &Material, expires_at: Option<Timestamp>) {
        let seconds = expires_at.and_then(|at| u64::try_from(at.as_second()).ok()).unwrap_or_default();
        self.stats.certificate_expires_at_s.store(seconds, Ordering::Relaxed);
        self.stats.certificate_loads.fetch_add(1, Ordering::Relaxed);
        self.stats.certificate_load_failed.store(0, Ordering::Relaxed);
        let cert = self.files.cert.display();
        match expires_at {
            Some(at) if at <= clock::wall() => {
                warn!(%cert, expired_at = %at, "the control API's certificate has expired")
            }
            Some(at) => info!(%cert, expires_at = %at, "the control API's certificates are in use"),
            None => info!(%cert, "the control API's certificates are in use"),
        }
        if material.key_mode & MODE_OTHERS != 0 {
            warn!(
                key = %self.files.key.display(),
                mode = format_args!("{:04o}", material.key_mode & 0o7777),
                "the control API's private key can be read or changed by every user of this host: chmod 600"
            );
        }
    }
}

/// To tell one content from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Digests {
    pair: [u8; 32],
    client_ca: [u8; 32],
}

impl Digests {
    fn all(&self) -> [u8; 32] {
        Sha256::new().chain_update(self.pair).chain_update(self.client_ca).finalize().into()
    }
}

/// The files as they are.
struct Material {
    cert: Vec<u8>,
    key: Vec<u8>,
    key_mode: u32,
    client_ca: Vec<u8>,
}

impl Material {
    fn read(files: &CertificateFiles) -> Result<Self, CertificateError> {
        let (cert, _) = read(Role::Cert, &files.cert)?;
        let (key, key_mode) = read(Role::Key, &files.key)?;
        let (client_ca, _) = read(Role::ClientCa, &files.client_ca)?;
        Ok(Self { cert, key, key_mode, client_ca })
    }

    fn digests(&self) -> Digests {
        let key: [u8; 32] = Sha256::digest(&self.key).into();
        Digests {
            // The key's own digest in between: the end of one file cannot pass for the beginning of the other.
            pair: Sha256::new().chain_update(key).chain_update(&self.cert).finalize().into(),
            client_ca: Sha256::digest(&self.client_ca).into(),
        }
    }

    /// What handshakes need, and when the certificate ends where that can be read.
    fn server_config(
        &self,
        files: &CertificateFiles,
    ) -> Result<(Arc<ServerConfig>, Option<Timestamp>), CertificateError> {
        let cert = |message: String| CertificateError::Content { role: Role::Cert, path: files.cert.clone(), message };
        let key = |message: String| CertificateError::Content { role: Role::Key, path: files.key.clone(), message };
        let chain = certificates(&self.cert).map_err(cert)?;
        let expires_at = expiry(&chain[0]);
        let secret = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            key(format!("want a private key as PEM (PKCS#8, PKCS#1 or SEC1), not encrypted: {error}"))
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = self.verifier(files, &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            // From 1.3 on the client's certificate, and so its name, is not there for all to read.
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring has suites of TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, secret)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    CertificateError::Mismatch { cert: files.cert.clone(), key: files.key.clone() }
                }
                error => cert(format!("cannot be used with the key: {error}")),
            })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session that is resumed shows no certificate, which may have been revoked since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((Arc::new(config), expires_at))
    }

    fn verifier(
        &self,
        files: &CertificateFiles,
        provider: &Arc<rustls::crypto::CryptoProvider>,
    ) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, CertificateError> {
        let path = &files.client_ca;
        let wrong = |message: String| CertificateError::Content { role: Role::ClientCa, path: path.clone(), message };
        let mut roots = RootCertStore::empty();
        for ca in certificates(&self.client_ca).map_err(wrong)? {
            roots.add(ca).map_err(|error| wrong(format!("a certificate in it cannot be used as a CA: {error}")))?;
        }
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&self.client_ca).collect();
        let lists = lists.map_err(|error| wrong(format!("a revocation list in it cannot be read: {error}")))?;
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .with_crls(lists)
            // Of a CA without a list nobody is revoked.
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| match error {
                VerifierBuilderError::InvalidCrl(error) => {
                    wrong(format!("a revocation list in it cannot be used: {error:?}"))
                }
                error => wrong(error.to_string()),
            })
    }
}

/// Content and mode of a regular file.
fn read(role: Role, path: &Path) -> Result<(Vec<u8>, u32), CertificateError> {
    let failed = |source| CertificateError::Read { role, path: path.to_owned(), source };
    let wrong = |message: String| CertificateError::Content { role, path: path.to_owned(), message };
    // A pipe that nobody writes to must not hold this up.
    let open: io::Result<File> = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = open.map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(wrong("is not a file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(limits::API_PEM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limits::API_PEM_BYTES_MAX {
        return Err(wrong(format!("is larger than {} bytes", limits::API_PEM_BYTES_MAX)));
    }
    Ok((bytes, metadata.mode()))
}

/// One certificate at least.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = read.map_err(|error| format!("a certificate in it cannot be read as PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("holds no certificate (want PEM: -----BEGIN CERTIFICATE-----)".to_owned());
    }
    Ok(certificates)
}

fn expiry(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
pub(super) mod fixture;
#[cfg(test)]
mod tests;
