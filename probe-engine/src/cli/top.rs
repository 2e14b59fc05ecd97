//! `probe-engine top`: the node, its pods and their probes, as they change.
//!
//! Three parts with one direction: the feed hears the daemon (`feed.rs`), the state keeps what it said and where the operator is
//! (`state.rs`, pure), the view draws it (`view.rs`, pure). Drawn at most four times a second, and at once after a key.

mod data;
mod feed;
mod fit;
mod keys;
mod row;
mod screen;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::crossterm::{self, event::Event};
use ratatui::layout::Rect;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use self::feed::{Message, Wants};
use self::fit::Charset;
use self::screen::Screen;
use self::state::{Effect, State};
use self::view::Look;
use super::client::{self, Link};
use super::output::{self, DataFormat};
use super::{CliError, Exit, Globals, get, style};
use crate::api::v1;
use crate::{clock, limits};

/// Between two drawings of what was heard.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// The page of `--once` where there is no terminal and no COLUMNS and LINES.
const PAGE: (u16, u16) = (80, 24);

/// Arguments of `top`.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// Print one page of text and end; no terminal is needed
    #[arg(long)]
    once: bool,
    /// Print the node's state once, as data, and end
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<DataFormat>,
}

/// Shows the node until the operator has seen enough.
pub fn run(args: &TopArgs, globals: &Globals) -> Result<Exit, CliError> {
    if args.once || args.output.is_some() {
        return client::block_on(once(args, globals));
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(CliError::usage(
            "top needs a terminal; `probe-engine top --once` prints one page, `probe-engine top -o json` data",
        ));
    }
    if style::is_dumb() {
        return Err(CliError::usage(
            "this terminal cannot be drawn on (TERM is dumb, or not set); use `probe-engine get pods -A -w`, or `probe-engine top --once`",
        ));
    }
    client::block_on(live(globals))
}

async fn live(globals: &Globals) -> Result<Exit, CliError> {
    let path = client::socket_path(globals)?;
    let link = Link::open(globals).await?;
    let mut state = State::new(link.info.clone());
    let (tell, told) = mpsc::channel(limits::TOP_MESSAGES_LEN_MAX);
    let (want, wants) = watch::channel(Wants::default());
    let ends = Ends::new().map_err(|error| CliError::Failed(format!("cannot wait for signals: {error}")))?;
    let look = Look { colour: style::colours(&io::stdout()), charset: charset() };
    let screen = Screen::open()?;
    let keys = screen::keys().map_err(|error| CliError::Failed(format!("cannot read the terminal: {error}")))?;
    tokio::spawn(feed::run(path, link, wants, tell));
    let mut live = Live { look, screen, keys, told, want, ends };
    live.until_the_end(&mut state).await
}

/// What comes in, and the screen.
struct Live {
    look: Look,
    screen: Screen,
    keys: mpsc::Receiver<Event>,
    told: mpsc::Receiver<Message>,
    want: watch::Sender<Wants>,
    ends: Ends,
}

impl Live {
    async fn until_the_end(&mut self, state: &mut State) -> Result<Exit, CliError> {
        // Ages change although nothing is heard.
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.draw(state)?;
        let (mut next, mut is_stale) = (Instant::now() + DRAW_EVERY, false);
        loop {
            let mut draw_now = false;
            tokio::select! {
                biased;
                () = self.ends.any() => return Ok(Exit::Success),
                event = self.keys.recv() => {
                    // The terminal has gone.
                    let Some(event) = event else { return Ok(Exit::Success) };
                    let mut event = Some(event);
                    while let Some(of) = event {
                        if self.obey(&of, state)? == Effect::Quit {
                            return Ok(Exit::Success);
                        }
                        event = self.keys.try_recv().ok();
                    }
                    draw_now = true;
                }
                message = self.told.recv() => {
                    let Some(message) = message else {
                        return Err(CliError::Failed("what listens to the daemon has ended: this is a bug".to_owned()));
                    };
                    let now = clock::wall();
                    state.hear(message, now);
                    // All that is there: a snapshot of many pods is drawn once.
                    for _ in 0..limits::TOP_MESSAGES_LEN_MAX {
                        let Ok(message) = self.told.try_recv() else { break };
                        state.hear(message, now);
                    }
                    is_stale = true;
                }
                _ = second.tick() => is_stale = true,
                () = tokio::time::sleep_until(next), if is_stale => draw_now = true,
            }
            if draw_now {
                self.draw(state)?;
                (next, is_stale) = (Instant::now() + DRAW_EVERY, false);
            }
        }
    }

