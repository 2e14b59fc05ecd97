//! The bytes of one HTTP connection, with or without TLS: a rustls client over a [`Stream`].
//!
//! Certificates are not verified, as the kubelet's `InsecureSkipVerify` says: any chain, any name, any age. The
//! handshake's own signature is verified with the key that the certificate shows, as Go does.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use probe_core::outcome::LocalCause;
use probe_core::time::Instant;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind,
    SignatureScheme,
};

use crate::clock;
use crate::limits::TLS_HANDSHAKE_MAX;
use crate::prober::stream::{Stream, StreamError};
use crate::prober::{errno, http};

use super::session::Store;

/// Bytes that one read asks for: a whole TLS record fits.
const READ_BYTES: usize = 17 * 1024;

/// Shared by all attempts; [`config`] adds the session store of one.
static CONFIG: LazyLock<ClientConfig> = LazyLock::new(|| {
    let mut provider = ring::default_provider();
    // Go's order, and so the kubelet's: AES-128 with SHA-256 first, which costs less, too.
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        _ => 1,
    });
    let provider = Arc::new(provider);
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the ring provider has suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    config
});

/// The client of one connection: a copy of what is shared (a few counted references), with a session store of its own.
fn config(store: Store) -> Arc<ClientConfig> {
    let mut config = CONFIG.clone();
    config.resumption = Resumption::store(Arc::new(store));
    Arc::new(config)
}

/// Why a connection is of no more use. Texts are Go's.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The attempt's deadline passed.
    #[error("{}", http::TIMEOUT_IN_HEAD)]
    Timeout,
    /// [`TLS_HANDSHAKE_MAX`] passed.
    #[error("net/http: TLS handshake timeout")]
    HandshakeTimeout,
    /// What came first was `HTTP/`.
    #[error("http: server gave HTTP response to HTTPS client")]
    PlainHttp,
    /// The peer closed within the handshake.
    #[error("EOF")]
    Eof,
    /// What came first was no TLS record.
    #[error("tls: first record does not look like a TLS handshake")]
    NotTls,
    /// The peer refused.
    #[error("remote error: tls: {}", alert_words(*.0))]
    Alert(AlertDescription),
    /// The peer broke the protocol.
    #[error("tls: {0}")]
    Tls(rustls::Error),
    /// A system call failed.
    #[error("{call} tcp {route}: {call}: {}", words(source))]
    Io {
        /// `read` or `write`.
        call: &'static str,
        /// Both ends.
        route: String,
        /// From the call.
        source: io::Error,
    },
}

impl Broken {
    /// The cause where this says nothing of the target.
    pub(super) fn local_cause(&self) -> Option<LocalCause> {
        match self {
            Broken::Io { source, .. } => source.raw_os_error().and_then(|code| errno::local_cause(code, || false)),
            _ => None,
        }
    }
}

/// One connection.
pub(super) struct Wire {
    stream: Stream,
    tls: Option<Box<ClientConnection>>,
    /// Bytes as they came.
    raw: Vec<u8>,
    /// Bytes for the caller, where TLS is in between.
    plain: Vec<u8>,
    /// Bytes of TLS on their way out.
    out: Vec<u8>,
}

impl Wire {
    pub(super) fn new(stream: tokio::net::TcpStream) -> Result<Wire, Broken> {
        let stream = Stream::new(stream).map_err(|source| Broken::Io { call: "read", route: String::new(), source })?;
        Ok(Wire { stream, tls: None, raw: Vec::with_capacity(READ_BYTES), plain: Vec::new(), out: Vec::new() })
    }

    /// Makes the TLS handshake, within `deadline` and [`TLS_HANDSHAKE_MAX`]; offers what `store` has. Our last message of it
    /// waits for the request where the server waits for both.
    pub(super) async fn start_tls(&mut self, host: &str, store: Store, deadline: Instant) -> Result<(), Broken> {
        let limit = clock::now() + TLS_HANDSHAKE_MAX;
        let mut tls = ClientConnection::new(config(store), server_name(host)).map_err(Broken::Tls)?;
        let made = self.handshake(&mut tls, deadline.min(limit)).await;
        self.tls = Some(Box::new(tls));
        match made {
            Err(Broken::Timeout) if limit < deadline => Err(Broken::HandshakeTimeout),
            made => made,
        }
    }

