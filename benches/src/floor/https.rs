//! httpGet over TLS: a bare rustls client that verifies nothing, a full handshake each time unless sessions are resumed.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::http::Answer;
use super::slot::{Conversation, Next};
use crate::aim::{Aim, http_request};
use crate::any_certificate;

#[derive(Default)]
pub(super) struct Get {
    tls: Option<ClientConnection>,
    answer: Answer,
}

pub(super) struct Target {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    request: Box<[u8]>,
}

pub(super) fn targets(aims: &[Aim], resume: bool) -> anyhow::Result<Vec<(SocketAddr, Target)>> {
    let config = any_certificate::client(false, if resume { aims.len() } else { 0 })?;
    let target = |aim: &Aim| {
        let (peer, path) = aim.net()?;
        let name = ServerName::IpAddress(peer.ip().into());
        Ok((peer, Target { config: Arc::clone(&config), name, request: http_request(peer, path) }))
    };
    aims.iter().map(target).collect()
}

impl Conversation for Get {
    type Target = Target;
    const RECV_BYTES: usize = 17 * 1024;

    fn connected(&mut self, target: &Target, send: &mut Vec<u8>) -> Next {
        self.answer.bytes.clear();
        let tls = ClientConnection::new(Arc::clone(&target.config), target.name.clone());
        let Ok(mut tls) = tls else { return Next::End(false) };
        // rustls keeps the request until the handshake is done.
        let written = tls.writer().write_all(&target.request).and_then(|()| tls.write_tls(send));
        self.tls = Some(tls);
        if written.is_ok() { Next::Send } else { Next::End(false) }
    }

    fn received(&mut self, bytes: &[u8], send: &mut Vec<u8>) -> Next {
        self.take(bytes, send).unwrap_or(Next::End(false))
    }
}

impl Get {
    /// `None`: the connection is broken.
    fn take(&mut self, bytes: &[u8], send: &mut Vec<u8>) -> Option<Next> {
        let tls = self.tls.as_mut()?;
        let mut rest = bytes;
        let closed = bytes.is_empty();
        while !rest.is_empty() {
            tls.read_tls(&mut rest).ok()?;
            let state = tls.process_new_packets().ok()?;
            let before = self.answer.bytes.len();
            self.answer.bytes.resize(before + state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(&mut self.answer.bytes[before..]).ok()?;
        }
        if let Some(is_good) = self.answer.end(closed) {
            return Some(Next::End(is_good));
        }
        while tls.wants_write() {
            tls.write_tls(send).ok()?;
        }
        Some(if send.is_empty() { Next::Receive } else { Next::Send })
    }
}
