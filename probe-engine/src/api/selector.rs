//! Label selectors as kubectl's `-l` takes them: `app=web,tier!=db,env in (prod, dev),!canary`.
//!
//! The rules are those of apimachinery's `labels.Parse`, values and keys checked as Kubernetes checks labels.

use std::fmt;

/// A parsed selector: all requirements must hold. The empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// Why a selector could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid label selector {selector:?}: {what}; allowed are key=value, key!=value, key in (a,b), key notin (a,b), key, !key, joined by commas"
)]
pub struct SelectorError {
    /// The whole text.
    pub selector: String,
    /// What is wrong with it.
    pub what: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    /// Holds for a missing key, too, as in Kubernetes.
    NotIn(String, Vec<String>),
    /// `key>n`, `key<n` over integers.
    Greater(String, i64),
    Less(String, i64),
}

impl Selector {
    /// Reads a selector; the empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        if !text.trim().is_empty() {
            for part in split_outside_parentheses(text) {
                let requirement =
                    requirement(part.trim()).map_err(|what| SelectorError { selector: text.to_owned(), what })?;
                requirements.push(requirement);
            }
        }
        Ok(Self { requirements })
    }

    /// Whether labels, looked up by key, satisfy every requirement.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| r.holds(&label))
    }

    /// It selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl Requirement {
    fn holds<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let number = |key: &str| label(key).and_then(|v| v.parse::<i64>().ok());
        match self {
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
            Requirement::In(key, values) => label(key).is_some_and(|v| has(values, v)),
            Requirement::NotIn(key, values) => label(key).is_none_or(|v| !has(values, v)),
            Requirement::Greater(key, than) => number(key).is_some_and(|n| n > *than),
            Requirement::Less(key, than) => number(key).is_some_and(|n| n < *than),
        }
    }
}

fn has(values: &[String], value: &str) -> bool {
    values.iter().any(|v| v == value)
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

fn requirement(text: &str) -> Result<Requirement, String> {
    if text.is_empty() {
        return Err("an empty requirement (a comma too many?)".to_owned());
    }
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement::Absent(checked_key(key)?));
    }
    if let Some(rest) = text.strip_suffix(')') {
        return set_based(text, rest);
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(checked_key(key)?, vec![checked_value(value)?]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(checked_key(key)?, vec![checked_value(value)?]));
    }
    if let Some((key, value)) = text.split_once('>') {
        return Ok(Requirement::Greater(checked_key(key)?, integer(value)?));
    }
    if let Some((key, value)) = text.split_once('<') {
        return Ok(Requirement::Less(checked_key(key)?, integer(value)?));
    }
    Ok(Requirement::Exists(checked_key(text)?))
}

fn set_based(text: &str, without_parenthesis: &str) -> Result<Requirement, String> {
    let unreadable = || format!("cannot read {text:?}");
    let (head, list) = without_parenthesis.split_once('(').ok_or_else(unreadable)?;
    let mut words = head.split_whitespace();
    let (Some(key), Some(operator), None) = (words.next(), words.next(), words.next()) else {
        return Err(unreadable());
    };
    let key = checked_key(key)?;
    let values = list.split(',').map(checked_value).collect::<Result<_, _>>()?;
    match operator {
        "in" => Ok(Requirement::In(key, values)),
        "notin" => Ok(Requirement::NotIn(key, values)),
        other => Err(format!("operator {other:?} is not \"in\" or \"notin\"")),
    }
}

fn integer(text: &str) -> Result<i64, String> {
    let text = text.trim();
    text.parse().map_err(|_| format!("{text:?} is not an integer"))
}

/// `[prefix/]name`, as `validation.IsQualifiedName`.
fn checked_key(text: &str) -> Result<String, String> {
    let key = text.trim();
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let prefix_ok =
        prefix.is_none_or(|p| !p.is_empty() && p.len() <= 253 && p.split('.').all(|part| is_word(part, "-")));
    if !prefix_ok || name.len() > 63 || !is_word(name, "-_.") {
        return Err(format!("{key:?} is not a label key"));
    }
    Ok(key.to_owned())
}

/// Empty, or a word of at most 63 bytes, as `validation.IsValidLabelValue`.
fn checked_value(text: &str) -> Result<String, String> {
    let value = text.trim();
    if !value.is_empty() && (value.len() > 63 || !is_word(value, "-_.")) {
        return Err(format!("{value:?} is not a label value"));
    }
    Ok(value.to_owned())
}

/// Letters and digits, with `inner` allowed between them.
fn is_word(text: &str, inner: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.chars().next())
        && edge(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || inner.contains(c))
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match requirement {
                Requirement::Exists(key) => f.write_str(key)?,
                Requirement::Absent(key) => write!(f, "!{key}")?,
                Requirement::In(key, values) => write!(f, "{key} in ({})", values.join(","))?,
                Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(","))?,
                Requirement::Greater(key, than) => write!(f, "{key}>{than}")?,
                Requirement::Less(key, than) => write!(f, "{key}<{than}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let selector = Selector::parse(selector).expect(selector);
        selector.matches(|key| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v))
    }

    #[test]
    fn equality_and_sets_select_as_kubectl_does() {
        let web = &[("app", "web"), ("tier", "front"), ("n", "7"), ("empty", "")];
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            (" app = web , tier=front", true),
            ("app!=web", false),
            ("missing!=web", true),
            ("app in (web, api)", true),
            ("app in (api)", false),
            ("app notin (api,db),tier", true),
            ("missing notin (x)", true),
            ("missing in (x)", false),
            ("!missing", true),
            ("!app", false),
            ("tier", true),
            ("empty=", true),
            ("empty", true),
            ("n>6,n<8", true),
            ("n>7", false),
        ] {
            assert_eq!(selects(selector, web), expected, "{selector}");
        }
        assert!(selects("example.com/role=a", &[("example.com/role", "a")]));
    }

    #[test]
    fn a_bad_selector_is_refused_with_its_text() {
        for bad in [
            "app=web,",
            ",",
            "=web",
            "app in web",
            "app in (a",
            "app within (a)",
            "a b",
            "-a=b",
            "app=we b",
            "!",
            "n>x",
            "/a=b",
            "app=(a)",
        ] {
            let error = Selector::parse(bad).expect_err(bad);
            assert_eq!(error.selector, bad);
            assert!(error.to_string().contains("allowed are"), "{error}");
        }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        let text = "app in (web,api),tier notin (db),x,!y,n>3";
        let parsed = Selector::parse(text).expect(text);
        assert_eq!(parsed.to_string(), text);
        assert_eq!(Selector::parse(&parsed.to_string()), Ok(parsed));
    }
}
