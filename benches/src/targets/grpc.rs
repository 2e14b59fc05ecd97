//! grpc targets: tonic's health service behind many listeners, on one thread.

use std::io::BufRead;
use std::net::SocketAddr;

use anyhow::Context;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::{Done, Order, Orders};

/// Accepted connections that the server has not taken yet. Full: the listeners wait.
const ARRIVALS_LEN_MAX: usize = 1_024;

/// Orders read ahead. Full: the reader waits.
const ORDERS_LEN_MAX: usize = 16;

pub(super) fn serve(addresses: &[SocketAddr]) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(addresses))
}

async fn run(addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let (arrivals, arrived) = mpsc::channel(ARRIVALS_LEN_MAX);
    let (_reporter, service) = tonic_health::server::health_reporter();
    let incoming = ReceiverStream::new(arrived).map(Ok::<TcpStream, std::io::Error>);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        listeners.push(Some(open(*address, &arrivals)?));
    }
    println!("ready");
    let mut lines = lines();
    while let Some(line) = lines.recv().await {
        let orders = Orders::parse(&line)?;
        let done = Done::of(|| {
            for place in orders.places {
                let listener = listeners.get_mut(place).context("no such place")?;
                match orders.order {
                    Order::Open => *listener = Some(open(addresses[place], &arrivals)?),
                    Order::Close | Order::Drop => {
                        if let Some(task) = listener.take() {
                            task.abort();
                        }
                    }
                }
            }
            Ok(())
        })?;
        // An aborted task drops its listener when the runtime gets to it.
        tokio::task::yield_now().await;
        println!("{}", Done { after_ns: crate::listeners::wall_ns(), ..done }.line());
    }
    Ok(())
}

fn open(address: SocketAddr, arrivals: &mpsc::Sender<TcpStream>) -> anyhow::Result<JoinHandle<()>> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into()).with_context(|| format!("bind {address}"))?;
    socket.listen(super::server::BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let arrivals = arrivals.clone();
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // As servers in Go and behind tonic have it: an answer does not wait for the ACK of what went before it.
            let _ = stream.set_nodelay(true);
            let _ = arrivals.send(stream).await;
        }
    }))
}

/// Lines of standard input, read on a thread of their own.
fn lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(ORDERS_LEN_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
