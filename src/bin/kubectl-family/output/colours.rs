//! The colour of each state, the same in tables, trees and drawings.

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
