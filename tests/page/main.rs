//! The page of `kubectl family ui` in a real browser: headless Chromium, which Debian's
//! `chromium-driver` steers. The plugin reads a played API server.

#![allow(clippy::expect_used, clippy::panic, reason = "a test reports what is wrong by failing")]

mod api_server;
mod browser;
mod families;
mod interaction;
mod screenshots;
mod served;

use api_server::ApiServer;
use browser::Browser;
use served::ServedPage;

/// A page in a browser.
struct OpenPage {
    api: ApiServer,
    browser: Browser,
    served: ServedPage,
}

impl OpenPage {
    /// Opens the page of the families in these objects, and waits until it has drawn them.
    async fn of(objects: Vec<serde_json::Value>) -> Self {
        let api = ApiServer::start(objects).await;
        let served = ServedPage::start(&api.kubeconfig());
        let browser = Browser::start().await;
        browser.open(&served.address).await;
        browser.wait_for("document.querySelector('.node') !== null").await;
        Self { api, browser, served }
    }
}
