//! The pictures of the documentation. `make screenshots` writes them.

use std::path::Path;

use crate::{OpenPage, families};

async fn save(page: &OpenPage, name: &str) {
    page.browser.wait_for("document.querySelector('#graph:not(.moving)') !== null").await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images").join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, page.browser.screenshot().await).expect("a file");
}

async fn select(page: &OpenPage, name: &str) {
    page.browser.click(&format!(".node[aria-label^='{name},']")).await;
    let shown = "document.querySelector('#panel h2')?.textContent";
    page.browser.wait_for(&format!("{shown} === '{name}'")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the pictures of the documentation: make screenshots"]
async fn the_pictures_of_the_documentation() {
    let flask = OpenPage::of(families::flask()).await;
    select(&flask, "python").await;
    save(&flask, "ui-flask.png").await;

    let layered = OpenPage::of(families::layered()).await;
    layered.browser.wait_for("document.querySelectorAll('#labels text').length > 30").await;
    save(&layered, "ui-600-images.png").await;
    layered.browser.set_dark().await;
    select(&layered, "framework-014").await;
    layered.browser.click("#tab-impact").await;
    save(&layered, "ui-600-images-impact.png").await;
}
