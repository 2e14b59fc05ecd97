//! Tables as kubectl prints them: columns at least six wide, three blanks between, the last one ragged.

use std::fmt::Write;

use super::escape;

/// Blanks between two columns.
const GAP: usize = 3;
/// A column's least width, its gap included.
const WIDTH_MIN: usize = 6;

/// Rows under a header. Cells are escaped when they are added.
#[derive(Clone, Debug)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl Table {
    /// An empty table with these column names.
    #[must_use]
    pub fn new(header: Vec<&'static str>) -> Self {
        let widths = header.iter().map(|name| width(name)).collect();
        Self { header, rows: Vec::new(), widths }
    }

    /// With one more column, before the others.
    #[must_use]
    pub fn with_first(mut self, name: &'static str) -> Self {
        debug_assert!(self.rows.is_empty());
        self.header.insert(0, name);
        self.widths.insert(0, width(name));
        self
    }

    /// Adds a row of as many cells as there are columns.
    pub fn push(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.header.len());
        let cells: Vec<String> = cells.iter().map(|cell| escape::line(cell).into_owned()).collect();
        for (widest, cell) in self.widths.iter_mut().zip(&cells) {
            *widest = (*widest).max(width(cell));
        }
        self.rows.push(cells);
    }

    /// Header and rows.
    #[must_use]
    pub fn text(&self) -> String {
        let header: Vec<String> = self.header.iter().map(ToString::to_string).collect();
        let mut text = self.format(&header);
        text.push_str(&self.rows_text());
        text
    }

    /// Rows alone.
    #[must_use]
    pub fn rows_text(&self) -> String {
        self.rows.iter().map(|row| self.format(row)).collect()
    }

    /// Forgets the rows and keeps the widths, so that later rows stand under earlier ones.
    pub fn clear_rows(&mut self) {
        self.rows.clear();
    }

    fn format(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (index, cell) in cells.iter().enumerate() {
            line.push_str(cell);
            if index + 1 < cells.len() {
                let column = (self.widths[index] + GAP).max(WIDTH_MIN);
                let blanks = column.saturating_sub(width(cell));
                let _ = write!(line, "{:blanks$}", "");
            }
        }
        line.push('\n');
        line
    }
}

/// Characters, as Go's tabwriter counts.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn columns_stand_as_kubectl_puts_them() {
        let mut table = Table::new(vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
        table.push(row(&["web-0", "1/1", "Running", "0", "5m"]));
        table.push(row(&["a-longer-name", "0/2", "CrashLoopBackOff", "2 (30s ago)", "3d4h"]));
        assert_eq!(
            table.text(),
            "NAME            READY   STATUS             RESTARTS      AGE\n\
             web-0           1/1     Running            0             5m\n\
             a-longer-name   0/2     CrashLoopBackOff   2 (30s ago)   3d4h\n"
        );
    }

    #[test]
    fn short_columns_are_six_wide_and_cells_are_escaped() {
        let mut table = Table::new(vec!["A", "B"]);
        table.push(row(&["x", "line\nend\x1b"]));
        assert_eq!(table.text(), "A     B\nx     line\\nend\\x1b\n");
    }

    #[test]
    fn later_rows_keep_the_widths() {
        let mut table = Table::new(vec!["NAME", "B"]);
        table.push(row(&["a-longer-name", "1"]));
        table.clear_rows();
        table.push(row(&["x", "2"]));
        assert_eq!(table.rows_text(), "x               2\n");
    }
}
