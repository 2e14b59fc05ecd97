//! Names of things: pods, container instances, probes.

use alloc::sync::Arc;
use core::fmt;

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps `text` as it is; the sources have validated it.
            #[must_use]
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }
    };
}

string_id! {
    /// `metadata.uid` of a pod: what tells two pods of one name apart.
    PodUid
}
string_id! {
    /// `<runtime>://<id>`: one instance of a container; changes at each (re)start. Without a runtime the containers of a pod
    /// share one: it tells instances of one container apart, not containers.
    ContainerId
}
string_id! {
    /// `spec.containers[].name`: unique within its pod.
    ContainerName
}

/// The three probes that a container can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeType {
    /// Gates the other two until it has succeeded once per container instance.
    Startup,
    /// Decides whether the container is Ready; never restarts it.
    Readiness,
    /// Restarts the container when it fails.
    Liveness,
}

impl ProbeType {
    /// All types in the order in which the kubelet creates their workers.
    pub const ALL: [ProbeType; 3] = [ProbeType::Startup, ProbeType::Readiness, ProbeType::Liveness];

    /// As written in events and metric labels: `Startup`, `Readiness`, `Liveness`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ProbeType::Startup => "Startup",
            ProbeType::Readiness => "Readiness",
            ProbeType::Liveness => "Liveness",
        }
    }

    /// The field of a container that holds this probe: `startupProbe` ...
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            ProbeType::Startup => "startupProbe",
            ProbeType::Readiness => "readinessProbe",
            ProbeType::Liveness => "livenessProbe",
        }
    }

    /// Position in [`ProbeType::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for ProbeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Some of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeTypes(u8);

impl ProbeTypes {
    /// All of them.
    pub const ALL: ProbeTypes = ProbeTypes(0b111);

    /// This one is among them.
    #[must_use]
    pub const fn contains(self, probe_type: ProbeType) -> bool {
        self.0 & 1 << probe_type.index() != 0
    }
}

impl FromIterator<ProbeType> for ProbeTypes {
    fn from_iter<T: IntoIterator<Item = ProbeType>>(types: T) -> Self {
        Self(types.into_iter().fold(0, |bits, probe_type| bits | 1 << probe_type.index()))
    }
}

/// What a worker is known by: one per (pod, container, probe type).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeKey {
    /// The pod.
    pub pod: PodUid,
    /// The container within it.
    pub container: ContainerName,
    /// Which of its probes.
    pub probe_type: ProbeType,
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    #[test]
    fn the_three_probes_have_kubernetes_names() {
        let names = ProbeType::ALL.map(|probe_type| (probe_type.as_str(), probe_type.field()));
        let known = [("Startup", "startupProbe"), ("Readiness", "readinessProbe"), ("Liveness", "livenessProbe")];
        assert_eq!(names, known);
        assert!(ProbeType::ALL.into_iter().all(|probe_type| format!("{probe_type}") == probe_type.as_str()));
    }

    #[test]
    fn each_type_stands_where_its_index_says() {
        assert!(ProbeType::ALL.into_iter().enumerate().all(|(at, probe_type)| probe_type.index() == at));
    }

    #[test]
    fn a_set_of_types_holds_what_was_put_into_it() {
        let types = ProbeTypes::from_iter([ProbeType::Liveness, ProbeType::Startup, ProbeType::Liveness]);
        assert_eq!(ProbeType::ALL.map(|probe_type| types.contains(probe_type)), [true, false, true]);
        assert_eq!(ProbeTypes::from_iter(ProbeType::ALL), ProbeTypes::ALL);
        assert!(!ProbeType::ALL.into_iter().any(|probe_type| ProbeTypes::from_iter([]).contains(probe_type)));
    }

    #[test]
    fn a_name_is_shown_as_it_is_and_debugged_in_quotes() {
        let name = ContainerName::new("web");
        assert_eq!((format!("{name}"), format!("{name:?}")), ("web".into(), "\"web\"".into()));
    }
}
