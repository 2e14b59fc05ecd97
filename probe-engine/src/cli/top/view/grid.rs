//! Columns under each other: the fixed ones keep their width, one takes the rest, and those that do not fit are left out, the
//! highest rank first.

use crate::cli::top::fit::{self, Charset};

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// In terminal columns; of the flexible one the least.
    pub(super) width: usize,
    /// 0 = never left out.
    pub(super) rank: u8,
    pub(super) side: Side,
}

/// How a cell stands in its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
    /// At the left, as wide as there is room, cut in the middle.
    Flexible,
    /// The same without the room.
    Middle,
}

impl Column {
    pub(super) const fn new(name: &'static str, width: usize, rank: u8, side: Side) -> Self {
        Self { name, width, rank, side }
    }

    /// A cell in this column, filled up to its width.
    pub(super) fn cell(&self, text: &str, charset: Charset) -> String {
        match self.side {
            Side::Left => fit::padded(&fit::end(text, self.width, charset), self.width),
            Side::Right => fit::padded_left(&fit::end(text, self.width, charset), self.width),
            Side::Flexible | Side::Middle => fit::padded(&fit::middle(text, self.width, charset), self.width),
        }
    }
}

/// The columns that fit, with the widths that they have there.
pub(super) fn fitting(columns: &[Column], width: usize, gap: usize) -> Vec<Column> {
    let mut kept = columns.to_vec();
    loop {
        let used = kept.iter().map(|column| column.width).sum::<usize>() + gap * kept.len().saturating_sub(1);
        let dropped = kept.iter().map(|column| column.rank).max().unwrap_or(0);
        if used > width && dropped > 0 {
            kept.retain(|column| column.rank != dropped);
            continue;
        }
        for column in kept.iter_mut().filter(|column| column.side == Side::Flexible) {
            column.width += width.saturating_sub(used);
        }
        return kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_goes_whole_and_one_column_takes_the_rest() {
        let columns = [
            Column::new("NAME", 10, 0, Side::Flexible),
            Column::new("AGE", 5, 1, Side::Left),
            Column::new("LAST", 8, 2, Side::Left),
        ];
        let at = |width| fitting(&columns, width, 1).iter().map(|c| (c.name, c.width)).collect::<Vec<_>>();
        assert_eq!(at(40), [("NAME", 25), ("AGE", 5), ("LAST", 8)]);
        assert_eq!(at(24), [("NAME", 18), ("AGE", 5)]);
        assert_eq!(at(12), [("NAME", 12)]);
    }
}
