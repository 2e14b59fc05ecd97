//! Where metrics and dashboard are served: on one address, on two, or not.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::Router;
use tokio::net::TcpListener;
use tracing::warn;

use super::Dashboard;
use crate::api::admin::{self, Admin, AdminError};
use crate::config::DashboardListen;

/// The dashboard's port where it has none of its own.
const PORT: u16 = 9750;
/// The same where the metrics have that one. The port between is the control API's by custom.
const OTHER_PORT: u16 = 9752;

/// Bound addresses, before anything is served there.
#[derive(Debug, Default)]
pub struct Listeners {
    metrics: Option<TcpListener>,
    dashboard: Place,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Nowhere,
    WithMetrics,
    Own(TcpListener),
}

impl Listeners {
    /// Takes the addresses (port 0 = any free one). The dashboard's, where nobody asked for it, may be another program's: then
    /// there is none, and the log says so.
    pub async fn bind(metrics: Option<SocketAddr>, dashboard: DashboardListen) -> Result<Self, AdminError> {
        let listener = match metrics {
            Some(address) => Some(admin::bind("--metrics-listen", address).await?),
            None => None,
        };
        let is_metrics = |address: SocketAddr| address.port() != 0 && metrics == Some(address);
        let dashboard = match (dashboard, metrics) {
            (DashboardListen::Off, _) | (DashboardListen::Auto, None) => Place::Nowhere,
            (DashboardListen::Auto, Some(metrics)) if metrics.ip().is_loopback() => Place::WithMetrics,
            (DashboardListen::At(address), _) if is_metrics(address) => Place::WithMetrics,
            (DashboardListen::At(address), _) => Place::Own(admin::bind("--dashboard-listen", address).await?),
            (DashboardListen::Auto, Some(metrics)) => {
                let port = if metrics.port() == PORT { OTHER_PORT } else { PORT };
                let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
                match admin::bind("--dashboard-listen", address).await {
                    Ok(listener) => Place::Own(listener),
                    Err(error) => {
                        warn!(%error, "no dashboard");
                        Place::Nowhere
                    }
                }
            }
        };
        Ok(Self { metrics: listener, dashboard })
    }

    /// Where the metrics are.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(address_of)
    }

    /// Where the dashboard is.
    #[must_use]
    pub fn dashboard_address(&self) -> Option<SocketAddr> {
        match &self.dashboard {
            Place::Nowhere => None,
            Place::WithMetrics => self.metrics_address(),
            Place::Own(listener) => address_of(listener),
        }
    }

    /// Each listener with what is served there.
    #[must_use]
    pub fn served(self, admin: &Admin, dashboard: Dashboard) -> Vec<(TcpListener, Router)> {
        match (self.metrics, self.dashboard) {
            (Some(listener), Place::WithMetrics) => {
                vec![(listener, dashboard.routes_with(admin.routes().merge(admin.latency_routes())))]
            }
            (listener, place) => {
                // Whoever reaches it can read, and sets nothing in motion.
                let metrics = |listener| (listener, admin.routes().merge(admin.node_latency_routes()));
                let mut served: Vec<_> = listener.map(metrics).into_iter().collect();
                if let Place::Own(listener) = place {
                    served.push((listener, dashboard.routes_with(admin.latency_routes())));
                }
                served
            }
        }
    }
}

fn address_of(listener: &TcpListener) -> Option<SocketAddr> {
    let address: io::Result<SocketAddr> = listener.local_addr();
    address.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    async fn bound(
        metrics: Option<SocketAddr>,
        dashboard: DashboardListen,
    ) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let listeners = Listeners::bind(metrics, dashboard).await.expect("free ports");
        (listeners.metrics_address(), listeners.dashboard_address())
    }

    #[tokio::test]
    async fn the_dashboard_is_with_the_metrics_where_these_are_on_loopback() {
        let (metrics, dashboard) = bound(Some(local(0)), DashboardListen::Auto).await;
        assert!(metrics.is_some() && metrics == dashboard);
    }

    #[tokio::test]
    async fn the_dashboard_can_be_off_alone_or_beside_metrics_of_another_address() {
        assert_eq!(bound(Some(local(0)), DashboardListen::Off).await.1, None);
        assert_eq!(bound(None, DashboardListen::Auto).await, (None, None));
        let (metrics, dashboard) = bound(None, DashboardListen::At(local(0))).await;
        assert!(metrics.is_none() && dashboard.is_some());
        let (metrics, dashboard) = bound(Some(local(0)), DashboardListen::At(local(0))).await;
        assert!(metrics.is_some() && dashboard.is_some() && metrics != dashboard);
    }

    #[tokio::test]
    async fn the_same_address_twice_is_one_listener() {
        let free =
            std::net::TcpListener::bind(local(0)).and_then(|listener| listener.local_addr()).expect("a free port");
        assert_eq!(bound(Some(free), DashboardListen::At(free)).await, (Some(free), Some(free)));
    }

    #[tokio::test]
    async fn an_address_that_was_asked_for_and_is_taken_is_an_error_that_names_the_flag() {
        let taken = std::net::TcpListener::bind(local(0)).expect("a free port");
        let at = DashboardListen::At(taken.local_addr().expect("it is bound"));
        let error = Listeners::bind(None, at).await.expect_err("it is taken").to_string();
        assert!(error.contains("--dashboard-listen") && error.contains("another program listens there"), "{error}");
    }
}
