//! `TYPE/NAME` and `TYPE NAME`, as kubectl takes them.

use super::CliError;

/// What the command line knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `pod`, `pods`, `po`
    Pod,
    /// `probe`, `probes`
    Probe,
}

impl Kind {
    /// The kind of this name, singular, plural or short, in any case.
    pub fn parse(text: &str) -> Result<Self, CliError> {
        match text.to_ascii_lowercase().as_str() {
            "pod" | "pods" | "po" => Ok(Kind::Pod),
            "probe" | "probes" => Ok(Kind::Probe),
            _ => Err(CliError::usage(format!(
                "unknown resource type {text:?}; there are pods (pod, po) and probes (probe)"
            ))),
        }
    }
}

/// A kind, and the names given with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Of which kind.
    pub kind: Kind,
    /// Which ones; none = all.
    pub names: Vec<String>,
}

impl Reference {
    /// Reads `pods`, `pod web api`, `pod/web pod/api`.
    pub fn parse(words: &[String]) -> Result<Self, CliError> {
        let Some(first) = words.first() else {
            return Err(CliError::usage("say what: pods or probes"));
        };
        let Some((kind, _)) = first.split_once('/') else {
            if let Some(mixed) = words[1..].iter().find(|word| word.contains('/')) {
                return Err(CliError::usage(format!(
                    "{mixed:?}: give either TYPE/NAME for all, or TYPE once and then names"
                )));
            }
            return Ok(Self { kind: Kind::parse(first)?, names: words[1..].to_vec() });
        };
        let kind = Kind::parse(kind)?;
        let mut names = Vec::with_capacity(words.len());
        for word in words {
            match word.split_once('/') {
                Some((other, name)) if !name.is_empty() && !name.contains('/') && Kind::parse(other)? == kind => {
                    names.push(name.to_owned());
                }
                Some((other, name)) if !name.is_empty() && !name.contains('/') => {
                    return Err(CliError::usage(format!("{other}/{name}: one type at a time")));
                }
                _ => return Err(CliError::usage(format!("{word:?} is not TYPE/NAME"))),
            }
        }
        Ok(Self { kind, names })
    }

    /// Reads the name of one pod: `web` (where a bare name is taken), `pod/web`, `pod web`.
    pub fn one_pod(words: &[String]) -> Result<String, CliError> {
        if let [name] = words
            && !name.contains('/')
        {
            if name.is_empty() {
                return Err(CliError::usage("the pod's name is empty"));
            }
            return Ok(name.clone());
        }
        let reference = Self::parse(words)?;
        if reference.kind != Kind::Pod {
            return Err(CliError::usage("only pods can be named here"));
        }
        match <[String; 1]>::try_from(reference.names) {
            Ok([name]) => Ok(name),
            Err(names) => Err(CliError::usage(format!("name one pod, not {}", names.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn types_and_names_are_read_as_kubectl_reads_them() {
        let read = |text: &str| Reference::parse(&words(text)).map(|r| (r.kind, r.names.join(",")));
        for (text, kind, names) in [
            ("pods", Kind::Pod, ""),
            ("po", Kind::Pod, ""),
            ("PODS", Kind::Pod, ""),
            ("pod web", Kind::Pod, "web"),
            ("pods web api", Kind::Pod, "web,api"),
            ("pod/web", Kind::Pod, "web"),
            ("pod/web po/api", Kind::Pod, "web,api"),
            ("probes", Kind::Probe, ""),
        ] {
            assert_eq!(read(text).expect(text), (kind, names.to_owned()), "{text}");
        }
        for bad in ["", "deployments", "pod/web api", "pod web pod/api", "pod/web probe/x", "pod/", "pod/a/b", "svc/x"]
        {
            assert!(matches!(read(bad), Err(CliError::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn one_pod_is_named_in_three_ways() {
        for text in ["web", "pod/web", "pod web", "po/web"] {
            assert_eq!(Reference::one_pod(&words(text)).expect(text), "web", "{text}");
        }
        for bad in ["pod/web pod/api", "probe/web", "", "pod web api"] {
            assert!(Reference::one_pod(&words(bad)).is_err(), "{bad}");
        }
    }
}
