//! How commands speak: one line for people, or one JSON object a line for programs.

use std::io::{self, BufRead as _, IsTerminal, Write};

use serde::Serialize;

/// Whether results are for people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Output {
    /// Print one JSON object per line, with stable keys; an error is `{"error": …}` on standard error
    #[arg(long, global = true)]
    pub json: bool,
}

impl Output {
    /// Prints a result: as JSON, or as the text that `people` makes of it.
    pub fn show<T: Serialize>(self, value: &T, people: impl FnOnce(&T) -> String) -> io::Result<()> {
        let line = if self.json { serde_json::to_string(value)? } else { people(value) };
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    }

    /// Prints a line of a story that programs do not need.
    pub fn tell(self, text: impl AsRef<str>) {
        if !self.json {
            println!("{}", text.as_ref());
        }
    }

    /// Progress can be redrawn in place.
    pub fn is_live(self) -> bool {
        !self.json && io::stderr().is_terminal()
    }
}

/// Asks the person at the terminal before something that cannot be undone; an error if the answer is not yes.
///
/// Nobody is asked where `yes` was given, or where there is no terminal: a script has meant what it says.
pub fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes || !io::stdin().is_terminal() {
        return Ok(());
    }
    anyhow::ensure!(ask(question)?, "the answer was not yes; nothing was done");
    Ok(())
}

/// Asks the person at the terminal; whether the answer is yes.
pub fn ask(question: &str) -> io::Result<bool> {
    eprint!("{question}: ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "yes" | "y" | "Yes" | "YES"))
}

/// A table with aligned columns; numbers to the right.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([header[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| {
            let numeric =
                cell.starts_with(|first: char| first.is_ascii_digit() || first == '-' || first == '.');
            if numeric { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = line(&mut header.iter().copied());
    let body = rows.iter().map(|row| line(&mut row.iter().map(String::as_str)));
    std::iter::once(head).chain(body).collect::<Vec<_>>().join("\n")
}

/// Sides for people: `1 x 28 x 28`.
pub fn by(sides: &[u32]) -> String {
    sides.iter().map(u32::to_string).collect::<Vec<_>>().join(" x ")
}

/// A number of bytes as people read it.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text =
            table(&["site", "auroc"], &[vec!["a".into(), "0.91".into()], vec!["long".into(), "1".into()]]);
        assert_eq!(text, "site  auroc\na      0.91\nlong      1");
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_684_360), "1.7 MB");
    }
}
