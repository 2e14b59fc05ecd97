//! Many listeners in one process, if wanted in a network namespace of its own: the targets of the scenario `passive`.
//!
//! The child prints `here` once it is in its namespace, waits for a line, opens its listeners and prints `ready`; then it
//! answers `close N` and `open N` with the time at which the system call had returned.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

/// What the listeners do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Manner {
    /// Accept, and close at once.
    Accept,
    /// Never accept: the queue (listen(5)) fills with the probes' own connections.
    NeverAccept,
    /// The queue is full from the start: connection requests are dropped.
    Full,
}

/// What to serve.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Address of all listeners
    #[arg(long)]
    pub address: IpAddr,
    /// Port of the first; the others follow
    #[arg(long)]
    pub first_port: u16,
    /// How many
    #[arg(long)]
    pub count: u16,
    /// What they do
    #[arg(long, value_enum, default_value = "accept")]
    pub manner: Manner,
    /// In a network namespace of its own
    #[arg(long)]
    pub unshare: bool,
}

/// Epoll data of standard input.
const STDIN: u64 = u64::MAX;

/// The child's side.
pub fn serve(args: &Args) -> anyhow::Result<()> {
    if args.unshare {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET)")?;
    }
    println!("here");
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    let mut server =
        Server { args, epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, listeners: Vec::new(), held: Vec::new() };
    for place in 0..args.count {
        server.listeners.push(None);
        server.open(place)?;
    }
    server.epoll.add(std::io::stdin().as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, STDIN))?;
    println!("ready");
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let ready = match server.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            ready => ready?,
        };
        for event in &events[..ready] {
            if event.data() != STDIN {
                server.accept(event.data());
                continue;
            }
            line.clear();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let at = server.obey(line.trim())?;
            println!("done {at}");
        }
    }
}

struct Server<'a> {
    args: &'a Args,
    epoll: Epoll,
    listeners: Vec<Option<Socket>>,
    /// Connections that fill queues.
    held: Vec<TcpStream>,
}

impl Server<'_> {
    fn open(&mut self, place: u16) -> anyhow::Result<()> {
        let address = SocketAddr::new(self.args.address, self.args.first_port + place);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into()).with_context(|| format!("bind {address}"))?;
        match self.args.manner {
            Manner::Accept => {
                socket.listen(128)?;
                self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(place)))?;
            }
            Manner::NeverAccept => socket.listen(5)?,
            Manner::Full => {
                socket.listen(0)?;
                self.held.push(TcpStream::connect_timeout(&address, Duration::from_secs(1))?);
            }
        }
        self.listeners[usize::from(place)] = Some(socket);
        Ok(())
    }

    fn accept(&self, place: u64) {
        let Some(Some(listener)) = self.listeners.get(place as usize) else { return };
        while listener.accept().is_ok() {}
    }

    fn obey(&mut self, order: &str) -> anyhow::Result<u128> {
        let (word, place) = order.split_once(' ').with_context(|| format!("order {order:?}"))?;
        let place: u16 = place.parse()?;
        match word {
            "close" => self.listeners[usize::from(place)] = None,
            "open" => self.open(place)?,
            _ => bail!("order {order:?}"),
        }
        Ok(wall_ns())
    }
}

/// CLOCK_REALTIME in nanoseconds.
#[must_use]
pub fn wall_ns() -> u128 {
    #[expect(clippy::disallowed_methods, reason = "not engine code: the scenario's own clock")]
    let now = SystemTime::now();
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// The parent's side.
pub struct Listeners {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Port of the first.
    pub first_port: u16,
    /// How many.
    pub count: u16,
}

impl Listeners {
    /// Starts the child, which is this binary, in the namespace of `beside` (or its own, or ours).
    pub fn start(args: &Args, beside: Option<u32>) -> anyhow::Result<Listeners> {
        let program = std::env::current_exe()?;
        let mut command = match beside {
            Some(pid) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/proc/{pid}/ns/net")).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("listeners").args(["--address", &args.address.to_string()]);
        command.args(["--first-port", &args.first_port.to_string(), "--count", &args.count.to_string()]);
        command.args(["--manner", clap::ValueEnum::to_possible_value(&args.manner).context("no name")?.get_name()]);
        if args.unshare {
            command.arg("--unshare");
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start the listeners")?;
        let stdin = child.stdin.take().context("no input")?;
        let stdout = BufReader::new(child.stdout.take().context("no output")?);
        let mut listeners = Listeners { child, stdin, stdout, first_port: args.first_port, count: args.count };
        listeners.expect("here")?;
        Ok(listeners)
    }

    /// Opens them, once the namespace has its addresses.
    pub fn open_all(&mut self) -> anyhow::Result<()> {
        self.stdin.write_all(b"start\n")?;
        self.expect("ready").map(drop)
    }

    /// The child's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Closes or opens one; the wall clock, in nanoseconds, when the call had returned.
    pub fn order(&mut self, word: &str, place: u16) -> anyhow::Result<u128> {
        writeln!(self.stdin, "{word} {place}")?;
        Ok(self.expect("done")?.trim().parse()?)
    }

    fn expect(&mut self, word: &str) -> anyhow::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let rest = line.trim().strip_prefix(word).with_context(|| format!("want `{word}`, got {line:?}"))?;
        Ok(rest.to_owned())
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
