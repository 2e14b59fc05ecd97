//! Other people's TCP traffic, from a process of its own: the kernel program knows the engine's process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Between two bursts.
const TICK: Duration = Duration::from_millis(5);

/// How much of what.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Traffic {
    /// Connections, each opened, accepted and closed
    #[arg(long, default_value_t = 0)]
    pub connections: usize,
    /// Listeners, each opened and closed
    #[arg(long, default_value_t = 0)]
    pub listeners: usize,
    /// Of either, per second
    #[arg(long, default_value_t = 10_000)]
    pub per_second: usize,
}

impl Traffic {
    /// Runs it in a child, to its end.
    pub fn in_child(&self) -> anyhow::Result<()> {
        let mut child = Command::new(std::env::current_exe().context("own path")?);
        child.args(["strangers", "--connections", &self.connections.to_string()]);
        child.args(["--listeners", &self.listeners.to_string(), "--per-second", &self.per_second.to_string()]);
        let status = child.status().context("cannot start the strangers")?;
        if !status.success() {
            bail!("the strangers failed: {status}");
        }
        Ok(())
    }
}

/// The child's side.
pub fn run(traffic: &Traffic) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    paced(traffic.connections, traffic.per_second, |index| {
        let client = TcpStream::connect(SocketAddr::from((address(index), port)))?;
        let (server, _) = listener.accept()?;
        drop(client);
        drop(server);
        Ok(())
    })?;
    paced(traffic.listeners, traffic.per_second, |_| {
        drop(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
        Ok(())
    })
}

/// An address of loopback's: so many that no pair of addresses runs out of ports while its old ones are in TIME_WAIT.
fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (index / 250 % 250) as u8, (1 + index % 250) as u8)
}

fn paced(count: usize, per_second: usize, mut each: impl FnMut(usize) -> anyhow::Result<()>) -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "not engine code: the traffic's own clock")]
    let start = Instant::now();
    let mut done = 0;
    while done < count {
        let due = (start.elapsed().as_secs_f64() * per_second as f64) as usize;
        while done < due.min(count) {
            each(done)?;
            done += 1;
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}
