//! Real web pages in a real browser, which try what they can with a proxy on loopback (threat 33).

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use ringbearer::sandbox::Rules;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::chromium::{FLAGS, Page};
use crate::support::{ECHO, Environment, LONG_IDLE, Wishes, has_program};
use crate::wire::Wire;

const SMS: &str = "/restapi/v1.0/account/~/extension/~/sms";

/// A site with nothing on it.
struct Site {
    origin: String,
    serving: JoinHandle<()>,
}

impl Site {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://localhost:{}", listener.local_addr().unwrap().port());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut wire = Wire::over(stream);
                if wire.head().await.is_some() {
                    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\
                                Connection: close\r\n\r\n<body>";
                    // A browser may have turned away.
                    let _ = wire.stream.write_all(page.as_bytes()).await;
                }
            }
        });
        Self { origin, serving }
    }
}

/// A browser that shows one page. It is ended when it is dropped.
pub(crate) struct Browser {
    child: Child,
    profile: TempDir,
}

impl Browser {
    pub(crate) fn open(url: &str) -> Self {
        Self::open_with(url, &[])
    }

    fn open_with(url: &str, flags: &[String]) -> Self {
        let profile = TempDir::new().unwrap();
        let mut command = Command::new("chromium");
        command.args(FLAGS.split_whitespace()).args(flags).arg(url).process_group(0);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), profile }
    }

    pub(crate) async fn page(&self) -> Page {
        Page::shown(self.profile.path().to_str().unwrap()).await
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It has a group of its own. It may have ended already.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A proxy that knows no page, or this one.
async fn environment(cors_origin: Option<&str>) -> Environment {
    with(&cors_origin.map_or(String::new(), |origin| format!("cors_origins = \"{origin}\"\n")))
        .await
}

/// A proxy with these lines.
async fn with(lines: &str) -> Environment {
    let rules = Rules { own_links: true, ..Rules::unlimited() };
    // The usual hosts only.
    let proxy = format!("{LONG_IDLE}{lines}# hosts = \n");
    let identity = "jwt = \"sandbox-jwt\"\n[host.ws]\nurl = \"ws://127.0.0.1:{port}\"\n".to_owned();
    let environment =
        Environment::with(Wishes { rules, proxy, identity, ..Wishes::default() }).await;
    environment.control().wait_until(|counts| counts.token_answers == 1).await;
    environment
}

/// What a page does to get something done: each attempt in turn, with its outcome as a script sees it.
fn attempts(base: &str) -> String {
    let (echo, sms) = (format!("{base}{ECHO}"), format!("{base}{SMS}"));
    let socket = format!("{base}/.ringbearer/ws/ws?access_token=x").replacen("http", "ws", 1);
    format!(
        "(async () => {{
            const seen = [];
            const attempt = async (name, what) => {{
                try {{ seen.push(`${{name}}: ${{await what()}}`) }} catch {{ seen.push(`${{name}}: failed`) }}
            }};
            const settled = (thing, good, bad) => new Promise((resolve, reject) => {{
                thing[good] = () => resolve('done');
                thing[bad] = reject;
            }});
            await attempt('read', async () => (await fetch('{echo}')).status);
            await attempt('change', async () =>
                (await fetch('{echo}', {{ method: 'PUT', headers: {{ 'X-Custom': 'a' }} }})).status);
            await attempt('message', async () =>
                (await fetch('{sms}', {{ method: 'POST', mode: 'no-cors', body: '{{}}' }})).type);
            await attempt('form', async () => {{
                const frame = document.createElement('iframe');
                const form = document.createElement('form');
                Object.assign(frame, {{ name: 'frame' }});
                Object.assign(form, {{ action: '{sms}', method: 'post', target: 'frame' }});
                document.body.append(frame, form);
                form.submit();
                await settled(frame, 'onload', 'onerror');
                frame.remove();
                return 'done';
            }});
            await attempt('image', () => {{
                const image = new Image();
                image.src = '{echo}?image';
                return settled(image, 'onload', 'onerror');
            }});
            await attempt('socket', () => settled(new WebSocket('{socket}'), 'onopen', 'onerror'));
            return seen.join(', ');
        }})()"
    )
}