    async fn handshake(&mut self, tls: &mut ClientConnection, until: Instant) -> Result<(), Broken> {
        // A record's header has five bytes; so has `HTTP/`.
        let mut first: Vec<u8> = Vec::new();
        let mut is_record = false;
        loop {
            if !tls.is_handshaking() {
                return Ok(());
            }
            self.flush(tls, until).await?;
            self.fill(until).await?;
            if self.raw.is_empty() {
                return Err(Broken::Eof);
            }
            if is_record {
                self.decrypt(tls, until).await?;
                continue;
            }
            if first.is_empty() {
                // As a rule that is all, and the large buffer is the one to go on with.
                std::mem::swap(&mut self.raw, &mut first);
            } else {
                first.append(&mut self.raw);
            }
            if first.len() >= 5 {
                match first[0] {
                    b'H' if first.starts_with(b"HTTP/") => return Err(Broken::PlainHttp),
                    20..=23 => is_record = true,
                    _ => return Err(Broken::NotTls),
                }
                std::mem::swap(&mut self.raw, &mut first);
                self.decrypt(tls, until).await?;
            }
        }
    }

    /// The handshake continued an earlier session.
    pub(super) fn is_resumed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Sends all of `bytes`.
    pub(super) async fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), Broken> {
        let Some(mut tls) = self.tls.take() else {
            return self.write(bytes, deadline).await;
        };
        // Apart: its writer must not live on while this waits.
        let taken = tls.writer().write_all(bytes);
        let result = match taken {
            Ok(()) => self.flush(&mut tls, deadline).await,
            Err(source) => Err(self.io_error("write", source)),
        };
        self.tls = Some(tls);
        result
    }

    /// The next bytes; none = the peer has closed. Under TLS a close without a goodbye counts as one, as in Go.
    pub(super) async fn receive(&mut self, deadline: Instant) -> Result<&[u8], Broken> {
        let Some(mut tls) = self.tls.take() else {
            self.fill(deadline).await?;
            return Ok(&self.raw);
        };
        let result = self.receive_tls(&mut tls, deadline).await;
        self.tls = Some(tls);
        result.map(|()| &self.plain[..])
    }

    async fn receive_tls(&mut self, tls: &mut ClientConnection, deadline: Instant) -> Result<(), Broken> {
        self.plain.clear();
        // What the handshake's last read brought along.
        let mut is_over = drain(tls, &mut self.plain);
        while self.plain.is_empty() && !is_over {
            self.fill(deadline).await?;
            if self.raw.is_empty() {
                return Ok(());
            }
            is_over = self.decrypt(tls, deadline).await?;
        }
        Ok(())
    }

    /// Closes the connection, with a goodbye where TLS wants one; whoever does not hear it misses nothing.
    pub(super) fn close(mut self) {
        let Some(mut tls) = self.tls.take() else { return };
        tls.send_close_notify();
        if take_out(&mut tls, &mut self.out).is_ok() {
            self.stream.end_with(&self.out);
        }
    }

    /// Hands what was read to TLS and its content to `plain`; true = the peer said goodbye.
    async fn decrypt(&mut self, tls: &mut ClientConnection, deadline: Instant) -> Result<bool, Broken> {
        let was_handshaking = tls.is_handshaking();
        let raw = std::mem::take(&mut self.raw);
        let mut rest = &raw[..];
        let mut is_over = false;
        let mut failed = None;
        while !rest.is_empty() && !is_over && failed.is_none() {
            // Reading from memory fails only when TLS holds too much, which cannot be: it is drained each time.
            if tls.read_tls(&mut rest).is_err() {
                break;
            }
            failed = tls.process_new_packets().err();
            is_over = drain(tls, &mut self.plain);
        }
        self.raw = raw;
        // What ends the handshake goes out with the request.
        let waits = was_handshaking && !tls.is_handshaking() && failed.is_none();
        if tls.wants_write() && !waits {
            let flushed = self.flush(tls, deadline).await;
            if failed.is_none() {
                flushed?;
            }
        }
        match failed {
            None => Ok(is_over),
            // What came before it is whole, and may be all that is wanted.
            Some(_) if !self.plain.is_empty() => Ok(false),
            Some(rustls::Error::AlertReceived(alert)) => Err(Broken::Alert(alert)),
            Some(rustls::Error::InvalidMessage(_)) if tls.is_handshaking() => Err(Broken::NotTls),
            Some(error) => Err(Broken::Tls(error)),
        }
    }

    async fn flush(&mut self, tls: &mut ClientConnection, deadline: Instant) -> Result<(), Broken> {
        let mut out = std::mem::take(&mut self.out);
        take_out(tls, &mut out).map_err(|source| self.io_error("write", source))?;
        let written = if out.is_empty() { Ok(()) } else { self.write(&out, deadline).await };
        self.out = out;
        written
    }

    async fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), Broken> {
        match self.stream.write_all(bytes, deadline).await {
            Ok(()) => Ok(()),
            Err(StreamError::Timeout) => Err(Broken::Timeout),
            Err(StreamError::Io(source)) => Err(self.io_error("write", source)),
        }
    }

    /// Reads into `raw`; empty = the peer has closed.
    async fn fill(&mut self, deadline: Instant) -> Result<(), Broken> {
        let mut buffer = std::mem::take(&mut self.raw);
        buffer.clear();
        buffer.reserve(READ_BYTES);
        let read = self.stream.read(&mut buffer, deadline).await;
        self.raw = buffer;
        match read {
            Ok(len) => {
                self.raw.truncate(len);
                Ok(())
            }
            Err(StreamError::Timeout) => Err(Broken::Timeout),
            Err(StreamError::Io(source)) => Err(self.io_error("read", source)),
        }
    }

    fn io_error(&self, call: &'static str, source: io::Error) -> Broken {
        let route = self.stream.route();
        Broken::Io { call, route, source }
    }
}

