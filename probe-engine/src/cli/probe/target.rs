//! Where a probe of the command line goes: `HOST:PORT` and URLs, taken apart without changing them.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use probe_core::spec::Scheme;

use crate::cli::CliError;

/// A host: in a manifest an address is the pod's, a name is the probe's `host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Address(IpAddr),
    Name(String),
}

impl Host {
    /// As a probe's `host` and its pod's address.
    pub(super) fn split(self) -> (Option<Arc<str>>, Option<IpAddr>) {
        match self {
            Host::Address(ip) => (None, Some(ip)),
            Host::Name(name) => (Some(name.into()), None),
        }
    }
}

/// `HOST:PORT`, `[v6]:PORT`; the port may be missing where there is a default.
pub(super) fn host_port(text: &str, default_port: Option<u16>) -> Result<(Host, u16), CliError> {
    let wrong =
        |what: &str| CliError::usage(format!("{text:?}: {what}; give HOST:PORT, an IPv6 address as [::1]:PORT"));
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(|| wrong("the bracket is not closed"))?;
            let host: Ipv6Addr = host.parse().map_err(|_| wrong("what is in brackets is no IPv6 address"))?;
            let port = match port.strip_prefix(':') {
                None if !port.is_empty() => return Err(wrong("only a port may follow the bracket")),
                port => port,
            };
            (Host::Address(host.into()), port)
        }
        None => {
            let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            if host.contains(':') {
                return Err(wrong("too many colons"));
            }
            if host.is_empty() || host.contains(['@', ' ']) {
                return Err(wrong("the host is missing or not a host"));
            }
            (host.parse().map_or_else(|_| Host::Name(host.to_owned()), Host::Address), port)
        }
    };
    let port = match port {
        None => default_port.ok_or_else(|| wrong("the port is missing"))?,
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(wrong("the port is not a number from 1 to 65535")),
            Ok(port) => port,
        },
    };
    Ok((host, port))
}

/// A URL as a probe's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpTarget {
    pub(super) scheme: Scheme,
    pub(super) host: Host,
    pub(super) port: u16,
    /// With query and fragment, as `path` of a manifest.
    pub(super) path: String,
}

impl HttpTarget {
    pub(super) fn parse(text: &str) -> Result<Self, CliError> {
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Http, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            Some((scheme, _)) => {
                return Err(CliError::usage(format!("{text:?}: scheme {scheme:?} is not http or https")));
            }
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let default_port = match scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        };
        let (host, port) = host_port(authority, Some(default_port))?;
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self { scheme, host, port, path: format!("{slash}{path}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_a_probes_fields() {
        for (text, scheme, host, port, path) in [
            ("http://127.0.0.1:8080/healthz?a=b#c", Scheme::Http, "127.0.0.1", 8080, "/healthz?a=b#c"),
            ("127.0.0.1:8080", Scheme::Http, "127.0.0.1", 8080, "/"),
            ("HTTPS://example.test", Scheme::Https, "example.test", 443, "/"),
            ("http://[::1]:90?x", Scheme::Http, "::1", 90, "/?x"),
            ("http://localhost/../a%2fb", Scheme::Http, "localhost", 80, "/../a%2fb"),
        ] {
            let target = HttpTarget::parse(text).expect(text);
            let shown = match &target.host {
                Host::Address(ip) => ip.to_string(),
                Host::Name(name) => name.clone(),
            };
            assert_eq!((target.scheme, shown.as_str(), target.port, target.path.as_str()), (scheme, host, port, path));
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for bad in
            ["ftp://x/", "http://", "http://user@host/", "http://[::1/", "http://::1/", "http://x:0/", "http://x:y/"]
        {
            assert!(HttpTarget::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "host", ":80", "::1:80", "host:", "host:65536", "[1.2.3.4]:80", "[::1]80"] {
            assert!(host_port(bad, None).is_err(), "{bad}");
        }
    }
}
