//! Whom a floor, a baseline or a peer asks: the `--targets` file.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::handler::Handler;

/// The User-Agent of the kubelet that the engine follows.
pub const USER_AGENT: &str = "kube-probe/1.34";

/// The options that name them.
#[derive(clap::Args)]
pub struct Aims {
    /// How they are asked
    #[arg(long)]
    pub handler: Handler,
    /// One a line: an address with a path, or a command
    #[arg(long)]
    targets: PathBuf,
}

impl Aims {
    /// Reads the file.
    pub fn read(&self) -> anyhow::Result<Vec<Aim>> {
        read(&self.targets, self.handler)
    }
}

/// One line of the file.
#[derive(Clone, Debug)]
pub enum Aim {
    /// tcp, http, https, grpc: where to connect to, and the path (`/` where there is none).
    Net(SocketAddr, Box<str>),
    /// exec: program and arguments.
    Command(Box<[Box<str>]>),
}

impl Aim {
    /// Where to connect to.
    pub fn net(&self) -> anyhow::Result<(SocketAddr, &str)> {
        match self {
            Aim::Net(peer, path) => Ok((*peer, path)),
            Aim::Command(command) => bail!("{command:?} is a command, not an address"),
        }
    }

    /// What to run.
    pub fn command(&self) -> anyhow::Result<&[Box<str>]> {
        match self {
            Aim::Command(command) => Ok(command),
            Aim::Net(peer, _) => bail!("{peer} is an address, not a command"),
        }
    }
}

/// The kubelet's request of this URL, as a client writes it.
#[must_use]
pub fn http_request(peer: SocketAddr, path: &str) -> Box<[u8]> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {peer}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    request.into_bytes().into()
}

fn read(path: &Path, handler: Handler) -> anyhow::Result<Vec<Aim>> {
    let text = fs::read_to_string(path).with_context(|| format!("--targets {}", path.display()))?;
    let mut aims = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let aim = parse(line.trim(), handler);
        aims.push(aim.with_context(|| format!("--targets {}, line {}", path.display(), index + 1))?);
    }
    if aims.is_empty() {
        bail!("--targets {}: no target; one a line is needed", path.display());
    }
    Ok(aims)
}

fn parse(line: &str, handler: Handler) -> anyhow::Result<Aim> {
    if handler == Handler::Exec {
        return Ok(Aim::Command(line.split_whitespace().map(Into::into).collect()));
    }
    let (address, path) = line.find('/').map_or((line, "/"), |at| line.split_at(at));
    let peer = address.parse().with_context(|| format!("{address:?}: want IP:PORT"))?;
    Ok(Aim::Net(peer, path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_address_with_a_path_or_a_command() {
        let (peer, path) = (SocketAddr::from(([127, 0, 0, 1], 80)), "/healthz?x=/");
        let aim = parse("127.0.0.1:80/healthz?x=/", Handler::Http).expect("a target");
        assert_eq!(aim.net().expect("an address"), (peer, path));
        assert_eq!(parse("127.0.0.1:80", Handler::Tcp).expect("a target").net().expect("an address"), (peer, "/"));
        let command = parse("cat  /tmp/healthy", Handler::Exec).expect("a target");
        assert_eq!(*command.command().expect("a command"), ["cat".into(), "/tmp/healthy".into()]);
        assert!(parse("localhost:80", Handler::Tcp).is_err());
    }
}
