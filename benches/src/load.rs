//! The pods of a scenario: ordinary manifests, with names, UIDs and labels as a Deployment makes them.
//!
//! A pod has two containers with a liveness and a readiness probe each, all of its own address and, as far as ports go,
//! of a port of its own: targets of one network namespace and port share a change counter in the engine, which pods of
//! a real node, in namespaces of their own, do not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use probe_core::schedule::mix;
use serde_json::{Value, json};

use crate::handler::Handler;

/// Containers of a pod.
pub const CONTAINERS: usize = 2;

/// Probes of a pod: liveness and readiness of each container.
pub const PROBES_PER_POD: usize = 2 * CONTAINERS;

/// `timeoutSeconds` of every probe.
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// Namespace of all pods.
const NAMESPACE: &str = "load";

/// Ports of listeners; above are those of connections (`ip_local_port_range` of the scenario's network namespace).
const FIRST_PORT: u16 = 1_500;
const PORTS: usize = 30_000;

/// Of the wildcard listeners. Several: what the kernel says of one listener, all that ask it depend on.
const FIRST_SHARED_PORT: u16 = 400;
const SHARED_PORTS: usize = 1_000;

/// Bytes of a manifest file, below the daemon's bound of 64 MiB.
const FILE_BYTES_MAX: usize = 48 * 1024 * 1024;

/// What Kubernetes makes names of: no vowels, nothing that looks like something else.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Characters of a pod's suffix.
const SUFFIX_LEN: usize = 5;

/// Of the Deployments that the pods are of.
const APPS: [(&str, &str); 8] = [
    ("checkout", "frontend"),
    ("payment-gateway", "backend"),
    ("inventory-service", "backend"),
    ("recommendation-engine", "worker"),
    ("customer-profile-api", "backend"),
    ("search-indexer", "worker"),
    ("notification-dispatcher", "worker"),
    ("order-history", "frontend"),
];

/// Pods of one ReplicaSet.
const REPLICAS: usize = 40;

/// Where a pod's probes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To a listener of its own.
    Own(SocketAddr),
    /// To a wildcard listener, at an address of its own.
    Shared(SocketAddr),
    /// exec: the file that the command looks for.
    File(PathBuf),
}

impl Place {
    /// What the target process binds; of an exec probe: nothing.
    #[must_use]
    pub fn listener(&self) -> SocketAddr {
        match self {
            Place::Own(address) => *address,
            Place::Shared(address) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())),
            Place::File(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        }
    }
}

/// One pod.
#[derive(Clone, Debug)]
pub struct Target {
    /// Of all its probes.
    pub handler: Handler,
    /// Of all its probes.
    pub place: Place,
}

/// How many pods of which kind.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Percent of the probes by handler; together 100.
    pub percent: &'static [(Handler, u32)],
    /// All but one of so many pods share wildcard listeners; `None` = all have listeners of their own.
    pub own_one_of: Option<usize>,
}

/// All pods.
pub struct Load {
    /// By index, which is in the pod's name.
    pub pods: Vec<Target>,
    period_s: u64,
}

impl Load {
    /// Pods for so many probes (rounded up to whole pods); exec probes look for files in `folder`.
    #[must_use]
    pub fn plan(mix: Mix, probes: usize, period_s: u64, folder: &Path) -> Load {
        let pods = (0..probes.div_ceil(PROBES_PER_POD)).map(|index| target(mix, index, folder)).collect();
        Load { pods, period_s }
    }

    /// Probes of all pods.
    #[must_use]
    pub fn probes(&self) -> usize {
        self.pods.len() * PROBES_PER_POD
    }

    /// Probes by handler.
    #[must_use]
    pub fn probes_by_handler(&self) -> BTreeMap<Handler, usize> {
        let mut probes = BTreeMap::new();
        for target in &self.pods {
            *probes.entry(target.handler).or_default() += PROBES_PER_POD;
        }
        probes
    }

