//! Clients as people have them do through the proxy what they do directly.

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::{Environment, access_token, has_program};

const SCRIPT: &str = r#"
import sys, requests
base, token = sys.argv[1], sys.argv[2]
session = requests.Session()
session.trust_env = False
if token:
    session.headers["Authorization"] = "Bearer " + token
extension = base + "/restapi/v1.0/account/~/extension/~"

def show(answer, content=True):
    print(answer.status_code, len(answer.content), answer.text if content else "")

show(session.get(extension))
url, pages = base + "/restapi/v1.0/account/~/extension?perPage=20", 0
while url:
    page = session.get(url).json()
    pages += 1
    next_page = page["navigation"].get("nextPage")
    url = base + "/restapi" + next_page["uri"].split("/restapi")[1] if next_page else None
print(pages, page["paging"]["totalElements"])
message = {"to": [{"phoneNumber": "+15551230002"}], "text": "hi"}
print(session.post(extension + "/sms", json=message).json()["subject"])
files = {"to": (None, "+15551230002"), "attachment": ("a.png", b"\x89PNG\r\n" * 1000, "image/png")}
print(session.post(extension + "/fax", files=files).json()["faxPageCount"])
chunks = session.put(base + "/restapi/v1.0/sandbox/echo", data=iter([b"one", b"two"])).json()
print(chunks["bodyBytes"], chunks["bodySha256"])
file = extension + "/message-store/1/content/2?size=1000"
part = session.get(file, headers={"Range": "bytes=10-19"})
print(part.status_code, part.headers["content-range"], part.content.hex())
print(session.get(file, headers={"Range": "bytes=5000-"}).status_code)
head = session.head(file)
print(head.status_code, head.headers["content-length"], head.headers["etag"])
show(session.delete(extension + "/message-store/7"))
show(session.options(extension), content=False)
"#;

#[tokio::test]
async fn python_requests_does_the_same_with_and_without_the_proxy() {
    if !has_program("python3", "apt-get install python3 python3-requests") {
        return;
    }
    let environment = Environment::exact().await;
    let files = TempDir::new().unwrap();
    let script = files.path().join("client.py");
    fs::write(&script, SCRIPT).unwrap();
    let run = async |base: String, token: String| {
        let mut command = Command::new("python3");
        command.arg(&script).arg(base).arg(token);
        said(command).await
    };
    let (base, through) = (environment.sandbox.url(), environment.url(""));
    let direct = run(base, access_token(&environment.sandbox).await).await;
    let before = environment.control().counts();
    assert_eq!(run(through, String::new()).await, direct);
    let counts = environment.control().counts();
    assert_eq!(counts.api_requests - before.api_requests, before.api_requests);
    assert_eq!((before.messages_sent, counts.messages_sent), (2, 4));
}

#[tokio::test]
async fn curl_does_the_same_with_and_without_the_proxy() {
    if !has_program("curl", "apt-get install curl") {
        return;
    }
    let environment = Environment::exact().await;
    let files = TempDir::new().unwrap();
    let upload = files.path().join("upload");
    fs::write(&upload, vec![7; 3_000_000]).unwrap();
    let upload = format!("file=@{};type=image/png", upload.display());
    let extension = "/restapi/v1.0/account/~/extension/~";
    let file = format!("{extension}/message-store/1/content/2?size=1000");
    let list = "/restapi/v1.0/account/~/extension?perPage=20&page=";
    let post = ["-H", "Content-Type: application/json", "-d", r#"{"to":[{"phoneNumber":"+1"}]}"#];
    let form = ["-F", "to=+15551230002", "-F", &upload];
    let shown = "%{http_code} %{size_download} %{content_type}";
    let calls: Vec<(String, Vec<&str>)> = vec![
        (extension.to_owned(), vec![]),
        (format!("{list}1"), vec![]),
        (format!("{list}5"), vec![]),
        (
            format!("{extension}/sms"),
            [&post[..], &["-o", "/dev/null", "-w", "%{http_code}"]].concat(),
        ),
        (
            format!("{extension}/fax"),
            [&form[..], &["-o", "/dev/null", "-w", "%{http_code}"]].concat(),
        ),
        (file.clone(), vec!["-r", "10-19", "-w", shown]),
        (file.clone(), vec!["-r", "5000-", "-w", shown]),
        (file, vec!["-I", "-o", "/dev/null", "-w", "%{http_code} %header{etag}"]),
        (format!("{extension}/message-store/7"), vec!["-X", "DELETE", "-w", shown]),
        ("/restapi/v1.0/../v1.0/%2e/a//b;c?d".to_owned(), vec!["--path-as-is", "-w", shown]),
    ];
    let run = async |base: String, authorization: Option<String>| {
        let mut all = Vec::new();
        for (target, arguments) in &calls {
            let mut command = Command::new("curl");
            command.args(["-q", "-sS", "--noproxy", "*"]).args(arguments);
            command.args(authorization.iter().flat_map(|value| ["-H", value]));
            all.push(said(command.arg_of(format!("{base}{target}"))).await);
        }
        all
    };
    let token = access_token(&environment.sandbox).await;
    let direct =
        run(environment.sandbox.url(), Some(format!("Authorization: Bearer {token}"))).await;
    assert_eq!(run(environment.url(""), None).await, direct);
    assert_eq!(environment.control().counts().messages_sent, 4);
}

/// `Command` by value, for a chain.
trait ArgOf {
    fn arg_of(self, argument: String) -> Self;
}

impl ArgOf for Command {
    fn arg_of(mut self, argument: String) -> Self {
        self.arg(argument);
        self
    }
}

/// Runs a client to its end, while the servers go on.
async fn said(mut command: Command) -> String {
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output { status, stdout, stderr } = run.await.unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}
