//! Lists that really page: as many records as the rules say, different on every page.
//!
//! Pure: a documented list goes in as the pattern, one page of a longer list comes out.

use std::ops::Range;

use serde_json::{Map, Value, json};

/// What a request says about the page it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) number: u64,
    pub(super) size: u64,
}

/// A list resource as it was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// Scheme and authority of the links.
    pub(super) base: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    /// How many records the whole list has.
    pub(super) total: u64,
}

impl Page {
    /// Reads `page` and `perPage`; the error is the parameter that is no such number.
    pub(super) fn read(query: &str) -> Result<Self, &'static str> {
        let number = number(query, "page")?.unwrap_or(1);
        let size = number_within(query, "perPage")?.unwrap_or(100);
        if number == 0 { Err("page") } else { Ok(Self { number, size }) }
    }

    /// Reads `pageToken` and `recordCount`, with which team messaging pages.
    pub(super) fn read_token(query: &str) -> Result<Self, &'static str> {
        let size = number_within(query, "recordCount")?.unwrap_or(30);
        let number = match parameter(query, "pageToken") {
            None => 1,
            Some(token) => {
                let digits = token.strip_prefix(TOKEN).ok_or("pageToken")?;
                digits.parse().map_err(|_| "pageToken")?
            }
        };
        Ok(Self { number, size })
    }

    fn count(self, total: u64) -> u64 {
        total.div_ceil(self.size)
    }

    /// The indices of the records on this page; empty beyond the last one.
    fn records(self, total: u64) -> Range<u64> {
        let start = (self.number - 1).saturating_mul(self.size).min(total);
        start..start.saturating_add(self.size).min(total)
    }
}

/// Whether a documented answer is a list that can page, and by tokens.
pub(super) fn pages(example: &Value) -> Option<bool> {
    let records = example.get("records")?.as_array()?;
    let navigation = example.get("navigation");
    let by_token = navigation.is_some_and(|nav| nav.get("nextPageToken").is_some());
    let paged = navigation.is_some() || example.get("paging").is_some();
    (paged && records.iter().any(Value::is_object)).then_some(by_token)
}

/// One page of the list, made in the likeness of `example`.
pub(super) fn page(example: &Value, page: Page, by_token: bool, asked: &Asked<'_>) -> Value {
    let patterns = example.get("records").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let records: Vec<Value> = page
        .records(asked.total)
        .map(|index| vary(&patterns[index_of(index, patterns.len())], index))
        .collect();
    let mut body = example.as_object().cloned().unwrap_or_default();
    body.insert("records".into(), records.into());
    if by_token {
        body.insert("navigation".into(), token_navigation(page, asked.total));
    } else {
        body.insert("uri".into(), link(asked, page).into());
        body.insert("paging".into(), paging(page, asked.total));
        body.insert("navigation".into(), navigation(page, asked));
    }
    Value::Object(body)
}

fn paging(page: Page, total: u64) -> Value {
    let records = page.records(total);
    let mut paging = json!({
        "page": page.number,
        "perPage": page.size,
        "totalPages": page.count(total),
        "totalElements": total,
    });
    if !records.is_empty() {
        paging["pageStart"] = records.start.into();
        paging["pageEnd"] = (records.end - 1).into();
    }
    paging
}

fn navigation(page: Page, asked: &Asked<'_>) -> Value {
    let last = page.count(asked.total).max(1);
    let mut links = Map::new();
    let mut add = |name: &str, number| {
        let uri = link(asked, Page { number, ..page });
        links.insert(name.into(), json!({ "uri": uri }));
    };
    add("firstPage", 1);
    if page.number > 1 {
        add("previousPage", (page.number - 1).min(last));
    }
    if page.number < last {
        add("nextPage", page.number + 1);
    }
    add("lastPage", last);
    Value::Object(links)
}

fn token_navigation(page: Page, total: u64) -> Value {
    let mut tokens = Map::new();
    if page.number > 1 {
        tokens.insert("prevPageToken".into(), format!("{TOKEN}{}", page.number - 1).into());
    }
    if page.number < page.count(total) {
        tokens.insert("nextPageToken".into(), format!("{TOKEN}{}", page.number + 1).into());
    }
    Value::Object(tokens)
}

/// The URI of a page: the other parameters stay as they were asked.
fn link(asked: &Asked<'_>, page: Page) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let others = form_urlencoded::parse(asked.query.as_bytes());
    query.extend_pairs(others.filter(|(name, _)| !OURS.contains(&name.as_ref())));
    query.append_pair("page", &page.number.to_string());
    query.append_pair("perPage", &page.size.to_string());
    format!("{}{}?{}", asked.base, asked.path, query.finish())
}

