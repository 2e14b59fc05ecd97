//! The oracle: one plain connect(2) by the test. It shares no code with the engine.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

/// What became of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was taken.
    Connected,
    /// Refused, unreachable: the errno.
    Refused(i32),
    /// Nothing came within the time given.
    Silent,
}

/// A connect whose answer may be still to come. Ended with an RST, so that no TIME_WAIT is left of it.
#[derive(Debug)]
pub struct Call {
    socket: Socket,
    answer: Option<Answer>,
}

impl Call {
    /// connect(2) from the calling thread's namespace.
    pub fn new(to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
        socket.set_linger(Some(Duration::ZERO))?;
        let answer = match socket.connect(&to.into()) {
            Ok(()) => Some(Answer::Connected),
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => None,
            Err(error) => Some(Answer::Refused(error.raw_os_error().unwrap_or_default())),
        };
        let mut call = Self { socket, answer };
        call.wait(Duration::ZERO)?;
        Ok(call)
    }

    /// The answer, waited for so long.
    pub fn wait(&mut self, patience: Duration) -> io::Result<Answer> {
        if let Some(answer) = self.answer {
            return Ok(answer);
        }
        let millis = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut polled, millis)? == 0 {
            return Ok(Answer::Silent);
        }
        let answer = match self.socket.take_error()? {
            None => Answer::Connected,
            Some(error) => Answer::Refused(error.raw_os_error().unwrap_or_default()),
        };
        self.answer = Some(answer);
        Ok(answer)
    }
}
