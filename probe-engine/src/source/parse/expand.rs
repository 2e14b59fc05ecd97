//! `$(VAR)` in commands, arguments and env values (`third_party/forked/golang/expansion`): a name that is not
//! known stays as it is written, `$$` is a dollar sign that begins no reference.

/// Replaces every reference in `text` that `value_of` knows.
pub(super) fn expand<'a>(text: &str, value_of: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        let tail = &rest[dollar + 1..];
        rest = if let Some(tail) = tail.strip_prefix('$') {
            expanded.push('$');
            tail
        } else if let Some((name, tail)) = tail.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match value_of(name) {
                Some(value) => expanded.push_str(value),
                None => {
                    expanded.push_str("$(");
                    expanded.push_str(name);
                    expanded.push(')');
                }
            }
            tail
        } else {
            expanded.push('$');
            tail
        };
    }
    expanded.push_str(rest);
    expanded
}

/// How long [`expand`] makes `text`, without making it.
pub(super) fn expanded_len(text: &str, len_of: impl Fn(&str) -> Option<usize>) -> usize {
    let mut len = 0_usize;
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let tail = &rest[dollar + 1..];
        let (more, after) = if let Some(tail) = tail.strip_prefix('$') {
            (1, tail)
        } else if let Some((name, tail)) = tail.strip_prefix('(').and_then(|t| t.split_once(')')) {
            (len_of(name).unwrap_or(name.len() + 3), tail)
        } else {
            (1, tail)
        };
        len = len.saturating_add(dollar).saturating_add(more);
        rest = after;
    }
    len.saturating_add(rest.len())
}

#[cfg(test)]
mod tests {
    use super::{expand, expanded_len};

    fn with_a_and_b(text: &str) -> String {
        let value_of = |name: &str| match name {
            "A" => Some("1"),
            "B" => Some("$(A)"),
            "EMPTY" => Some(""),
            _ => None,
        };
        let expanded = expand(text, value_of);
        assert_eq!(expanded_len(text, |name| value_of(name).map(str::len)), expanded.len());
        expanded
    }

    #[test]
    fn known_references_are_replaced_once() {
        assert_eq!(with_a_and_b("x$(A)y$(B)"), "x1y$(A)");
        assert_eq!(with_a_and_b("[$(EMPTY)]"), "[]");
    }

    #[test]
    fn unknown_and_unfinished_references_stay() {
        assert_eq!(with_a_and_b("$(C) $(A $A $"), "$(C) $(A $A $");
        assert_eq!(with_a_and_b("$()"), "$()");
    }

    #[test]
    fn a_doubled_dollar_is_one_that_begins_no_reference() {
        assert_eq!(with_a_and_b("$$(A)"), "$(A)");
        assert_eq!(with_a_and_b("$$$(A)"), "$1");
        assert_eq!(with_a_and_b("$$$$"), "$$");
    }
}
