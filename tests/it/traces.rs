//! Traces of others pass on.

use serde_json::Value;

use crate::support::{ECHO, Environment, json};

pub(crate) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
pub(crate) const SPAN: &str = "00f067aa0ba902b7";

/// The values that the request's fields of this name had when it arrived.
pub(crate) fn arrived(echoed: &Value, name: &str) -> Vec<String> {
    let fields = echoed["fields"].as_array().expect("it tells them");
    let named = fields.iter().filter(|it| it[0].as_str().unwrap().eq_ignore_ascii_case(name));
    named.map(|it| it[1].as_str().unwrap().to_owned()).collect()
}

impl Environment {
    pub(crate) async fn traced(&self, target: &str, fields: &[(&str, &str)]) -> Value {
        let mut request = self.client.get(self.url(target));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        json(request.send().await.unwrap()).await
    }
}

#[tokio::test]
async fn without_a_collector_every_byte_of_a_trace_passes_on() {
    let environment = Environment::new().await;
    for parent in [&*format!("00-{TRACE}-{SPAN}-01"), "00-NONSENSE"] {
        let fields = [("traceparent", parent), ("tracestate", "a=1, b=2")];
        let echoed = environment.traced(ECHO, &fields).await;
        assert_eq!(arrived(&echoed, "traceparent"), [parent]);
        assert_eq!(arrived(&echoed, "tracestate"), ["a=1, b=2"]);
    }
    environment.finish().await;
}