/// What TLS wants to send, instead of what `out` had.
fn take_out(tls: &mut ClientConnection, out: &mut Vec<u8>) -> io::Result<()> {
    out.clear();
    while tls.wants_write() {
        tls.write_tls(out)?;
    }
    Ok(())
}

/// Moves decrypted bytes to `plain`; true = the peer said goodbye.
fn drain(tls: &mut ClientConnection, plain: &mut Vec<u8>) -> bool {
    let mut piece = [0; 4_096];
    loop {
        match tls.reader().read(&mut piece) {
            Ok(0) => return true,
            Ok(len) => plain.extend_from_slice(&piece[..len]),
            // Nothing more for now; an end without a goodbye is seen by the socket.
            Err(_) => return false,
        }
    }
}

/// The name that is asked for (SNI). Addresses, and names that TLS cannot express, are asked for without one.
fn server_name(host: &str) -> ServerName<'static> {
    ServerName::try_from(host.trim_end_matches('.').to_owned())
        .unwrap_or(ServerName::IpAddress(IpAddr::from(Ipv4Addr::UNSPECIFIED).into()))
}

/// Accepts every certificate, but only with a handshake that its key has signed.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl AnyCertificate {
    /// A certificate that cannot even be parsed (X.509 version 1, say) is accepted like any other.
    fn lenient(
        result: Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match result {
            Err(rustls::Error::InvalidCertificate(error)) if error != rustls::CertificateError::BadSignature => {
                Ok(HandshakeSignatureValid::assertion())
            }
            result => result,
        }
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        Self::lenient(verify_tls12_signature(message, certificate, signature, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        Self::lenient(verify_tls13_signature(message, certificate, signature, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn words(source: &io::Error) -> String {
    match source.raw_os_error() {
        Some(code) => errno::wording(code).into_owned(),
        None => source.to_string(),
    }
}

/// Go's words for the alerts that a client meets (`crypto/tls/alert.go`).
fn alert_words(alert: AlertDescription) -> String {
    let words = match alert {
        AlertDescription::UnexpectedMessage => "unexpected message",
        AlertDescription::BadRecordMac => "bad record MAC",
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::IllegalParameter => "illegal parameter",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::DecodeError => "error decoding message",
        AlertDescription::DecryptError => "error decrypting message",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::InsufficientSecurity => "insufficient security level",
        AlertDescription::InternalError => "internal error",
        AlertDescription::UserCanceled => "user canceled",
        AlertDescription::MissingExtension => "missing extension",
        AlertDescription::UnsupportedExtension => "unsupported extension",
        AlertDescription::UnrecognisedName => "unrecognized name",
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::NoApplicationProtocol => "no application protocol",
        other => return format!("alert({})", u8::from(other)),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_and_an_address_is_not() {
        let name = ServerName::try_from("example.com").expect("a name");
        assert_eq!([server_name("example.com"), server_name("example.com.")], [name.clone(), name]);
        for host in ["10.0.0.1", "::1", "no name"] {
            assert!(matches!(server_name(host), ServerName::IpAddress(_)), "{host}");
        }
    }
}
