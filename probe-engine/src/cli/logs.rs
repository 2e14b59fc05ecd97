//! `probe-engine logs POD`

use std::io::{self, IsTerminal, Write};

use super::client::{self, Link, error_of};
use super::get::DEFAULT_NAMESPACE;
use super::reference::Reference;
use super::{CliError, Exit, Globals, escape};
use crate::api::v1;

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// `NAME`, `pod/NAME` or `pod NAME`
    #[arg(value_name = "POD", required = true, num_args = 1..=2)]
    pod: Vec<String>,
    /// The pod's namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// Which container; needed where the pod has several
    #[arg(short, long, value_name = "CONTAINER", default_value = "", hide_default_value = true)]
    container: String,
    /// Go on with what is written, over restarts too
    #[arg(short, long, conflicts_with = "previous")]
    follow: bool,
    /// Of the instance before the newest
    #[arg(short, long)]
    previous: bool,
    /// Only the last lines, this many; -1 = all
    #[arg(long, value_name = "LINES", default_value_t = -1, allow_negative_numbers = true)]
    tail: i64,
}

/// Prints what a container wrote: as it is into a pipe or a file, with control characters escaped on a terminal.
pub fn run(args: &LogsArgs, globals: &Globals) -> Result<Exit, CliError> {
    let pod = Reference::one_pod(&args.pod)?;
    client::block_on(async {
        let mut link = Link::open(globals).await?;
        let request = v1::StreamLogsRequest {
            namespace: args.namespace.clone(),
            pod,
            container: args.container.clone(),
            follow: args.follow,
            previous: args.previous,
            tail_lines_count: u64::try_from(args.tail).ok(),
        };
        let answer = link.client.stream_logs(request).await.map_err(|s| error_of(&s))?;
        let mut parts = answer.into_inner();
        let mut out = io::stdout().lock();
        let mut text = out.is_terminal().then(Utf8::default);
        while let Some(part) = parts.message().await.map_err(|s| error_of(&s))? {
            match &mut text {
                Some(text) => out.write_all(escape::block(&text.push(&part.data)).as_bytes())?,
                None => out.write_all(&part.data)?,
            }
            out.flush()?;
        }
        if let Some(text) = text {
            out.write_all(text.finish().as_bytes())?;
        }
        out.flush()?;
        Ok(Exit::Success)
    })
}

/// Bytes cut anywhere, as text: a character that a cut divides waits for its rest, what is no UTF-8 is replaced.
#[derive(Default)]
struct Utf8 {
    begun: Vec<u8>,
}

impl Utf8 {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.begun) {
            Ok(_) => self.begun.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            // Broken somewhere: everything but a character that may still be coming.
            Err(_) => self.begun.len() - cut_off(&self.begun),
        };
        let rest = self.begun.split_off(whole);
        let text = String::from_utf8_lossy(&self.begun).into_owned();
        self.begun = rest;
        text
    }

    fn finish(self) -> String {
        String::from_utf8_lossy(&self.begun).into_owned()
    }
}

/// Bytes at the end that begin a character and do not end it: 0 to 3.
fn cut_off(bytes: &[u8]) -> usize {
    (1..=3.min(bytes.len()))
        .find(|back| {
            let tail = &bytes[bytes.len() - back..];
            matches!(std::str::from_utf8(tail), Err(e) if e.valid_up_to() == 0 && e.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_a_cut_divides_is_put_together() {
        let mut text = Utf8::default();
        let bytes = "a✓é".as_bytes();
        let mut got = String::new();
        for byte in bytes {
            got.push_str(&text.push(&[*byte]));
        }
        got.push_str(&text.finish());
        assert_eq!(got, "a✓é");
    }

    #[test]
    fn what_is_no_text_is_replaced_and_does_not_grow() {
        let mut text = Utf8::default();
        let got = text.push(b"\xff\xfeok\xe2\x9c");
        assert_eq!(got, "\u{fffd}\u{fffd}ok");
        assert_eq!(text.push(b"\x93!"), "✓!");
        assert!(text.begun.is_empty());
    }
}