/// The record with an id of its own, wherever the id stands in it.
fn vary(pattern: &Value, index: u64) -> Value {
    let mut record = pattern.clone();
    match pattern.get("id") {
        Some(Value::String(id)) if !id.is_empty() => {
            replace(&mut record, id, &format!("{id}{:04}", index + 1));
        }
        Some(Value::Number(id)) => {
            let id = id.as_u64().unwrap_or(0);
            let new = (id.saturating_mul(10_000)).saturating_add(index + 1);
            replace(&mut record, &id.to_string(), &new.to_string());
            record["id"] = new.into();
        }
        _ if record.is_object() => record["id"] = (index + 1).to_string().into(),
        _ => {}
    }
    record
}

fn replace(value: &mut Value, old: &str, new: &str) {
    match value {
        Value::String(text) => {
            let path = path_at(text);
            if text[path..].contains(old) {
                *text = format!("{}{}", &text[..path], text[path..].replace(old, new));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, old, new)),
        Value::Object(members) => members.values_mut().for_each(|item| replace(item, old, new)),
        _ => {}
    }
}

/// Where the path of a link begins, whose host may hold an id too; other text is taken whole.
fn path_at(text: &str) -> usize {
    let Some((scheme, rest)) = text.split_once("://") else { return 0 };
    scheme.len() + "://".len() + rest.find('/').unwrap_or(rest.len())
}

/// The value of a query parameter, decoded.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn number(query: &str, name: &'static str) -> Result<Option<u64>, &'static str> {
    parameter(query, name).map(|text| text.parse().map_err(|_| name)).transpose()
}

fn number_within(query: &str, name: &'static str) -> Result<Option<u64>, &'static str> {
    match number(query, name)? {
        Some(0) => Err(name),
        size => Ok(size.map(|size| size.min(1000))),
    }
}

fn index_of(index: u64, len: usize) -> usize {
    usize::try_from(index % len as u64).expect("a remainder of a usize is one")
}

const TOKEN: &str = "sandbox-page-";
/// Parameters that never enter a link: those set anew, and those that must not be repeated.
const OURS: [&str; 4] = ["page", "perPage", "access_token", "_method"];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn example() -> Value {
        json!({
            "records": [{"id": "a", "uri": "https://x/a"}, {"id": 7, "uri": "https://x/7"}],
            "paging": {}, "navigation": {},
        })
    }

    fn asked(query: &str) -> Asked<'_> {
        Asked { base: "http://s", path: "/call-log", query, total: 95 }
    }

    #[test]
    fn ninety_five_records_in_tens_make_ten_pages() {
        let body = |query| page(&example(), Page::read(query).unwrap(), false, &asked(query));
        let first = body("perPage=10&view=Detailed");
        assert_eq!(first["paging"]["totalPages"], 10);
        assert_eq!(first["records"][0]["uri"], "https://x/a0001");
        assert_eq!(
            first["navigation"]["nextPage"]["uri"],
            "http://s/call-log?view=Detailed&page=2&perPage=10"
        );
        let last = body("perPage=10&page=10");
        assert_eq!(last["records"].as_array().unwrap().len(), 5);
        assert_eq!(last["paging"]["pageStart"], 90);
        assert_eq!(last["paging"]["pageEnd"], 94);
        assert!(last["navigation"].get("nextPage").is_none(), "{last}");
        assert_eq!(body("page=11&perPage=10")["records"], json!([]));
    }

    #[test]
    fn an_id_that_is_part_of_the_host_leaves_the_host_alone() {
        let record = json!({"id": "1", "uri": "http://127.0.0.1:81/state/1", "in": "1"});
        let expected =
            json!({"id": "10001", "uri": "http://127.0.0.1:81/state/10001", "in": "10001"});
        assert_eq!(vary(&record, 0), expected);
    }

    #[test]
    fn a_page_that_is_no_number_is_refused_by_name() {
        assert_eq!(Page::read("page=x"), Err("page"));
        assert_eq!(Page::read("page=0"), Err("page"));
        assert_eq!(Page::read("perPage=0"), Err("perPage"));
        assert_eq!(Page::read_token("pageToken=x"), Err("pageToken"));
    }

    proptest! {
        #[test]
        fn following_next_page_visits_every_record_once(size in 1u64..200, total in 0u64..400) {
            let mut query = format!("perPage={size}");
            let mut seen = HashSet::new();
            loop {
                let asked = Asked { total, query: &query, ..asked("") };
                let body = page(&example(), Page::read(&query).unwrap(), false, &asked);
                for record in body["records"].as_array().unwrap() {
                    prop_assert!(seen.insert(record["id"].to_string()), "{} twice", record["id"]);
                }
                let Some(next) = body["navigation"]["nextPage"]["uri"].as_str() else { break };
                query = next.split_once('?').unwrap().1.to_owned();
            }
            prop_assert_eq!(seen.len() as u64, total);
        }
    }
}
