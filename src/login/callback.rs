//! The loopback address that RingCentral sends the browser back to (RFC 8252 §7.3): it listens until one
//! right callback has come, and answers everything else without believing it.
//!
//! Bounded in every way: in time by the clock, in connections, each of them in time and size.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::select_all;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::LoginError;
use crate::clock::Clock;
use crate::oauth::authorization::{Authorization, Callback, Refusal};
use crate::secret::Secret;

/// The bound redirect address of one login.
#[derive(Debug)]
pub struct Listener {
    listeners: Vec<TcpListener>,
    path: Arc<str>,
}

impl Listener {
    /// Binds the address of `redirect_uri`, which has to be `http` on this machine.
    pub async fn bind(redirect_uri: &str) -> Result<Self, LoginError> {
        let not_here = || LoginError::NotHere { redirect_uri: redirect_uri.to_owned() };
        let uri: Uri = redirect_uri.parse().map_err(|_| not_here())?;
        let hosts = hosts(&uri).ok_or_else(not_here)?;
        let port = uri.port_u16().unwrap_or(80);
        let mut listeners = Vec::new();
        for host in hosts {
            let address = SocketAddr::new(host, port);
            match TcpListener::bind(address).await {
                Ok(listener) => listeners.push(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    return Err(LoginError::InUse { address });
                }
                // A machine without IPv6 has one `localhost`.
                Err(_) if !listeners.is_empty() => {}
                Err(source) => return Err(LoginError::Listen { address, source }),
            }
        }
        Ok(Self { listeners, path: uri.path().into() })
    }

    /// Waits for the browser of `login`, and gives the code that it brings.
    pub async fn wait(
        self,
        login: &Authorization,
        clock: &Clock,
        patience: Duration,
    ) -> Result<Secret, LoginError> {
        let login = Arc::new(login.clone());
        let mut connections = JoinSet::new();
        let mut late = std::pin::pin!(clock.sleep(patience));
        loop {
            let has_room = connections.len() < MOST_CONNECTIONS;
            tokio::select! {
                () = &mut late => return Err(LoginError::Late { after: patience }),
                Some(ended) = connections.join_next() => match ended {
                    Ok(Some(Callback::Code(code))) => return Ok(code),
                    Ok(Some(Callback::Refused(refusal))) => return Err(LoginError::Refused(refusal)),
                    Ok(Some(Callback::Stranger) | None) => {}
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                stream = self.accept(), if has_room => {
                    // Out of files: the time is bounded all the same.
                    let Ok(stream) = stream else { continue };
                    let (login, path) = (Arc::clone(&login), Arc::clone(&self.path));
                    let end = clock.now() + CONNECTION_PATIENCE;
                    let clock = clock.clone();
                    connections.spawn(async move {
                        tokio::select! {
                            heard = serve(stream, &login, &path) => heard,
                            () = clock.sleep_until(end) => None,
                        }
                    });
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<TcpStream> {
        let each = self.listeners.iter().map(|listener| Box::pin(listener.accept()));
        let (accepted, ..) = select_all(each).await;
        accepted.map(|(stream, _)| stream)
    }
}

/// The addresses of a loopback host.
fn hosts(uri: &Uri) -> Option<Vec<IpAddr>> {
    if uri.scheme_str() != Some("http") {
        return None;
    }
    let host = uri.host()?.trim_matches(['[', ']']);
    if host.eq_ignore_ascii_case("localhost") {
        return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let ip: IpAddr = host.parse().ok()?;
    ip.is_loopback().then(|| vec![ip])
}

/// Serves one request, and gives what it brought when the answer is out.
async fn serve(stream: TcpStream, login: &Authorization, path: &str) -> Option<Callback> {
    let heard = Mutex::new(None);
    let service = service_fn(async |request: Request<Incoming>| {
        let (page, callback) = judge(login, path, request.method(), request.uri());
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(callback);
        Ok::<_, Infallible>(page.response())
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .header_read_timeout(None)
        .max_buf_size(MOST_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // A browser that is gone before it has the page has brought what it brought.
    let _ = connection.await;
    heard.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What a request is worth. PURE.
fn judge(login: &Authorization, path: &str, method: &Method, target: &Uri) -> (Page, Callback) {
    if target.path() != path {
        return (Page::Elsewhere, Callback::Stranger);
    }
    if method != Method::GET {
        return (Page::OtherMethod, Callback::Stranger);
    }
    let callback = login.read(target.query().unwrap_or_default());
    let page = match &callback {
        Callback::Code(_) => Page::Welcome,
        Callback::Refused(refusal) => Page::Refused(refusal.clone()),
        Callback::Stranger => Page::Stranger,
    };
    (page, callback)
}

/// What the browser shows.
enum Page {
    Welcome,
    Refused(Refusal),
    Stranger,
    Elsewhere,
    OtherMethod,
}

impl Page {
    fn response(&self) -> Response<Full<Bytes>> {
        let (status, title, text) = match self {
            Self::Welcome => (
                StatusCode::OK,
                "You can close this window",
                "RingCentral has sent you back. The terminal says how the login ends.".to_owned(),
            ),
            Self::Refused(refusal) => {
                (StatusCode::OK, "RingCentral refused the login", refusal.to_string())
            }
            Self::Stranger => (
                StatusCode::BAD_REQUEST,
                "This is not the login that is waited for",
                "Use the address that the terminal shows, and only that.".to_owned(),
            ),
            Self::Elsewhere => (StatusCode::NOT_FOUND, "There is nothing here", String::new()),
            Self::OtherMethod => {
                (StatusCode::METHOD_NOT_ALLOWED, "There is nothing here", String::new())
            }
        };
        let html = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
             <style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:20vh auto 0;\
             padding:0 1rem;color-scheme:light dark}}</style></head>\
             <body><h1>{title}</h1><p>{text}</p></body></html>\n"
        );
        let mut response = Response::new(Full::new(Bytes::from(html)));
        *response.status_mut() = status;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
        fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            fields.insert(ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }
}

/// Browsers open a handful.
const MOST_CONNECTIONS: usize = 32;
const CONNECTION_PATIENCE: Duration = Duration::from_secs(10);
const MOST_HEAD_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_http_is_listened_on() {
        let hosts = |text: &str| hosts(&text.parse().unwrap()).map(|all| all.len());
        assert_eq!(hosts("http://127.0.0.1:8765/callback"), Some(1));
        assert_eq!(hosts("http://[::1]:8765/callback"), Some(1));
        assert_eq!(hosts("http://localhost:8765/"), Some(2));
        assert_eq!(hosts("https://127.0.0.1:8765/callback"), None);
        assert_eq!(hosts("http://10.0.0.1:8765/callback"), None);
        assert_eq!(hosts("https://app.example.com/callback"), None);
    }

    #[tokio::test]
    async fn an_address_elsewhere_is_refused_with_the_cure() {
        let error = Listener::bind("https://app.example.com/callback").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "redirect_uri https://app.example.com/callback does not lead to this program: use --paste, \
             or register and configure one such as http://127.0.0.1:8765/callback"
        );
    }
}
