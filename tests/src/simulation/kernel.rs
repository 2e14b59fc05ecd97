//! [`Kernel`] over the simulated world. What a shard does against the contract of that trait is a panic here.
//!
//! A flush may give fewer completions than there are, but never none while there is one: a shard asks until it gets none.
//! Only those of cancelled operations may come some flushes later, as under DEFER_TASKRUN.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use nix::libc;
use probe_engine::shard::kernel::{CloseMode, Completion, ConnectInfo, Full, Kernel, SocketId};
use probe_engine::shard::token::Token;

use super::net::Work;
use super::world::World;

/// See the module.
pub struct FakeKernel(pub Rc<RefCell<World>>);

impl Kernel for FakeKernel {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn socket(&mut self, peer: &SocketAddr, _close: CloseMode) -> io::Result<SocketId> {
        self.0.borrow_mut().socket(*peer).map_err(io::Error::from_raw_os_error)
    }

    fn connect(&mut self, token: Token, socket: SocketId, _peer: SocketAddr) -> Result<(), Full> {
        self.0.borrow_mut().submit(token, socket, Work::Connect).map_err(|_| Full)
    }

    fn send(
        &mut self,
        token: Token,
        socket: SocketId,
        buffer: Box<[u8]>,
        from: usize,
    ) -> Result<(), (Full, Box<[u8]>)> {
        self.0.borrow_mut().submit(token, socket, Work::Send { buffer, from }).map_err(given_back)
    }

    fn recv(&mut self, token: Token, socket: SocketId, buffer: Box<[u8]>) -> Result<(), (Full, Box<[u8]>)> {
        self.0.borrow_mut().submit(token, socket, Work::Recv(buffer)).map_err(given_back)
    }

    fn cancel(&mut self, token: Token, socket: SocketId) {
        self.0.borrow_mut().cancel(token, socket);
    }

    fn close(&mut self, socket: SocketId) {
        self.0.borrow_mut().close(socket);
    }

    fn flush(&mut self, wait: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.0.borrow_mut().flush(wait, completions);
        Ok(())
    }

    fn connect_info(&self, socket: SocketId) -> io::Result<ConnectInfo> {
        let world = &mut *self.0.borrow_mut();
        let info = world.net.connect_info(socket, world.now, world.reads.end);
        info.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTCONN))
    }

    fn cookie(&self, socket: SocketId) -> io::Result<u64> {
        Ok(self.0.borrow().net.cookie(socket))
    }

    fn ports_used_up(&self, _peer: &SocketAddr) -> bool {
        true
    }

    fn pending(&self) -> usize {
        self.0.borrow().net.pending_len()
    }

    fn release_reserve(&mut self) {
        self.0.borrow_mut().net.release_reserve();
    }

    fn restore_reserve(&mut self) {
        self.0.borrow_mut().net.restore_reserve();
    }
}

fn given_back(work: Work) -> (Full, Box<[u8]>) {
    let buffer = match work {
        Work::Connect => Box::default(),
        Work::Send { buffer, .. } | Work::Recv(buffer) => buffer,
    };
    (Full, buffer)
}
