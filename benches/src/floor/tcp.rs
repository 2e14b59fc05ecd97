//! tcpSocket: nothing is said.

use std::net::SocketAddr;

use super::slot::{Conversation, Next};
use crate::aim::Aim;

#[derive(Default)]
pub(super) struct Connect;

pub(super) fn targets(aims: &[Aim]) -> anyhow::Result<Vec<(SocketAddr, ())>> {
    aims.iter().map(|aim| Ok((aim.net()?.0, ()))).collect()
}

impl Conversation for Connect {
    type Target = ();
    const RECV_BYTES: usize = 0;

    fn connected(&mut self, (): &(), _: &mut Vec<u8>) -> Next {
        Next::End(true)
    }

    fn received(&mut self, _: &[u8], _: &mut Vec<u8>) -> Next {
        Next::End(false)
    }
}
