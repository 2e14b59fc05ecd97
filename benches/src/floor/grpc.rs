//! grpc: one health check as HTTP/2 frames that were encoded beforehand (RFC 9113, RFC 7541), and no HTTP/2 client.

use std::net::SocketAddr;

use super::slot::{Conversation, Next};
use crate::aim::{Aim, USER_AGENT};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const FRAME_HEAD_BYTES: usize = 9;

/// A `HealthCheckResponse` with status SERVING, after gRPC's five bytes of prefix.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 0x08, 1];

#[derive(Default)]
pub(super) struct Check {
    bytes: Vec<u8>,
    serving: bool,
}

pub(super) fn targets(aims: &[Aim]) -> anyhow::Result<Vec<(SocketAddr, Box<[u8]>)>> {
    aims.iter().map(|aim| aim.net().map(|(peer, _)| (peer, request(peer)))).collect()
}

/// Preface, SETTINGS, HEADERS and an empty `HealthCheckRequest`.
fn request(peer: SocketAddr) -> Box<[u8]> {
    // From the static table: `:method: POST`, `:scheme: http`.
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        // Lengths below 127 are one byte, without Huffman coding.
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], "/grpc.health.v1.Health/Check");
    literal(&[0x01], &peer.to_string());
    literal(b"\x00\x02te", "trailers");
    // Indices above 15 take a second byte: `content-type` is 31, `user-agent` 58.
    literal(&[0x0f, 31 - 15], "application/grpc");
    literal(&[0x0f, 58 - 15], USER_AGENT);
    literal(b"\x00\x0cgrpc-timeout", "1S");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    frame(&mut bytes, HEADERS, END_HEADERS, 1, &block);
    frame(&mut bytes, DATA, END_STREAM, 1, &[0; 5]);
    bytes.into()
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

impl Conversation for Check {
    type Target = Box<[u8]>;
    const RECV_BYTES: usize = 4 * 1024;

    fn connected(&mut self, request: &Box<[u8]>, send: &mut Vec<u8>) -> Next {
        self.bytes.clear();
        self.serving = false;
        send.extend_from_slice(request);
        Next::Send
    }

    /// Until the stream's last frame, its trailers.
    fn received(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> Next {
        if bytes.is_empty() {
            return Next::End(false);
        }
        self.bytes.extend_from_slice(bytes);
        let mut rest = self.bytes.as_slice();
        while let Some((head, after)) = rest.split_first_chunk::<FRAME_HEAD_BYTES>() {
            let [a, b, c, kind, flags, ..] = *head;
            let Some((payload, after)) = after.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize) else {
                break;
            };
            match kind {
                DATA => self.serving |= payload == SERVING,
                HEADERS if flags & END_STREAM != 0 => return Next::End(self.serving),
                RST_STREAM | GOAWAY => return Next::End(false),
                _ => {}
            }
            rest = after;
        }
        let taken = self.bytes.len() - rest.len();
        self.bytes.drain(..taken);
        Next::Receive
    }
}
