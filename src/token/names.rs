//! A number for each name of an identity, the same for a proxy and its successors, whose lists of
//! identities differ. What is kept of an identity through a reload goes by it.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Which name, in all proxies of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityNumber(u32);

impl IdentityNumber {
    /// Its place among all names that were ever heard, from 0.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// All names that were ever heard.
#[derive(Debug, Default)]
pub struct Names {
    names: boxcar::Vec<Box<str>>,
    numbers: RwLock<HashMap<String, IdentityNumber>>,
}

impl Names {
    /// The number of this name, from now on.
    pub fn enter(&self, name: &str) -> IdentityNumber {
        if let Some(number) = self.find(name) {
            return number;
        }
        let mut numbers = self.numbers.write().unwrap_or_else(PoisonError::into_inner);
        *numbers.entry(name.to_owned()).or_insert_with(|| {
            let index = self.names.push(name.into());
            IdentityNumber(u32::try_from(index).expect("memory ends before"))
        })
    }

    /// The number of this name, if it was ever heard.
    pub fn find(&self, name: &str) -> Option<IdentityNumber> {
        self.numbers.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// Whose number it is.
    pub fn name(&self, number: IdentityNumber) -> &str {
        &self.names[number.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number() {
        let names = Names::default();
        let (sales, support) = (names.enter("sales"), names.enter("support"));
        assert_eq!((names.enter("sales"), names.find("support")), (sales, Some(support)));
        assert_eq!((names.name(sales), names.name(support)), ("sales", "support"));
        assert_eq!((sales.index(), support.index(), names.find("crm")), (0, 1, None));
    }
}
