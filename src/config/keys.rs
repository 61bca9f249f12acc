//! Which keys there are, learnt from the structs themselves, and which of them was meant.

use serde::Deserialize;
use serde::de::value::Error as Refused;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use toml::de::{DeTable, DeValue};

use super::{
    AdminConfig, ApplicationConfig, AuditConfig, ClientConfig, Config, FacadeConfig, HostConfig,
    Http2Config, IdentityConfig, LogConfig, PolicyConfig, ProxyConfig, StoreConfig, TlsConfig,
    TraceConfig, UpstreamConfig,
};

/// Stands for a name that the user chooses, as in `[identity.NAME]`.
const NAME: &str = "*";

/// The tables whose entries have names.
pub(super) const NAMED: [&str; 4] = ["host", "application", "identity", "client"];

/// Every table with its keys.
pub(crate) fn tables() -> Vec<(&'static [&'static str], &'static [&'static str])> {
    vec![
        (&[], fields::<Config>()),
        (&["proxy"], fields::<ProxyConfig>()),
        (&["proxy", "tls"], fields::<TlsConfig>()),
        (&["proxy", "http2"], fields::<Http2Config>()),
        (&["upstream"], fields::<UpstreamConfig>()),
        (&["host", NAME], fields::<HostConfig>()),
        (&["application", NAME], fields::<ApplicationConfig>()),
        (&["identity", NAME], fields::<IdentityConfig>()),
        (&["client", NAME], fields::<ClientConfig>()),
        (&["policy"], fields::<PolicyConfig>()),
        (&["facade"], fields::<FacadeConfig>()),
        (&["store"], fields::<StoreConfig>()),
        (&["admin"], fields::<AdminConfig>()),
        (&["audit"], fields::<AuditConfig>()),
        (&["log"], fields::<LogConfig>()),
        (&["trace"], fields::<TraceConfig>()),
    ]
}

/// A key that nothing knows, or that should be a table and is not.
pub(super) struct Misfit {
    pub(super) path: Vec<String>,
    /// Its place in the text.
    pub(super) at: usize,
    pub(super) should_be_table: bool,
}

/// The first key that fits no struct. Serde alone would take an array for a struct, element by
/// element, and a typo for nothing at all.
pub(super) fn first_misfit(root: &DeTable<'_>) -> Option<Misfit> {
    let mut misfits = Vec::new();
    collect_misfits(root, &mut Vec::new(), &mut misfits);
    // The table is sorted by name; the user reads from the top.
    misfits.into_iter().min_by_key(|misfit| misfit.at)
}

fn collect_misfits(table: &DeTable<'_>, path: &mut Vec<String>, misfits: &mut Vec<Misfit>) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        let should_be_table = is_table(path);
        match value.get_ref().as_table() {
            Some(inner) if should_be_table => collect_misfits(inner, path, misfits),
            _ if !should_be_table && keys_beside(path).contains(&key.get_ref().as_ref()) => {}
            _ => misfits.push(Misfit { path: path.clone(), at: key.span().start, should_be_table }),
        }
        path.pop();
    }
}

/// What to write instead of an unknown key.
pub(super) fn cure(path: &[String]) -> String {
    let key = path.last().map_or("", String::as_str);
    let here = keys_beside(path);
    if let Some(near) = nearest(key, here) {
        return format!("did you mean `{near}`?");
    }
    let elsewhere = tables().into_iter().find(|(table, keys)| {
        !table.is_empty() && keys.contains(&key) && !table.starts_with(&["identity"])
    });
    match elsewhere {
        Some((table, _)) => format!("it belongs into [{}]", table.join(".").replace(NAME, "NAME")),
        None => format!("the keys here are {}", here.join(", ")),
    }
}

/// The path of the key whose value stands at `offset`.
pub(super) fn path_at(root: &DeTable<'_>, offset: usize) -> Vec<String> {
    let mut path = Vec::new();
    let mut table = Some(root);
    while let Some((key, value)) = table.and_then(|table| holding(table, offset)) {
        path.push(key);
        table = value.as_table();
    }
    path
}

fn holding<'t, 'i>(table: &'t DeTable<'i>, offset: usize) -> Option<(String, &'t DeValue<'i>)> {
    let entry = table.iter().find(|(_, value)| covers(value.get_ref(), value.span(), offset))?;
    Some((entry.0.get_ref().to_string(), entry.1.get_ref()))
}

/// A `[table]`'s own span is its header only, so its entries are asked too.
fn covers(value: &DeValue<'_>, span: std::ops::Range<usize>, offset: usize) -> bool {
    span.contains(&offset) || value.as_table().is_some_and(|inner| holding(inner, offset).is_some())
}

fn is_table(path: &[String]) -> bool {
    let named = matches!(path, [kind] if NAMED.contains(&kind.as_str()));
    named || tables().iter().any(|(table, _)| !table.is_empty() && matches(table, path))
}

/// The keys of the table that the last part of `path` stands in.
fn keys_beside(path: &[String]) -> &'static [&'static str] {
    let table = &path[..path.len().saturating_sub(1)];
    tables().into_iter().find(|(known, _)| matches(known, table)).map_or(&[], |(_, keys)| keys)
}

fn matches(table: &[&str], path: &[String]) -> bool {
    table.len() == path.len() && table.iter().zip(path).all(|(a, b)| *a == NAME || a == b)
}

fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let distance = |known: &str| strsim::damerau_levenshtein(&key.to_lowercase(), known);
    let near = known.iter().copied().min_by_key(|known| distance(known))?;
    (distance(near) <= 1 + near.len() / 5).then_some(near)
}

/// The field names of a struct, as its derived `Deserialize` announces them.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // Always refused: the announcement is all that is wanted.
    let _ = T::deserialize(FieldNames(&mut fields));
    fields
}

struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Refused;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Refused> {
        *self.0 = fields;
        Err(Refused::custom("announced"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Refused> {
        Err(Refused::custom("not a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
