//! The targets of a scenario, in a process of their own so that their CPU is not the daemon's.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use socket2::{Domain, Socket, Type};

/// The child's side: `open PORT`, `dropping PORT` on standard output, then `accepts N` for every line read.
pub fn serve() -> anyhow::Result<()> {
    let open = listener(4_096)?;
    let dropping = listener(0)?;
    let dropping_port = port_of(&dropping)?;
    // A backlog of 0 holds one connection; once it is there, further SYNs are dropped.
    let _held = fill(dropping_port)?;
    println!("open {}\ndropping {dropping_port}", port_of(&open)?);
    let accepts = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&accepts);
    std::thread::spawn(move || {
        loop {
            if open.accept().is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for line in std::io::stdin().lock().lines() {
        line?;
        println!("accepts {}", accepts.load(Ordering::Relaxed));
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn listener(backlog: i32) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    socket.listen(backlog)?;
    Ok(socket)
}

fn port_of(socket: &Socket) -> anyhow::Result<u16> {
    socket.local_addr()?.as_socket().map(|address| address.port()).context("not an IP socket")
}

fn fill(port: u16) -> anyhow::Result<Vec<TcpStream>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut held = Vec::new();
    for _ in 0..8 {
        match TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300)) {
            Ok(stream) => held.push(stream),
            Err(_) => return Ok(held),
        }
    }
    bail!("the accept queue of 127.0.0.1:{port} does not fill")
}

/// The parent's side.
pub struct Targets {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// Accepts and closes on every address of 127.0.0.0/8.
    pub open_port: u16,
    /// Drops SYNs.
    pub dropping_port: u16,
}

impl Targets {
    /// Starts the child, which is this binary.
    pub fn start() -> anyhow::Result<Targets> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program)
            .arg("targets")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the targets")?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("the targets have no output")?);
        let mut targets = Targets { child, stdin, stdout, open_port: 0, dropping_port: 0 };
        targets.open_port = targets.number("open")?.try_into()?;
        targets.dropping_port = targets.number("dropping")?.try_into()?;
        Ok(targets)
    }

    /// The child's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connections accepted so far.
    pub fn accepts(&mut self) -> anyhow::Result<u64> {
        self.stdin.as_mut().context("the targets have ended")?.write_all(b"\n")?;
        self.number("accepts")
    }

    fn number(&mut self, word: &str) -> anyhow::Result<u64> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let number = line.trim().strip_prefix(word).with_context(|| format!("want `{word} N`, got {line:?}"))?;
        Ok(number.trim().parse()?)
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
