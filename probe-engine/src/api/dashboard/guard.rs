//! What keeps other sites' pages away from the dashboard, and the dashboard's own page from anything but itself.
//!
//! A page of another site may make a browser send requests to loopback, under a name of its own that it lets resolve to
//! 127.0.0.1 (DNS rebinding): such a request names that site in `Host`.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Scripts, styles and connections of our own alone; nobody may frame the page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Refuses requests that were not made for this host, and those of another site's scripts; adds the headers of every answer.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let refusal = refusal(request.headers(), request.uri().path());
    let mut response = match refusal {
        Some(why) => (StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refusal(headers: &HeaderMap, path: &str) -> Option<&'static str> {
    // A browser always says it; HTTP/1.0 need not. One that cannot be read is none of ours.
    if !headers.get(header::HOST).is_none_or(|host| host.to_str().is_ok_and(is_this_host)) {
        return Some("the dashboard answers to localhost, 127.0.0.1 and [::1] only, whatever a name resolves to\n");
    }
    // A link may lead here from anywhere; a script may not.
    let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    let is_foreign = matches!(site, Some("cross-site" | "same-site"));
    (is_foreign && path.starts_with("/api/")).then_some("this page belongs to another site\n")
}

/// `localhost`, an address of 127.0.0.0/8 or `[::1]`, with a port or without.
fn is_this_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_answered_to() {
        for host in ["localhost", "LOCALHOST:9750", "127.0.0.1:9750", "127.1.2.3", "[::1]:9750", "[::1]"] {
            assert!(is_this_host(host), "{host}");
        }
        for host in [
            "",
            ":",
            "evil.example",
            "evil.example:9750",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "localhost:x",
            "localhost:",
            "[::2]",
            "0.0.0.0",
            "127.0.0.1:9750:1",
            "[::ffff:10.0.0.1]",
        ] {
            assert!(!is_this_host(host), "{host}");
        }
    }
}