    /// Writes the manifests of these pods into `folder`, as many files as the size of one allows; their names begin with
    /// `stem`. Bytes written.
    pub fn write(&self, folder: &Path, stem: &str, pods: impl Iterator<Item = usize>) -> anyhow::Result<u64> {
        let mut pods = pods.peekable();
        let mut bytes = 0;
        for file in 0.. {
            if pods.peek().is_none() {
                break;
            }
            // Renamed when it is complete, so that a watched directory never shows half a file.
            let path = folder.join(format!("{stem}-{file:03}.json"));
            let part = path.with_extension("part");
            let mut out = BufWriter::new(File::create(&part)?);
            let mut written = 0;
            while written < FILE_BYTES_MAX
                && let Some(pod) = pods.next()
            {
                let text = self.manifest(pod).to_string();
                out.write_all(if written == 0 { b"" } else { b"---\n" })?;
                writeln!(out, "{text}")?;
                written += text.len();
            }
            out.flush()?;
            std::fs::rename(&part, &path)?;
            bytes += written as u64;
        }
        Ok(bytes)
    }

    /// One pod, as an API server would show it to a kubelet.
    #[must_use]
    pub fn manifest(&self, pod: usize) -> Value {
        let (app, component) = APPS[pod / REPLICAS % APPS.len()];
        let hash = template_hash(pod / REPLICAS);
        let ip = match self.pods[pod].place {
            Place::Own(address) | Place::Shared(address) => address.ip(),
            Place::File(_) => IpAddr::from(address_of(pod)),
        };
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod_name(pod), "namespace": NAMESPACE, "uid": uid(pod),
                "labels": {
                    "app.kubernetes.io/name": app,
                    "app.kubernetes.io/instance": format!("{app}-production"),
                    "app.kubernetes.io/version": "2.14.7",
                    "app.kubernetes.io/component": component,
                    "app.kubernetes.io/part-of": "storefront",
                    "app.kubernetes.io/managed-by": "Helm",
                    "pod-template-hash": hash,
                },
            },
            "spec": {"containers": [self.container(pod, app), self.container(pod, "envoy-sidecar")]},
            "status": {"podIP": ip},
        })
    }

    fn container(&self, pod: usize, name: &str) -> Value {
        json!({
            "name": name,
            "image": format!("registry.example.com/storefront/{name}:2.14.7"),
            "livenessProbe": self.probe(pod, name, "livez"),
            "readinessProbe": self.probe(pod, name, "readyz"),
        })
    }

    fn probe(&self, pod: usize, container: &str, kind: &str) -> Value {
        let target = &self.pods[pod];
        let port = target.place.listener().port();
        let http = |scheme: &str| {
            json!({
                "path": format!("/{kind}/{container}/{}", pod_name(pod)), "port": port, "scheme": scheme,
                "httpHeaders": [{"name": "X-Probe-Kind", "value": kind}, {"name": "X-Forwarded-Proto", "value": "https"}],
            })
        };
        let (handler, value) = match (target.handler, &target.place) {
            (Handler::Tcp, _) => ("tcpSocket", json!({"port": port})),
            (Handler::Http, _) => ("httpGet", http("HTTP")),
            (Handler::Https, _) => ("httpGet", http("HTTPS")),
            (Handler::Grpc, _) => ("grpc", json!({"port": port})),
            (Handler::Exec, place) => ("exec", json!({"command": command(place)})),
        };
        json!({
            handler: value, "periodSeconds": self.period_s, "timeoutSeconds": TIMEOUT.as_secs(), "failureThreshold": 1,
        })
    }

    /// The targets of one handler, a line each, as floors and baselines take them; one per probe.
    #[must_use]
    pub fn lines(&self, handler: Handler) -> String {
        let mut lines = String::new();
        for (pod, target) in self.pods.iter().enumerate().filter(|(_, target)| target.handler == handler) {
            let line = match &target.place {
                Place::Own(address) | Place::Shared(address) => match handler {
                    Handler::Http | Handler::Https => format!("{address}/readyz/app/{}\n", pod_name(pod)),
                    _ => format!("{address}\n"),
                },
                place @ Place::File(_) => command(place).join(" ") + "\n",
            };
            for _ in 0..PROBES_PER_POD {
                lines.push_str(&line);
            }
        }
        lines
    }
}

/// What an exec probe runs: a small program that looks at the target.
fn command(place: &Place) -> Vec<String> {
    let path = match place {
        Place::File(path) => path.display().to_string(),
        Place::Own(_) | Place::Shared(_) => String::new(),
    };
    vec!["/usr/bin/test".to_owned(), "-e".to_owned(), path]
}

