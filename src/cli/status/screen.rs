//! Standard output: drawn over on a terminal, appended to elsewhere; in colour only where that is
//! wanted (`NO_COLOR`).

use std::io::{self, IsTerminal as _, Write as _};

use anstream::{AutoStream, ColorChoice};

/// Standard output, and what stands there.
#[derive(Debug)]
pub struct Screen {
    live: bool,
    coloured: bool,
    shown: Option<String>,
}

impl Screen {
    pub fn new() -> Self {
        let output = io::stdout();
        Self {
            live: output.is_terminal(),
            coloured: AutoStream::choice(&output) != ColorChoice::Never,
            shown: None,
        }
    }

    /// Whether what was shown is drawn over.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The terminal's width in characters; `None` where there is none to fit into.
    pub fn width(&self) -> Option<u16> {
        if self.live { comfy_table::Table::new().width() } else { None }
    }

    /// Shows a text instead of the one before; appends it, where there is no terminal and it
    /// differs.
    pub fn show(&mut self, text: &str) -> io::Result<()> {
        let plain = anstream::adapter::strip_str(text).to_string();
        let wanted = if self.coloured { text } else { plain.as_str() };
        let mut output = io::stdout().lock();
        match &self.shown {
            None => output.write_all(wanted.as_bytes())?,
            Some(before) if *before == plain => {}
            // Line by line over the old ones, then the rest is cleared: that does not flicker.
            Some(_) if self.live => {
                let lines: String = wanted.lines().flat_map(|line| [line, "\x1b[K\r\n"]).collect();
                write!(output, "{}{lines}\x1b[J", self.home())?;
            }
            Some(_) => write!(output, "\n{wanted}")?,
        }
        output.flush()?;
        self.shown = Some(plain);
        Ok(())
    }

    /// What moves the cursor to the beginning of the text that stands there.
    fn home(&self) -> String {
        let lines = self.shown.as_deref().unwrap_or_default().lines().count();
        if lines == 0 { "\r".into() } else { format!("\x1b[{lines}A\r") }
    }
}
