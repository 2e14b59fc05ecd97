//! What a key means: those of less, vi and top.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What the operator asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Rows or lines, down where positive.
    Move(isize),
    /// Screens of them.
    MovePages(isize),
    First,
    Last,
    /// The selected pod's page.
    Open,
    /// One step out.
    Back,
    /// Begin a search.
    Search,
    /// Into the search.
    Type(char),
    /// The search's last character away.
    Erase,
    /// All of them.
    EraseAll,
    /// The search stays, and is typed no more.
    Accept,
    /// Only what is failing, or everything again.
    FailingOnly,
    Sort {
        /// To the next column, not the one before.
        forward: bool,
    },
    Reverse,
    /// The other columns of a narrow terminal.
    Columns,
    Help,
    /// Draw everything anew.
    Redraw,
    Suspend,
    Quit,
}

/// The keys and what they do, for the help.
pub(super) const HELP: [(&str, &str); 13] = [
    ("up down, k j", "one row"),
    ("PgUp PgDn, ^B ^F", "one screen"),
    ("Home End, g G", "first, last"),
    ("Enter", "the pod: its probes and events"),
    ("Esc", "back; then forget search and filter"),
    ("/", "search in namespace/name and status"),
    ("f", "only failing pods, or all"),
    ("s S", "sort by the next column, the one before"),
    ("r", "reverse the order"),
    ("Tab", "other columns, where all do not fit"),
    ("^L", "draw everything anew"),
    ("?, h", "this help"),
    ("q, ^C", "quit"),
];

/// What a key means; `None` = nothing. While a search is typed its letters are its own.
pub(super) fn command(key: KeyEvent, is_searching: bool) -> Option<Command> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return controlled(key.code, is_searching);
    }
    if key.modifiers.contains(KeyModifiers::ALT) {
        return None;
    }
    match key.code {
        KeyCode::Up => Some(Command::Move(-1)),
        KeyCode::Down => Some(Command::Move(1)),
        KeyCode::PageUp => Some(Command::MovePages(-1)),
        KeyCode::PageDown => Some(Command::MovePages(1)),
        KeyCode::Home => Some(Command::First),
        KeyCode::End => Some(Command::Last),
        KeyCode::Esc => Some(Command::Back),
        KeyCode::Tab | KeyCode::Left | KeyCode::Right if !is_searching => Some(Command::Columns),
        KeyCode::Enter if is_searching => Some(Command::Accept),
        KeyCode::Enter => Some(Command::Open),
        KeyCode::Backspace if is_searching => Some(Command::Erase),
        KeyCode::Backspace => Some(Command::Back),
        KeyCode::Char(c) if is_searching => (!c.is_control()).then_some(Command::Type(c)),
        KeyCode::Char(c) => letter(c),
        _ => None,
    }
}

const fn letter(c: char) -> Option<Command> {
    Some(match c {
        'k' => Command::Move(-1),
        'j' => Command::Move(1),
        ' ' => Command::MovePages(1),
        'b' => Command::MovePages(-1),
        'g' => Command::First,
        'G' => Command::Last,
        '/' => Command::Search,
        'f' => Command::FailingOnly,
        's' => Command::Sort { forward: true },
        'S' => Command::Sort { forward: false },
        'r' => Command::Reverse,
        '?' | 'h' => Command::Help,
        'q' => Command::Quit,
        _ => return None,
    })
}

const fn controlled(code: KeyCode, is_searching: bool) -> Option<Command> {
    Some(match code {
        KeyCode::Char('c') => Command::Quit,
        KeyCode::Char('l') => Command::Redraw,
        KeyCode::Char('z') => Command::Suspend,
        KeyCode::Char('f') => Command::MovePages(1),
        KeyCode::Char('b') => Command::MovePages(-1),
        KeyCode::Char('u') if is_searching => Command::EraseAll,
        // What some terminals send for backspace.
        KeyCode::Char('h') if is_searching => Command::Erase,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn letters_are_commands_unless_a_search_is_typed() {
        assert_eq!(command(plain(KeyCode::Char('q')), false), Some(Command::Quit));
        assert_eq!(command(plain(KeyCode::Char('q')), true), Some(Command::Type('q')));
        assert_eq!(command(plain(KeyCode::Char('日')), true), Some(Command::Type('日')));
        assert_eq!(command(plain(KeyCode::Enter), true), Some(Command::Accept));
        assert_eq!(command(plain(KeyCode::Enter), false), Some(Command::Open));
        assert_eq!(command(plain(KeyCode::Char('x')), false), None);
    }

    #[test]
    fn control_c_quits_whatever_is_typed() {
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(command(key, false), Some(Command::Quit));
        assert_eq!(command(key, true), Some(Command::Quit));
    }

    #[test]
    fn the_help_fits_into_the_smallest_terminal_that_is_drawn_on() {
        assert!(HELP.iter().all(|(keys, text)| 18 + text.len() <= 60 && keys.len() <= 16));
    }
}
