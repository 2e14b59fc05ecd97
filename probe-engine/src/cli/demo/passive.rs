//! The demo's passive part: a tcpSocket probe is answered many times without a connection, then its listener dies.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use probe_core::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::milestones::Seen;
use crate::api::v1;
use crate::cli::client::Client;
use crate::clock;

/// The pod of `examples/8-passive.yaml`.
pub(super) const POD: &str = "passive";

/// So many answers without a connection are waited for.
const ANSWERS: u64 = 30;

/// Its probe's period is a second: what is seen sooner than this after the close was not waited for by chance.
const SOON: Duration = Duration::from_millis(250);

/// How long the server may take to answer `/control`.
const CONTROL_MAX: Duration = Duration::from_secs(5);

/// TIME_WAIT in /proc/net/tcp.
const TIME_WAIT: &str = "06";

/// How far it has come.
#[derive(Debug)]
enum Stage {
    /// No passive answer yet.
    First,
    /// TIME_WAIT sockets of its port, and connections made, at the first one.
    Counting { time_wait: usize, real: u64 },
    /// The listener was told to close.
    Closed { at: Instant },
    /// All of it was shown, or there is nothing to show.
    Over,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Passive {
    stage: Stage,
    /// Where the probe connects to.
    port: u16,
    /// Where the server is told to close.
    control: u16,
}

impl Passive {
    /// `loaded`: the daemon has its kernel program.
    pub(super) fn new((port, control): (u16, u16), loaded: bool) -> Self {
        Self { stage: if loaded { Stage::First } else { Stage::Over }, port, control }
    }

    /// Looks at the probe, and goes on. What there is to say, and the milestone that was reached.
    pub(super) async fn look(&mut self, client: &mut Client) -> anyhow::Result<Option<(String, Seen)>> {
        if matches!(self.stage, Stage::Over | Stage::Closed { .. }) {
            return Ok(None);
        }
        let Some(probe) = readiness(client).await? else { return Ok(None) };
        match self.stage {
            Stage::First if probe.passive_count > 0 => {
                let time_wait = time_wait(self.port)?;
                self.stage = Stage::Counting { time_wait, real: probe.real_count };
                let said = format!(
                    "Answered from kernel state from now on; connections so far: {}, TIME_WAIT sockets of its port: {time_wait}",
                    probe.real_count
                );
                Ok(Some((said, Seen::Other)))
            }
            Stage::Counting { time_wait: before, real } if probe.passive_count >= ANSWERS => {
                let (passive, made) = (probe.passive_count, probe.real_count.saturating_sub(real));
                let after = time_wait(self.port)?;
                self.stage = Stage::Closed { at: clock::now() };
                close_listener(self.control).await?;
                let said = format!(
                    "{passive} answers without a connection ({made} with one); TIME_WAIT sockets of its port: {before} before, \
                     {after} after. Now its listener is closed"
                );
                Ok(Some((said, Seen::Answered)))
            }
            _ => Ok(None),
        }
    }

    /// An attempt of its probe failed.
    pub(super) fn failed(&mut self, now: Instant) -> Option<(String, Seen)> {
        let Stage::Closed { at } = self.stage else { return None };
        self.stage = Stage::Over;
        let after = now - at;
        let said = format!("Seen {:.1} ms after the listener was told to close", after.as_secs_f64() * 1e3);
        Some((said, if after < SOON { Seen::Detected } else { Seen::Other }))
    }
}

async fn readiness(client: &mut Client) -> anyhow::Result<Option<v1::Probe>> {
    let request = v1::GetPodRequest { namespace: String::new(), name: POD.to_owned() };
    let pod = match client.get_pod(request).await {
        Ok(answer) => answer.into_inner().pod.unwrap_or_default(),
        // Its manifest has not been read yet.
        Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
        Err(status) => return Err(status.into()),
    };
    let mut probes = pod.containers.into_iter().flat_map(|container| container.probes);
    Ok(probes.find(|probe| probe.r#type() == v1::ProbeType::Readiness))
}

/// The server closes its listener before it answers.
async fn close_listener(control: u16) -> anyhow::Result<()> {
    let ask = async {
        let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, control))).await?;
        stream
            .write_all(
                b"POST /control?healthy=false HTTP/1.1\r\nHost: demo\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            )
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(CONTROL_MAX, ask).await.context("the server's /control gives no answer")??;
    if !answer.starts_with("HTTP/1.1 200") {
        bail!("the server's /control said {:?}", answer.lines().next().unwrap_or_default());
    }
    Ok(())
}

/// Sockets in TIME_WAIT with this port at either end.
fn time_wait(port: u16) -> anyhow::Result<usize> {
    let table = std::fs::read_to_string("/proc/net/tcp").context("/proc/net/tcp")?;
    Ok(count_time_wait(&table, port))
}

fn count_time_wait(table: &str, port: u16) -> usize {
    let port = format!(":{port:04X}");
    let is_counted = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next(), fields.next(), fields.next());
        state == Some(TIME_WAIT) && [local, remote].into_iter().flatten().any(|end| end.ends_with(&port))
    };
    table.lines().skip(1).filter(is_counted).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_wait_sockets_are_counted_at_either_end() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue
   0: 0100007F:A1B2 0100007F:0050 06 00000000:00000000
   1: 0100007F:0050 0100007F:A1B3 06 00000000:00000000
   2: 0100007F:0050 00000000:0000 0A 00000000:00000000
   3: 0100007F:A1B4 0100007F:0051 06 00000000:00000000
";
        assert_eq!(count_time_wait(table, 0x50), 2);
        assert_eq!(count_time_wait(table, 0x52), 0);
    }

    #[test]
    fn a_failure_counts_as_detection_only_after_the_close_and_soon() {
        let mut part = Passive::new((1, 2), true);
        let at = Instant::from_secs(100);
        assert_eq!(part.failed(at), None, "nothing was closed");
        part.stage = Stage::Closed { at };
        let (said, seen) = part.failed(at + Duration::from_micros(3_200)).expect("told");
        assert_eq!((said.as_str(), seen), ("Seen 3.2 ms after the listener was told to close", Seen::Detected));
        assert_eq!(part.failed(at), None, "told once");
        part.stage = Stage::Closed { at };
        let (_, seen) = part.failed(at + Duration::from_millis(900)).expect("told");
        assert_eq!(seen, Seen::Other, "that was the next due time");
    }
}
