//! Whose turn it is among requests that wait: each caller has a line of its own, first come, first
//! served, and the lines take turns by their weights. PURE.
//!
//! Stride scheduling: whoever has been served least for its weight is next. A caller that comes anew
//! begins where the others are, so that silence earns nothing.

use std::collections::VecDeque;

/// Divisible by every small weight, so that turns come out even.
const STRIDE: u64 = 1 << 20;

/// Who waits, and how much of the turns is theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Tells callers apart.
    pub number: u32,
    /// Turns per round, at least 1.
    pub weight: u32,
}

impl Caller {
    /// Whoever calls, where callers are not told apart.
    pub const ANYBODY: Self = Self { number: u32::MAX, weight: 1 };
}

/// Those who wait.
#[derive(Debug)]
pub struct Queue<T> {
    lines: Vec<Line<T>>,
    length: usize,
    /// How far the one who was served last had come.
    pass: u64,
}

#[derive(Debug)]
struct Line<T> {
    caller: u32,
    pass: u64,
    stride: u64,
    waiting: VecDeque<(u64, T)>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), length: 0, pass: 0 }
    }
}

impl<T> Queue<T> {
    /// How many wait.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether nobody waits.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// `ticket` is greater than all before.
    pub fn push(&mut self, caller: Caller, ticket: u64, waiting: T) {
        if self.is_empty() {
            self.lines.clear();
        }
        self.length += 1;
        let stride = STRIDE / u64::from(caller.weight.max(1));
        let (start, number) = (self.pass, caller.number);
        let at = self.lines.iter().position(|line| line.caller == number).unwrap_or_else(|| {
            let waiting = VecDeque::new();
            self.lines.push(Line { caller: number, pass: start, stride, waiting });
            self.lines.len() - 1
        });
        let line = &mut self.lines[at];
        if line.waiting.is_empty() {
            line.pass = line.pass.max(start);
        }
        line.stride = stride;
        line.waiting.push_back((ticket, waiting));
    }

    /// Takes out who is next.
    pub fn pop(&mut self) -> Option<T> {
        let next =
            |line: &&mut Line<T>| line.waiting.front().map(|(ticket, _)| (line.pass, *ticket));
        let lines = self.lines.iter_mut().filter(|line| !line.waiting.is_empty());
        let line = lines.min_by_key(next)?;
        let (_, waiting) = line.waiting.pop_front()?;
        self.pass = line.pass;
        line.pass += line.stride;
        self.length -= 1;
        Some(waiting)
    }

    /// Takes out all who are meant.
    pub fn part(&mut self, is_meant: impl Fn(&T) -> bool) -> Vec<T> {
        let mut parted = Vec::new();
        for line in &mut self.lines {
            let all = std::mem::take(&mut line.waiting);
            let (gone, stay) = all.into_iter().partition(|(_, waiting)| is_meant(waiting));
            line.waiting = stay;
            parted.extend(VecDeque::into_iter(gone).map(|(_, waiting)| waiting));
        }
        self.length -= parted.len();
        parted
    }

    /// Takes out who has this ticket, if they wait still.
    pub fn remove(&mut self, ticket: u64) -> Option<T> {
        self.lines.iter_mut().find_map(|line| {
            let at = line.waiting.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()?;
            let (_, waiting) = line.waiting.remove(at)?;
            self.length -= 1;
            Some(waiting)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: u32, weight: u32) -> Caller {
        Caller { number, weight }
    }

    fn served(queue: &mut Queue<char>, count: usize) -> String {
        std::iter::from_fn(|| queue.pop()).take(count).collect()
    }

    #[test]
    fn one_who_asks_much_waits_for_one_who_asks_little() {
        let mut queue = Queue::default();
        for ticket in 0..6 {
            queue.push(caller(0, 1), ticket, 'a');
        }
        queue.push(caller(1, 1), 6, 'b');
        queue.push(caller(1, 1), 7, 'b');
        assert_eq!(served(&mut queue, 8), "ababaaaa");
        assert!(queue.is_empty());
    }

    #[test]
    fn a_weight_of_three_has_three_turns_for_one() {
        let mut queue = Queue::default();
        for ticket in 0..24 {
            let (number, name) = if ticket % 2 == 0 { (0, 'a') } else { (1, 'b') };
            queue.push(caller(number, if number == 0 { 3 } else { 1 }), ticket, name);
        }
        let first = served(&mut queue, 12);
        assert_eq!(first.matches('a').count(), 9, "{first}");
    }

    #[test]
    fn a_line_is_first_come_first_served_and_may_be_left() {
        let mut queue = Queue::default();
        for (ticket, name) in ['a', 'b', 'c', 'd'].into_iter().enumerate() {
            queue.push(Caller::ANYBODY, ticket as u64, name);
        }
        assert_eq!(queue.remove(1), Some('b'));
        assert_eq!(queue.remove(1), None);
        assert_eq!((queue.len(), served(&mut queue, 4)), (3, "acd".into()));
    }

    #[test]
    fn who_was_silent_does_not_make_up_for_it() {
        let mut queue = Queue::default();
        queue.push(caller(1, 1), 0, 'b');
        for ticket in 1..=20 {
            queue.push(caller(0, 1), ticket, 'a');
        }
        assert_eq!(served(&mut queue, 11).matches('a').count(), 10);
        for ticket in 21..=40 {
            queue.push(caller(1, 1), ticket, 'b');
        }
        let next = served(&mut queue, 10);
        assert_eq!(next.matches('b').count(), 5, "{next}");
    }
}
