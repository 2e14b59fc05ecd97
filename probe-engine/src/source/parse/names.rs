//! The forms of names that Kubernetes knows, with its words for what is wrong with one
//! (`apimachinery/pkg/util/validation`). Each function returns one text per broken rule; none = valid.

use std::borrow::Cow;

type Complaints = Vec<Cow<'static, str>>;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const ENV_NAME: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const HEADER_NAME: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";

/// `must be between 1 and 65535, inclusive`
pub(super) const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// A DNS label: container names, namespaces.
pub(super) fn dns_label(value: &str) -> Complaints {
    let mut complaints = Vec::new();
    too_long(value, 63, "", &mut complaints);
    if !is_label(value) {
        complaints.push(if is_subdomain(value) {
            Cow::Borrowed("must not contain dots")
        } else {
            Cow::Borrowed(LABEL)
        });
    }
    complaints
}

/// A DNS subdomain: pod names.
pub(super) fn dns_subdomain(value: &str) -> Complaints {
    let mut complaints = Vec::new();
    too_long(value, 253, "", &mut complaints);
    if !is_subdomain(value) {
        complaints.push(Cow::Borrowed(SUBDOMAIN));
    }
    complaints
}

/// `[prefix/]name`: condition types, keys of labels and annotations.
pub(super) fn qualified_name(value: &str) -> Complaints {
    let mut complaints = Vec::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, name)) if name.contains('/') => {
            complaints.push(Cow::Owned(format!(
                "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )));
            return complaints;
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                complaints.push(Cow::Borrowed("prefix part must be non-empty"));
            } else {
                let of_prefix = |c| Cow::Owned(format!("prefix part {c}"));
                complaints.extend(dns_subdomain(prefix).into_iter().map(of_prefix));
            }
            name
        }
    };
    if name.is_empty() {
        complaints.push(Cow::Borrowed("name part must be non-empty"));
    }
    too_long(name, 63, "name part ", &mut complaints);
    if !is_qualified_part(name) {
        complaints.push(Cow::Owned(format!("name part {QUALIFIED}")));
    }
    complaints
}

/// The value of a label.
pub(super) fn label_value(value: &str) -> Complaints {
    let mut complaints = Vec::new();
    too_long(value, 63, "", &mut complaints);
    if !value.is_empty() && !is_qualified_part(value) {
        complaints.push(Cow::Borrowed(LABEL_VALUE));
    }
    complaints
}

/// An IANA service name: names of ports.
pub(super) fn port_name(value: &str) -> Complaints {
    let mut complaints = Vec::new();
    too_long(value, 15, "", &mut complaints);
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if value.is_empty() || !value.bytes().all(allowed) {
        complaints.push(Cow::Borrowed("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"));
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        complaints.push(Cow::Borrowed("must contain at least one letter (a-z)"));
    }
    if value.contains("--") {
        complaints.push(Cow::Borrowed("must not contain consecutive hyphens"));
    }
    if value.starts_with('-') || value.ends_with('-') {
        complaints.push(Cow::Borrowed("must not begin or end with a hyphen"));
    }
    complaints
}

/// The name of an environment variable, by the relaxed rule of 1.34. Emptiness is the caller's to check.
pub(super) fn env_name(value: &str) -> Complaints {
    let allowed = |c: char| (' '..='~').contains(&c) && c != '=';
    if value.chars().all(allowed) { Vec::new() } else { vec![Cow::Borrowed(ENV_NAME)] }
}

/// The name of an HTTP header.
pub(super) fn header_name(value: &str) -> Complaints {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if !value.is_empty() && value.bytes().all(allowed) { Vec::new() } else { vec![Cow::Borrowed(HEADER_NAME)] }
}

fn too_long(value: &str, bytes_max: usize, what: &str, complaints: &mut Complaints) {
    if value.len() > bytes_max {
        complaints.push(Cow::Owned(format!("{what}must be no more than {bytes_max} characters")));
    }
}

fn is_label(value: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = value.as_bytes();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

fn is_qualified_part(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains_differ_in_dots() {
        assert!(dns_label("my-name").is_empty());
        assert!(dns_subdomain("my.name").is_empty());
        assert_eq!(dns_label("my.name"), ["must not contain dots"]);
        assert_eq!(dns_label("-x"), [LABEL]);
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(dns_subdomain("My"), [SUBDOMAIN]);
    }

    #[test]
    fn qualified_names_may_have_one_prefix() {
        assert!(qualified_name("MyDemo").is_empty());
        assert!(qualified_name("example.com/ready").is_empty());
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert_eq!(qualified_name("").len(), 2);
    }

    #[test]
    fn an_empty_port_name_breaks_two_rules() {
        assert_eq!(port_name("").len(), 2);
        assert!(port_name("http-2").is_empty());
        assert_eq!(port_name("a--b-").len(), 2);
        assert_eq!(port_name("8080"), ["must contain at least one letter (a-z)"]);
        assert_eq!(
            port_name("a-very-long-name-"),
            ["must be no more than 15 characters", "must not begin or end with a hyphen"]
        );
    }

    #[test]
    fn names_of_variables_and_headers_are_ascii() {
        assert!(env_name("MY VAR.1").is_empty());
        assert_eq!(env_name("A=B"), [ENV_NAME]);
        assert_eq!(env_name("ä"), [ENV_NAME]);
        assert!(header_name("X-Forwarded-For").is_empty());
        assert_eq!(header_name("Host:"), [HEADER_NAME]);
        assert_eq!(header_name(""), [HEADER_NAME]);
    }
}
