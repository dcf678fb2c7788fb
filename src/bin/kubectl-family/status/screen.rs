//! Standard output. Text is redrawn in place on a terminal and appended elsewhere. Colours respect
//! `NO_COLOR`.

use std::io::{self, IsTerminal as _, Write as _};

use anstream::{AutoStream, ColorChoice};

/// Standard output and the text that it shows.
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

    /// Returns whether the text is redrawn in place.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Replaces the text in place. Without a terminal, it is shown once.
    pub fn show(&mut self, text: &str) -> io::Result<()> {
        let plain = anstream::adapter::strip_str(text).to_string();
        let wanted = if self.coloured { text } else { plain.as_str() };
        let mut output = io::stdout().lock();
        match &self.shown {
            None => output.write_all(wanted.as_bytes())?,
            Some(before) if *before == plain => {}
            // Overwrite line by line and then clear the rest, which avoids flicker.
            Some(_) if self.live => {
                let lines: String = wanted.lines().flat_map(|line| [line, "\x1b[K\r\n"]).collect();
                write!(output, "{}{lines}\x1b[J", self.cursor_home())?;
            }
            Some(_) => {}
        }
        output.flush()?;
        self.shown = Some(plain);
        Ok(())
    }

    /// Returns the control sequence that moves the cursor to the beginning of the shown text.
    fn cursor_home(&self) -> String {
        let lines = self.shown.as_deref().unwrap_or_default().lines().count();
        if lines == 0 { "\r".into() } else { format!("\x1b[{lines}A\r") }
    }
}
