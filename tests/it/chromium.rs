//! `ringbearer login` in a real browser: Chromium without a window, started the way a desktop would, its
//! user's clicks made through its remote debugging.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use futures_util::{SinkExt, StreamExt};
use ringbearer::sandbox::Rules;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::login_site::{PATIENCE, Site};
use crate::support::{has_program, settle};

/// Without a window, and without any errand of its own.
pub(crate) const FLAGS: &str = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
                     --disable-background-networking --disable-component-update --disable-sync \
                     --disable-dev-shm-usage --remote-debugging-port=0";

#[tokio::test]
async fn a_person_logs_in_with_a_real_browser() {
    if !has_program("chromium", "apt-get install chromium") {
        return;
    }
    let rules = Rules { consent_page: true, ..Rules::unlimited() };
    let site = Site::new(rules, "[identity.sales]\nlogin = true\n").await;
    let proxy = site.serve("proxy");
    assert_eq!(site.ask(&proxy, None).await.1, "RBR-202");

    let browser = Browser::install(&site);
    let environment = [("BROWSER", &*browser.script), ("PATH", "/usr/bin:/bin")];
    let login = site.start_with("login", "proxy", "", &environment);
    // It is the browser that comes, before anybody reads the address.
    site.control().wait_until(|counts| counts.requests >= 1).await;
    let mut page = browser.page().await;
    page.until("document.title", "Sandbox login").await;
    page.until(
        "document.getElementById('allow') ? (document.getElementById('allow').click(), 1) : 0",
        "1",
    )
    .await;
    page.until("document.title", "You can close this window").await;
    let shown = page.evaluate("document.body.innerText").await;
    assert!(shown.contains("The terminal says how the login ends."), "{shown}");

    let ended = login.ended().await;
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{}", ended.out);
    assert!(
        ended.out.starts_with("Log in to RingCentral in the browser that opens; "),
        "{}",
        ended.out
    );
    assert!(
        ended.out.contains("sales is logged in to test as extension 256440017"),
        "{}",
        ended.out
    );
    site.ask_until(&proxy, None, 200).await;
    assert_eq!(site.last_session(), Some(1));
    proxy.stop().await;
}

/// The browser of the person, as a script for `$BROWSER`. It is ended when it is dropped.
struct Browser {
    script: String,
    files: String,
}

impl Browser {
    fn install(site: &Site) -> Self {
        let files = site.path("chromium");
        fs::create_dir(&files).unwrap();
        // The address comes as the script's only argument.
        let text = format!(
            "#!/bin/sh\necho $$ > {files}/pid\n\
             exec chromium {FLAGS} --user-data-dir={files} \"$1\" > {files}/log 2>&1\n"
        );
        let script = site.write("browser", &text);
        fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
        Self { script, files }
    }

    async fn page(&self) -> Page {
        Page::shown(&self.files).await
    }
}

impl Page {
    /// The page that the browser with this profile shows.
    pub(crate) async fn shown(profile: &str) -> Self {
        let port = tokio::time::timeout(PATIENCE, async {
            loop {
                let found = fs::read_to_string(format!("{profile}/DevToolsActivePort"));
                if let Some(port) = found.ok().and_then(|text| text.lines().next()?.parse().ok()) {
                    break port;
                }
                settle().await;
            }
        });
        let port: u16 = port.await.expect("it can be debugged");
        let list = format!("http://127.0.0.1:{port}/json/list");
        let list = crate::support::client().get(list).send().await.unwrap().text().await.unwrap();
        let list: Vec<Value> = serde_json::from_str(&list).unwrap();
        let page = list.iter().find(|target| target["type"] == "page").expect("it shows a page");
        let url = page["webSocketDebuggerUrl"].as_str().unwrap();
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        Page { socket, asked: 0 }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let pid = fs::read_to_string(format!("{}/pid", self.files)).ok();
        let pid = pid.and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // The login gave it a group of its own. It may have ended already.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// One page, by the remote debugging protocol.
pub(crate) struct Page {
    socket: WebSocketStream<TcpStream>,
    asked: u64,
}

impl Page {
    /// Evaluates until the result is as wanted; the page may be on its way to another meanwhile.
    pub(crate) async fn until(&mut self, expression: &str, wanted: &str) {
        let mut last = String::new();
        for _ in 0..5000 {
            last = self.evaluate(expression).await;
            if last == wanted {
                return;
            }
            settle().await;
        }
        panic!("{expression} is {last:?}, never {wanted:?}");
    }

    /// The value as text; of a page that is just left, nothing.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> String {
        self.awaited(&format!("String({expression})")).await
    }

    /// The text that a promise comes to.
    pub(crate) async fn awaited(&mut self, expression: &str) -> String {
        let order = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let result = self.order("Runtime.evaluate", &order).await;
        result["result"]["value"].as_str().unwrap_or_default().to_owned()
    }

    /// What the browser answers to a command of its protocol.
    pub(crate) async fn order(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let asked = self.asked;
        let order = json!({"id": asked, "method": method, "params": params});
        self.socket.send(Message::text(order.to_string())).await.unwrap();
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            let message = message.expect("it answers").expect("it lives").unwrap();
            let Ok(text) = message.into_text() else { continue };
            let Ok(mut answer) = serde_json::from_str::<Value>(&text) else { continue };
            if answer["id"] == asked {
                return answer["result"].take();
            }
        }
    }
}