fn target(mix: Mix, index: usize, folder: &Path) -> Target {
    // 37 has no factor in common with 100: each hundred pods has every percent once, the kinds spread among each other.
    let percent = (index * 37 % 100) as u32;
    let mut upto = 0;
    let kind = mix.percent.iter().find(|(_, share)| {
        upto += share;
        percent < upto
    });
    let handler = kind.map_or(Handler::Tcp, |(handler, _)| *handler);
    let address = IpAddr::from(address_of(index));
    let place = match (handler, mix.own_one_of) {
        (Handler::Exec, _) => Place::File(folder.join(format!("healthy-{index}"))),
        (_, Some(one_of)) if !index.is_multiple_of(one_of) => {
            Place::Shared(SocketAddr::new(address, FIRST_SHARED_PORT + (index % SHARED_PORTS) as u16))
        }
        (_, Some(one_of)) => Place::Own(SocketAddr::new(address, FIRST_PORT + (index / one_of % PORTS) as u16)),
        (_, None) => Place::Own(SocketAddr::new(address, FIRST_PORT + (index % PORTS) as u16)),
    };
    Target { handler, place }
}

/// An address of loopback's of its own.
#[must_use]
pub fn address_of(pod: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1 + (pod / 62_500) as u8, (pod / 250 % 250) as u8, 1 + (pod % 250) as u8)
}

/// `metadata.name`: Deployment, ReplicaSet and the pod's own suffix, which is its index.
#[must_use]
pub fn pod_name(pod: usize) -> String {
    let (app, _) = APPS[pod / REPLICAS % APPS.len()];
    let mut suffix = [0; SUFFIX_LEN];
    let mut rest = pod;
    for place in suffix.iter_mut().rev() {
        *place = ALPHABET[rest % ALPHABET.len()];
        rest /= ALPHABET.len();
    }
    format!("{app}-{}-{}", template_hash(pod / REPLICAS), String::from_utf8_lossy(&suffix))
}

/// The index of a pod, from its name or from `namespace/name`.
pub fn pod_index(name: &str) -> anyhow::Result<usize> {
    let (_, suffix) = name.rsplit_once('-').unwrap_or_default();
    let mut index = 0;
    for letter in suffix.bytes() {
        match ALPHABET.iter().position(|known| *known == letter) {
            Some(digit) => index = index * ALPHABET.len() + digit,
            None => bail!("{name:?} is no pod of this load"),
        }
    }
    if suffix.len() != SUFFIX_LEN {
        bail!("{name:?} is no pod of this load");
    }
    Ok(index)
}

fn template_hash(replica_set: usize) -> String {
    let mut bits = mix(replica_set as u64 ^ 0x7e3a);
    let mut letter = || {
        let letter = ALPHABET[(bits % 27) as usize];
        bits /= 27;
        char::from(letter)
    };
    (0..10).map(|_| letter()).collect()
}

/// A version 4 UUID that is the same at every run.
fn uid(pod: usize) -> String {
    let (high, low) = (mix(pod as u64), mix(!(pod as u64)));
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) as u16,
        high & 0xfff,
        0x8000 | (low >> 50) as u16,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TCP: Mix = Mix { percent: &[(Handler::Tcp, 100)], own_one_of: None };

    #[test]
    fn a_pods_name_holds_its_index() {
        for pod in [0, 26, 27, 12_499, 249_999] {
            assert_eq!(pod_index(&format!("load/{}", pod_name(pod))).expect("a name of ours"), pod);
        }
        assert!(pod_index("load/other-pod").is_err());
    }

    #[test]
    fn no_two_pods_share_a_name_a_uid_or_a_target() {
        let load = Load::plan(TCP, 200_000, 10, Path::new("/nonexistent"));
        let mut seen = BTreeSet::new();
        for (pod, target) in load.pods.iter().enumerate() {
            assert!(seen.insert(pod_name(pod)));
            assert!(seen.insert(uid(pod)));
            assert!(seen.insert(target.place.listener().to_string()));
        }
    }

    #[test]
    fn a_mix_has_its_percentages() {
        let percent: &[_] =
            &[(Handler::Tcp, 70), (Handler::Http, 22), (Handler::Https, 4), (Handler::Grpc, 3), (Handler::Exec, 1)];
        let mix = Mix { percent, own_one_of: None };
        let probes = Load::plan(mix, 4_000, 10, Path::new("/nonexistent")).probes_by_handler();
        assert_eq!(
            probes.into_iter().collect::<Vec<_>>(),
            [
                (Handler::Tcp, 2_800),
                (Handler::Http, 880),
                (Handler::Https, 160),
                (Handler::Grpc, 120),
                (Handler::Exec, 40)
            ]
        );
    }
}
