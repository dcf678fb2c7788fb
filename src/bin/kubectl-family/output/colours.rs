//! The colour of each state, the same in tables, trees and drawings.

use anstyle::{AnsiColor, Style};
use comfy_table::Color;

use groundswell::api::ImageState;

/// Returns the colour of a state on a terminal.
pub const fn of_state(state: ImageState) -> Color {
    match state {
        ImageState::Current => Color::Green,
        ImageState::Building | ImageState::Checking => Color::Yellow,
        ImageState::Queued | ImageState::Held => Color::Cyan,
        ImageState::Waiting => Color::Grey,
        ImageState::Failed | ImageState::Blocked => Color::Red,
    }
}

/// Returns a text in a colour.
pub fn paint(text: &str, colour: Option<Color>) -> String {
    let colour = match colour {
        Some(Color::Green) => AnsiColor::Green,
        Some(Color::Yellow) => AnsiColor::Yellow,
        Some(Color::Cyan) => AnsiColor::Cyan,
        Some(Color::Red) => AnsiColor::Red,
        Some(Color::Grey) => AnsiColor::BrightBlack,
        _ => return text.to_owned(),
    };
    let style = Style::new().fg_color(Some(colour.into()));
    format!("{style}{text}{style:#}")
}

/// Returns the colour of a state in a drawing, as the fill of a box with dark text.
pub const fn fill_of_state(state: Option<ImageState>) -> &'static str {
    match state {
        Some(ImageState::Current) => "#c8e6c9",
        Some(ImageState::Building | ImageState::Checking) => "#fff3b0",
        Some(ImageState::Queued | ImageState::Held) => "#b3e5fc",
        Some(ImageState::Failed | ImageState::Blocked) => "#ffcdd2",
        Some(ImageState::Waiting) | None => "#eceff1",
    }
}
