//! httpGet: the kubelet's request, and its answer until that is whole.

use std::net::SocketAddr;

use super::slot::{Conversation, Next};
use crate::aim::{Aim, http_request};

#[derive(Default)]
pub(super) struct Get(Answer);

pub(super) fn targets(aims: &[Aim]) -> anyhow::Result<Vec<(SocketAddr, Box<[u8]>)>> {
    let target = |aim: &Aim| aim.net().map(|(peer, path)| (peer, http_request(peer, path)));
    aims.iter().map(target).collect()
}

impl Conversation for Get {
    type Target = Box<[u8]>;
    const RECV_BYTES: usize = 4 * 1024;

    fn connected(&mut self, request: &Box<[u8]>, send: &mut Vec<u8>) -> Next {
        self.0.bytes.clear();
        send.extend_from_slice(request);
        Next::Send
    }

    fn received(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> Next {
        self.0.bytes.extend_from_slice(bytes);
        self.0.end(bytes.is_empty()).map_or(Next::Receive, Next::End)
    }
}

/// The bytes of an answer so far.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
}

impl Answer {
    /// Whether it is a good one, as soon as it is whole: by its Content-Length, the last chunk, or the connection's end.
    pub(super) fn end(&self, closed: bool) -> Option<bool> {
        let head_len = self.bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        let Some(head_len) = head_len else { return closed.then_some(false) };
        let (head, body) = self.bytes.split_at(head_len);
        let is_good = head.starts_with(b"HTTP/1.") && matches!(head.get(9), Some(b'2' | b'3'));
        let content_length = head.split(|byte| *byte == b'\n').find_map(|line| {
            let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
            let is_length = name.eq_ignore_ascii_case(b"content-length");
            is_length.then(|| std::str::from_utf8(&value[1..]).ok()?.trim().parse::<usize>().ok()).flatten()
        });
        let whole = match content_length {
            Some(len) => body.len() >= len,
            None => closed || body.ends_with(b"0\r\n\r\n"),
        };
        if whole {
            return Some(is_good);
        }
        closed.then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_head_says() {
        let end = |text: &str, closed| Answer { bytes: text.into() }.end(closed);
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
        assert_eq!(end(&head[..20], false), None);
        assert_eq!(end(&format!("{head}o"), false), None);
        assert_eq!(end(&format!("{head}ok"), false), Some(true));
        assert_eq!(end(&format!("{head}o"), true), Some(false));
        assert_eq!(end("HTTP/1.1 503 No\r\n\r\nbusy", true), Some(false));
        assert_eq!(end("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false), Some(true));
    }
}
