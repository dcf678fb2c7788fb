//! The files of the page. They are part of the binary: the page loads nothing from elsewhere.

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub struct PageFile {
    /// Its name in the address.
    pub name: &'static str,
    /// Its media type.
    pub media_type: &'static str,
    /// Its content.
    pub content: &'static str,
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The page itself.
pub const INDEX: PageFile = PageFile {
    name: "",
    media_type: "text/html; charset=utf-8",
    content: include_str!("page/index.html"),
};

/// What the page loads.
const FILES: [PageFile; 13] = [
    PageFile {
        name: "style.css",
        media_type: "text/css; charset=utf-8",
        content: include_str!("page/style.css"),
    },
    PageFile {
        name: "icon.svg",
        media_type: "image/svg+xml",
        content: include_str!("page/icon.svg"),
    },
    PageFile {
        name: "licences.txt",
        media_type: "text/plain; charset=utf-8",
        content: include_str!("page/d3-zoom/LICENSE"),
    },
    script("d3-zoom.js", include_str!("page/d3-zoom/d3-zoom.js")),
    script("main.js", include_str!("page/main.js")),
    script("canvas.js", include_str!("page/canvas.js")),
    script("graph.js", include_str!("page/graph.js")),
    script("labels.js", include_str!("page/labels.js")),
    script("keyboard.js", include_str!("page/keyboard.js")),
    script("panel.js", include_str!("page/panel.js")),
    script("elements.js", include_str!("page/elements.js")),
    script("summary.js", include_str!("page/summary.js")),
    script("tabs.js", include_str!("page/tabs.js")),
];

const fn script(name: &'static str, content: &'static str) -> PageFile {
    PageFile { name, media_type: JAVASCRIPT, content }
}

/// Returns the file of this name.
pub fn file(name: &str) -> Option<PageFile> {
    FILES.into_iter().find(|file| file.name == name)
}
