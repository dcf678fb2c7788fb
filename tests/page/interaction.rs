//! What a user does with the page.

use serde_json::{Value, json};

use crate::{
    OpenPage,
    browser::{DOWN, ENTER, ESCAPE, RIGHT},
    families,
};

const PANEL: &str = "document.querySelector('#panel').innerText";

/// Returns the condition that a node has this description: its name, and its state.
fn node(description: &str) -> String {
    format!("document.querySelector('.node[aria-label=\"{description}\"]') !== null")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_followed_and_a_click_shows_an_image() {
    let page = OpenPage::of(families::recorded()).await;
    let browser = &page.browser;
    assert_eq!(browser.value("document.querySelectorAll('.node').length").await, 8);
    browser.wait_for(&node("python, Building")).await;
    browser.click(".node[aria-label='tool, Failed']").await;
    browser.wait_for(&format!("{PANEL}.includes('RUN make: exit code 2')")).await;
    browser
        .wait_for("document.querySelector('.node.reached[aria-label^=\"report,\"]') !== null")
        .await;
    let faded =
        "document.querySelector('.node[aria-label^=\"pinned,\"]').classList.contains('faded')";
    assert_eq!(browser.value(faded).await, true, "it is not built on it");

    page.api.change("managedimages", "shop.python", |image| {
        image["status"]["state"] = json!("Current");
    });
    browser.wait_for(&node("python, Current")).await;

    // The panel follows, too. What a cluster says is text.
    let markup = "<img src=x onerror=\"document.title='run'\">";
    page.api.change("managedimages", "shop.tool", |image| {
        image["status"]["message"] = json!(markup);
    });
    browser.wait_for(&format!("{PANEL}.includes({})", Value::from(markup))).await;
    assert_eq!(browser.value("document.querySelector('#panel img')").await, Value::Null);

    browser.click("#tab-log").await;
    browser.wait_for(&format!("{PANEL}.includes('<b>make: *** [all] Error 2</b>')")).await;
    browser.click("#tab-impact").await;
    browser.wait_for(&format!("{PANEL}.includes('1 image on 1 level')")).await;
    assert_eq!(browser.problems().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_loads_nothing_from_elsewhere_and_says_when_the_command_ends() {
    let mut page = OpenPage::of(families::recorded()).await;
    let loaded = page
        .browser
        .value("performance.getEntriesByType('resource').map((entry) => entry.name)")
        .await;
    let loaded = loaded.as_array().expect("a list");
    assert!(loaded.len() >= 12, "{loaded:#?}");
    for address in loaded {
        let address = address.as_str().expect("an address");
        assert!(address.starts_with(&page.served.address), "{address}");
    }
    // The policy prevents what the code does not try.
    let asked = "fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)";
    let elsewhere = format!(
        "(window.asked ??= {asked}.then((is) => window.answer = is), \
                             window.answer !== undefined)"
    );
    page.browser.wait_for(&elsewhere).await;
    assert_eq!(page.browser.value("window.answer").await, "TypeError");
    let problems = page.browser.problems().await;
    assert!(problems.iter().all(|text| text.contains("Content Security Policy")), "{problems:#?}");

    page.served.stop();
    page.browser.wait_for("document.querySelector('#connection').textContent === 'stopped'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_reaches_everything() {
    let page = OpenPage::of(families::recorded()).await;
    let browser = &page.browser;
    let focused = "document.activeElement.getAttribute('aria-label')";
    // From the search into the graph.
    browser.press("/").await;
    browser.wait_for("document.activeElement.id === 'search'").await;
    for letter in "base".chars() {
        browser.press(&letter.to_string()).await;
    }
    browser.wait_for("document.querySelector('#matches').textContent === '1 match'").await;
    browser.press(DOWN).await;
    browser.wait_for(&format!("{focused}?.startsWith('base,')")).await;
    browser.press(RIGHT).await;
    browser.wait_for(&format!("/^(python|tool|pinned),/.test({focused} ?? '')")).await;
    let reached = browser.value(focused).await;
    let name = reached.as_str().and_then(|text| text.split(',').next()).expect("a name").to_owned();
    browser.press(ENTER).await;
    browser.wait_for("document.activeElement.id === 'panel'").await;
    assert_eq!(browser.value("document.querySelector('#panel h2').textContent").await, *name);
    browser.press(ESCAPE).await;
    browser.wait_for("document.querySelector('#panel').hidden").await;
    assert_eq!(browser.value(focused).await, reached, "the focus returns");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_of_600_images_is_legible() {
    let page = OpenPage::of(families::layered()).await;
    let browser = &page.browser;
    browser.wait_for("document.querySelectorAll('#labels text').length > 30").await;
    assert_eq!(browser.value("document.querySelectorAll('.node').length").await, 602);
    let labels = browser
        .value(
            "[...document.querySelectorAll('#labels text')].map((text) => { \
             const box = text.getBoundingClientRect(); \
             return [box.left, box.top, box.right, box.bottom]; })",
        )
        .await;
    let side = |label: &Value, at: usize| label[at].as_f64().expect("a number");
    let labels = labels.as_array().expect("a list");
    for (index, label) in labels.iter().enumerate() {
        assert!(side(label, 3) - side(label, 1) > 10.0, "the name is too small: {label}");
        for other in &labels[index + 1..] {
            let is_apart = side(label, 2) <= side(other, 0)
                || side(other, 2) <= side(label, 0)
                // The lines of a font are higher than its letters.
                || side(label, 3) <= side(other, 1) + 3.0
                || side(other, 3) <= side(label, 1) + 3.0;
            assert!(is_apart, "{label} {other}");
        }
    }
    // Everything is in the window.
    let drawn = browser
        .value(
            "(() => { const box = document.querySelector('#nodes').getBoundingClientRect(); \
             return [box.left, box.top, box.right, box.bottom]; })()",
        )
        .await;
    assert!(side(&drawn, 0) >= 0.0 && side(&drawn, 2) <= 1280.0, "{drawn}");
    assert!(side(&drawn, 1) >= 0.0 && side(&drawn, 3) <= 800.0, "{drawn}");

    browser.click(".node[aria-label^='framework-014,']").await;
    browser.wait_for("document.querySelector('#tab-impact') !== null").await;
    browser.click("#tab-impact").await;
    browser.wait_for(&format!("{PANEL}.includes('32 images on 2 levels')")).await;
    assert_eq!(browser.problems().await, Vec::<String>::new());
}