#[tokio::test]
async fn no_page_gets_anything_through_unless_it_is_named() {
    if !has_program("chromium", "apt-get install chromium") {
        return;
    }
    let site = Site::start().await;
    let (strange, friendly) = (environment(None).await, environment(Some(&site.origin)).await);
    let browser = Browser::open(&site.origin);
    let mut page = browser.page().await;
    page.until("location.origin + (document.body ? '' : ' loads')", &site.origin).await;

    let before = strange.control().counts().requests;
    let seen = page.awaited(&attempts(&strange.url(""))).await;
    assert_eq!(
        seen,
        "read: failed, change: failed, message: opaque, form: done, image: failed, socket: failed"
    );
    assert_eq!(strange.control().counts().requests, before, "nothing has reached RingCentral");

    let seen = page.awaited(&attempts(&friendly.url(""))).await;
    // The image says whose it is to nobody, and the socket's token is none.
    assert_eq!(
        seen,
        "read: 200, change: 200, message: opaque, form: done, image: failed, socket: failed"
    );
    let script = format!(
        "fetch('{}', {{ method: 'POST' }}).then(async answer => {{
            const {{ uri, ws_access_token }} = await answer.json();
            const socket = new WebSocket(`${{uri}}?access_token=${{ws_access_token}}`);
            await new Promise((resolve, reject) => {{ socket.onopen = resolve; socket.onerror = reject }});
            return [answer.headers.get('RCRequestId') !== null, uri].join(' ');
        }})",
        friendly.url("/restapi/oauth/wstoken")
    );
    let socket = friendly.url("/.ringbearer/ws/ws").replacen("http", "ws", 1);
    assert_eq!(page.awaited(&script).await, format!("true {socket}"));
    let arrived: Vec<_> = friendly.control().log().into_iter().map(|it| it.target).collect();
    let image = arrived.iter().filter(|target| target.ends_with("?image")).count();
    let messages = arrived.iter().filter(|target| *target == SMS).count();
    assert_eq!((image, messages), (0, 2), "the form's frame says whose it is, the image does not");
    site.serving.abort();
}

/// DNS rebinding: the page's own name leads to the proxy by now, and its browser takes the proxy for
/// the page's own site, so that nothing is cross-site any more.
#[tokio::test]
async fn a_page_whose_own_name_is_made_to_lead_here_gets_nothing_through() {
    if !has_program("chromium", "apt-get install chromium") {
        return;
    }
    for (lines, seen) in [
        ("", "read: 421, change: 421, message: basic, form: done, image: failed, socket: failed"),
        (
            "hosts = [\"evil.test\"]\n",
            "read: 200, change: 200, message: basic, form: done, image: failed, socket: failed",
        ),
    ] {
        let environment = with(lines).await;
        let origin = format!("http://evil.test:{}", environment.address().port());
        let leads_here = "--host-resolver-rules=MAP evil.test 127.0.0.1".to_owned();
        let browser = Browser::open_with(&origin, &[leads_here]);
        let mut page = browser.page().await;
        page.until("location.origin + (document.body ? '' : ' loads')", &origin).await;
        let before = environment.control().counts().requests;
        assert_eq!(page.awaited(&attempts(&origin)).await, seen);
        let after = environment.control().counts().requests;
        // Without the name among `hosts`, nothing; with it, all but the socket, whose token is none.
        assert_eq!(after > before, !lines.is_empty(), "{before} before, {after} after");
        let log = environment.control().log();
        let messages = log.iter().filter(|arrival| arrival.target == SMS).count();
        assert_eq!(messages, if lines.is_empty() { 0 } else { 2 });
        drop(page);
        environment.finish().await;
    }
}

#[tokio::test]
async fn no_other_name_of_this_machine_lets_a_strange_page_through() {
    if !has_program("chromium", "apt-get install chromium") {
        return;
    }
    let site = Site::start().await;
    let (strange, friendly) = (environment(None).await, environment(Some(&site.origin)).await);
    let browser = Browser::open(&site.origin);
    let mut page = browser.page().await;
    page.until("location.origin + (document.body ? '' : ' loads')", &site.origin).await;
    let before = strange.control().counts().requests;
    let names = [
        "localhost",
        "localhost.",
        "app.localhost",
        "0.0.0.0",
        "127.1",
        "2130706433",
        "0x7f.1",
        "[::ffff:7f00:1]",
    ];
    for name in names {
        let base = format!("http://{name}:{}", strange.address().port());
        let seen = page.awaited(&attempts(&base)).await;
        assert!(seen.starts_with("read: failed, change: failed, message: "), "{name}: {seen}");
        assert!(seen.ends_with("image: failed, socket: failed"), "{name}: {seen}");
        assert_eq!(strange.control().counts().requests, before, "{name}: {seen}");
    }
    // The same by one of these names reaches the sandbox where the page is allowed.
    let base = format!("http://localhost:{}", friendly.address().port());
    let seen = page.awaited(&attempts(&base)).await;
    assert!(seen.starts_with("read: 200, change: 200, message: opaque, form: done"), "{seen}");
    site.serving.abort();
}