    fn obey(&mut self, event: &Event, state: &mut State) -> Result<Effect, CliError> {
        let Event::Key(key) = event else { return Ok(Effect::Draw) };
        let Some(command) = keys::command(*key, state.is_searching) else { return Ok(Effect::Draw) };
        let effect = state.obey(command);
        match effect {
            Effect::Draw | Effect::Quit => {}
            Effect::Redraw => self.screen.forget()?,
            Effect::Suspend => self.screen.suspend()?,
        }
        Ok(effect)
    }

    fn draw(&mut self, state: &mut State) -> Result<(), CliError> {
        let look = self.look;
        self.screen.draw(|frame| view::draw(frame, state, look, clock::wall()))?;
        let wants = state.wants();
        self.want.send_if_modified(|wanted| {
            let is_new = *wanted != wants;
            *wanted = wants;
            is_new
        });
        Ok(())
    }
}

/// The signals that end it.
struct Ends([Signal; 3]);

impl Ends {
    fn new() -> io::Result<Self> {
        let of = |kind: SignalKind| signal(kind);
        Ok(Self([of(SignalKind::terminate())?, of(SignalKind::interrupt())?, of(SignalKind::hangup())?]))
    }

    /// Cancel-safe.
    async fn any(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn once(args: &TopArgs, globals: &Globals) -> Result<Exit, CliError> {
    let mut link = Link::open(globals).await?;
    let node = feed::node_of(&mut link.client).await?;
    if let Some(format) = args.output {
        output::print_data(&data::value(&link.info, &node), format)?;
        return Ok(Exit::Success);
    }
    let pods = get::list_pods(&mut link, v1::PodFilter::default()).await?;
    let now = clock::wall();
    let mut state = State::new(link.info);
    for message in [Message::Node(Box::new(node)), Message::Snapshot, Message::Pods(pods), Message::Synced] {
        state.hear(message, now);
    }
    let (width, height) = page_size();
    output::print(&text(&mut state, charset(), width, height, now))?;
    Ok(Exit::Success)
}

/// The page as text, without the keys and without the blanks at the ends of lines.
fn text(state: &mut State, charset: Charset, width: u16, height: u16, now: jiff::Timestamp) -> String {
    state.is_printed = true;
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    view::paint(&mut buffer, area, state, Look { colour: false, charset }, now);
    let mut text = String::new();
    for row in buffer_rows(&buffer) {
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// The rows of a buffer; the second half of a wide character is no blank.
fn buffer_rows(buffer: &Buffer) -> Vec<String> {
    let area = buffer.area;
    let row = |y| {
        let (mut text, mut x) = (String::new(), area.x);
        while x < area.right() {
            let symbol = buffer[(x, y)].symbol();
            text.push_str(symbol);
            x += u16::try_from(fit::width(symbol).max(1)).unwrap_or(1);
        }
        text
    };
    (area.y..area.bottom()).map(row).collect()
}

/// That of the terminal, else of COLUMNS and LINES, else [`PAGE`].
fn page_size() -> (u16, u16) {
    if io::stdout().is_terminal()
        && let Ok((width, height)) = crossterm::terminal::size()
    {
        return (width.max(view::COLUMNS_MIN), height.max(view::ROWS_MIN));
    }
    let of = |name: &str, least: u16, otherwise: u16| {
        let said = std::env::var(name).ok().and_then(|text| text.parse().ok());
        said.unwrap_or(otherwise).clamp(least, 500)
    };
    (of("COLUMNS", view::COLUMNS_MIN, PAGE.0), of("LINES", view::ROWS_MIN, PAGE.1))
}

fn charset() -> Charset {
    if style::is_utf8() { Charset::Utf8 } else { Charset::Ascii }
}
