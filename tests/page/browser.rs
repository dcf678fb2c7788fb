//! A headless Chromium, over the protocol `WebDriver`.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

/// How long a condition in the page may take, in milliseconds.
const TIMEOUT: u64 = 30_000;
/// Key of the reference to an element in the protocol.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Keys that are no characters, as the protocol writes them.
pub const ENTER: &str = "\u{e007}";
pub const ESCAPE: &str = "\u{e00c}";
pub const RIGHT: &str = "\u{e014}";
pub const DOWN: &str = "\u{e015}";

/// A browser with one window of 1280x800. It ends with this value.
pub struct Browser {
    driver: Child,
    client: reqwest::Client,
    session: String,
}

impl Browser {
    /// Starts a browser.
    pub async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver, of the Debian package chromium-driver");
        let output = BufReader::new(driver.stdout.take().expect("its output"));
        let started = "started successfully on port ";
        let mut lines = output.lines().map(|line| line.expect("a line"));
        let port = lines.find_map(|line| Some(line.split_once(started)?.1.to_owned()));
        let port: u16 = port.expect("a port").trim_end_matches('.').parse().expect("a number");
        let client = reqwest::Client::new();
        let options = json!({"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--force-prefers-reduced-motion", "--window-size=1280,800",
        ]});
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": TIMEOUT},
        }}});
        let driver_address = format!("http://127.0.0.1:{port}/session");
        let mut browser = Self { driver, client, session: driver_address };
        let session = browser.post("", wanted).await;
        let session = session["sessionId"].as_str().expect("a session");
        browser.session = format!("{}/{session}", browser.session);
        let size = json!({"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        browser.command("Emulation.setDeviceMetricsOverride", size).await;
        browser
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let request = self.client.post(format!("{}{path}", self.session)).json(&body);
        let answer = request.send().await.expect("an answer of the driver");
        let is_fine = answer.status().is_success();
        let mut answer: Value = answer.json().await.expect("JSON");
        assert!(is_fine, "{path} {body}: {answer:#}");
        answer["value"].take()
    }

    /// Sends a command of the browser's own protocol.
    async fn command(&self, name: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({"cmd": name, "params": parameters})).await
    }

    /// Opens an address.
    pub async fn open(&self, address: &str) {
        self.post("/url", json!({ "url": address })).await;
    }

    /// Whether the user prefers a dark page.
    pub async fn set_dark(&self) {
        let dark = json!([{"name": "prefers-color-scheme", "value": "dark"}]);
        self.command("Emulation.setEmulatedMedia", json!({ "features": dark })).await;
    }

    /// Returns the value of an expression.
    pub async fn value(&self, expression: &str) -> Value {
        let script = format!("return {expression}");
        self.post("/execute/sync", json!({"script": script, "args": []})).await
    }

    /// Waits until an expression is true in the page. What it needs is checked at every frame.
    pub async fn wait_for(&self, condition: &str) {
        let script = format!(
            "const done = arguments[0]; \
             const next = () => requestAnimationFrame(check); \
             const check = () => ({condition}) ? done(true) : next(); check();"
        );
        let body = json!({"script": script, "args": []});
        self.post("/execute/async", body).await;
    }

    /// Clicks on what a selector of CSS finds first.
    pub async fn click(&self, selector: &str) {
        let found = json!({"using": "css selector", "value": selector});
        let element = self.post("/element", found).await;
        let element = element[ELEMENT].as_str().expect("an element").to_owned();
        self.post(&format!("/element/{element}/click"), json!({})).await;
    }

    /// Presses a key and releases it, wherever the focus is.
    pub async fn press(&self, key: &str) {
        let actions = json!([
            {"type": "keyDown", "value": key},
            {"type": "keyUp", "value": key},
        ]);
        let keyboard = json!([{"type": "key", "id": "keyboard", "actions": actions}]);
        self.post("/actions", json!({ "actions": keyboard })).await;
    }

    /// Returns what the page has reported as errors and warnings.
    pub async fn problems(&self) -> Vec<String> {
        let entries = self.post("/se/log", json!({"type": "browser"})).await;
        let entries = entries.as_array().expect("a list").iter();
        entries.map(|entry| entry["message"].to_string()).collect()
    }

    /// Returns a picture of the window as PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        let picture = self.command("Page.captureScreenshot", json!({"format": "png"})).await;
        BASE64_STANDARD.decode(picture["data"].as_str().expect("a picture")).expect("base64")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Without the end of its session, the browser would survive the driver.
        _ = end_session(&self.session);
        _ = self.driver.kill();
        _ = self.driver.wait();
    }
}

/// Ends a session, and waits until the browser has ended.
fn end_session(address: &str) -> io::Result<()> {
    let path = address.trim_start_matches("http://");
    let (host, path) = path.split_once('/').expect("a path");
    let mut stream = TcpStream::connect(host)?;
    let head = format!("DELETE /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    // The driver answers when the browser has ended, and keeps the connection open.
    stream.read_exact(&mut [0])?;
    Ok(())
}
