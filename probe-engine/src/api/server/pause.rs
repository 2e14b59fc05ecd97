//! PauseProbes.

use std::sync::Arc;
use std::time::Duration;

use probe_core::id::{ContainerName, ProbeTypes};
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Status};

use super::{Filter, Service, control_error};
use crate::api::{convert, v1};
use crate::results::Paused;
use crate::source::Pause;
use crate::source::control::Choice;
use crate::{clock, limits};

/// How long the last pod may take to show the pause: the manager and results have it to take in all of them.
const SHOWN_WAIT: Duration = Duration::from_secs(30);

/// See the proto.
pub(super) async fn pause(
    service: &Service,
    request: Request<v1::PauseProbesRequest>,
) -> Result<v1::PauseProbesResponse, Status> {
    let by = caller(&request);
    let request = request.into_inner();
    let types = probe_types(&request.types)?;
    let paused = paused(request.until.as_ref())?;
    let filter = Filter::read(request.filter)?;
    let named = (!filter.name.is_empty()).then(|| (filter.namespace.clone(), filter.name.clone()));
    let choice = Choice { selects: Arc::new(move |pod| filter.selects(pod)), named };
    let container = (!request.container.is_empty()).then(|| ContainerName::new(request.container));
    let pause = Pause { container, types, paused, by, is_each_told: true };
    let chosen = service.backend.control.pause(&choice, pause, SHOWN_WAIT).await;
    let chosen = chosen.map_err(|error| control_error(&error))?;
    Ok(v1::PauseProbesResponse { probes_count: chosen.probes_len, pods_count: chosen.pods_len })
}

fn probe_types(wanted: &[i32]) -> Result<ProbeTypes, Status> {
    if wanted.is_empty() {
        return Ok(ProbeTypes::ALL);
    }
    let types = wanted.iter().enumerate().map(|(index, value)| {
        let known = v1::ProbeType::try_from(*value).ok().and_then(convert::probe_type_from);
        known.ok_or_else(|| {
            Status::invalid_argument(format!(
                "types[{index}]: {value} is no type of probe: 1 startup, 2 readiness, 3 liveness"
            ))
        })
    });
    types.collect()
}

/// `None` where the pause is to end.
fn paused(until: Option<&prost_types::Timestamp>) -> Result<Option<Paused>, Status> {
    let Some(said) = until else { return Ok(None) };
    let until = convert::timestamp_from(until).ok_or_else(|| {
        Status::invalid_argument(format!("until: {} s and {} ns since 1970 are no time", said.seconds, said.nanos))
    })?;
    let now = clock::wall();
    // What is not ahead is no positive duration.
    let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
    if left > limits::PAUSE_MAX {
        let hours = limits::PAUSE_MAX.as_secs() / 3_600;
        return Err(Status::invalid_argument(format!("until: {until} is more than {hours} hours from now, {now}")));
    }
    let paused = Paused { since: now.into(), until: until.into(), until_at: clock::now() + left };
    Ok((!left.is_zero()).then_some(paused))
}

/// Who asks, for events and the log: the user at the other end of the socket, or an address.
fn caller<T>(request: &Request<T>) -> Arc<str> {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|peer| peer.peer_cred);
    match (peer, request.remote_addr()) {
        (Some(peer), _) => format!("uid {}", peer.uid()).into(),
        (None, Some(address)) => address.ip().to_string().into(),
        (None, None) => "the API".into(),
    }
}
