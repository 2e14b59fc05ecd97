//! What the operator decides about passive answers.

use std::time::Duration;

use probe_core::spec::Pod;

/// Whether the kernel program is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EbpfChoice {
    /// Where it can be loaded; else every attempt connects, and one log line says why
    #[default]
    Auto,
    /// Never
    Off,
    /// The daemon does not start without it
    Require,
}

impl EbpfChoice {
    /// As it is written on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            EbpfChoice::Auto => "auto",
            EbpfChoice::Off => "off",
            EbpfChoice::Require => "require",
        }
    }
}

/// `probe-engine.io/passive: "on"|"off"` on a pod overrides the daemon's setting.
pub const ANNOTATION_PASSIVE: &str = "probe-engine.io/passive";

/// `probe-engine.io/netns: PATH` on a pod of the runtime `none`: the network namespace its address is in.
pub const ANNOTATION_NETNS: &str = "probe-engine.io/netns";

/// See the module.
#[derive(Clone, Debug)]
pub struct PassiveSettings {
    /// For pods that do not say.
    pub passive: bool,
    /// Longest time between two real connects to a target; leases are shorter by a seeded part. At least
    /// [`crate::limits::PASSIVE_MAX_AGE_MIN`].
    pub passive_max_age: Duration,
    /// After a change on the way that need not concern the target, a real connect comes within this.
    pub path_recheck_max: Duration,
    /// A closing listener causes one attempt at once.
    pub early_detection: bool,
    /// Passive answers that are checked by a connect, node-wide, per second; 0 = none.
    pub passive_audit_per_second: u32,
}

impl Default for PassiveSettings {
    fn default() -> Self {
        Self {
            passive: true,
            passive_max_age: Duration::from_secs(60),
            path_recheck_max: Duration::from_secs(5),
            early_detection: false,
            passive_audit_per_second: 10,
        }
    }
}

impl PassiveSettings {
    /// Whether probes of this pod may be answered from kernel state. An annotation of another value was refused when the
    /// manifest was read; here it counts as not there.
    #[must_use]
    pub fn is_on_for(&self, pod: &Pod) -> bool {
        match annotation(pod, ANNOTATION_PASSIVE) {
            Some("on") => true,
            Some("off") => false,
            _ => self.passive,
        }
    }
}

/// The value of this annotation.
#[must_use]
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.annotations.iter().find(|(name, _)| &**name == key).map(|(_, value)| &**value)
}
