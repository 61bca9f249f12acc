use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

fn after(secs: u64) -> Timestamp {
    NOW + Duration::from_secs(secs)
}

fn granted(budget: &mut Budget, ticket: &Ticket, now: Timestamp) -> Permit {
    match budget.take(ticket, now) {
        Turn::Go(permit) => permit,
        other => panic!("expected a turn, got {other:?}"),
    }
}

fn send(budget: &mut Budget, now: Timestamp) {
    let ticket = budget.join(Class::Waiting);
    let permit = granted(budget, &ticket, now);
    budget.settle_sent(permit, now);
}

#[test]
fn the_sixth_request_waits_until_the_first_has_left_the_window() {
    let mut budget = Budget::new(5);
    (0..5).for_each(|second| send(&mut budget, after(second)));
    assert_eq!(budget.left(after(5)), 0);
    let sixth = budget.join(Class::Waiting);
    assert_eq!(budget.take(&sixth, after(5)), Turn::At(after(60)));
    let permit = granted(&mut budget, &sixth, after(60));
    budget.settle_sent(permit, after(60));
}

#[test]
fn a_request_in_flight_occupies_the_budget_until_a_window_after_its_end() {
    let mut budget = Budget::new(1);
    let (slow, next) = (budget.join(Class::Waiting), budget.join(Class::Waiting));
    let permit = granted(&mut budget, &slow, NOW);
    assert_eq!(budget.take(&next, after(300)), Turn::Behind);
    budget.settle_sent(permit, after(300));
    assert_eq!(budget.take(&next, after(301)), Turn::At(after(360)));
}

#[test]
fn an_unsent_request_costs_nothing() {
    let mut budget = Budget::new(1);
    let ticket = budget.join(Class::Idle);
    let permit = granted(&mut budget, &ticket, NOW);
    budget.settle_unsent(permit);
    assert_eq!(budget.left(NOW), 1);
}

#[test]
fn the_waiting_go_first_then_the_soonest_to_expire_and_the_idle_last() {
    let mut budget = Budget::new(9);
    let idle = budget.join(Class::Idle);
    let late = budget.join(Class::Expiring(after(90)));
    let soon = budget.join(Class::Expiring(after(30)));
    let mut woken = budget.join(Class::Idle);
    let waiting = budget.join(Class::Waiting);
    assert!(budget.reclass(&mut woken, Class::Waiting));
    assert!(!budget.reclass(&mut woken, Class::Waiting));
    let order = [&woken, &waiting, &soon, &late, &idle];
    for (place, ticket) in order.iter().enumerate() {
        for behind in &order[place + 1..] {
            assert_eq!(budget.take(behind, NOW), Turn::Behind);
        }
        let permit = granted(&mut budget, ticket, NOW);
        budget.settle_unsent(permit);
    }
}

#[test]
fn nothing_goes_inside_a_penalty_and_a_shorter_one_does_not_end_it() {
    let mut budget = Budget::new(5);
    budget.silence(after(60));
    budget.silence(after(30));
    let ticket = budget.join(Class::Waiting);
    assert_eq!(budget.take(&ticket, after(59)), Turn::At(after(60)));
    assert_eq!(budget.left(after(59)), 0);
    let permit = granted(&mut budget, &ticket, after(60));
    budget.settle_unsent(permit);
}

#[test]
fn a_clock_set_back_by_a_day_delays_nobody_for_a_day() {
    let mut budget = Budget::new(1);
    send(&mut budget, after(86_400));
    budget.silence(after(86_400 + 60));
    let ticket = budget.join(Class::Waiting);
    assert_eq!(budget.take(&ticket, NOW), Turn::At(after(60)), "silent for as long as was asked");
    let permit = granted(&mut budget, &ticket, after(60));
    budget.settle_unsent(permit);
}

#[test]
fn a_clock_that_trembles_shortens_no_penalty() {
    let mut budget = Budget::new(1);
    budget.silence(after(60));
    let ticket = budget.join(Class::Waiting);
    for millis in (0..59_000).step_by(10) {
        let now = NOW + Duration::from_millis(millis);
        assert_eq!(budget.take(&ticket, now), Turn::At(after(60)));
        assert_eq!(budget.take(&ticket, now - Duration::from_millis(9)), Turn::At(after(60)));
    }
}

/// 1,000 identities start at once; each request takes between 0 and 2 s to arrive and as long to
/// be answered. Counted is what the server sees.
#[test]
fn a_cold_start_of_a_thousand_never_shows_the_server_six_in_a_minute() {
    let mut budget = Budget::new(5);
    let mut tickets: Vec<Ticket> = (0..1000).map(|_| budget.join(Class::Idle)).collect();
    let mut arrivals = Vec::new();
    let mut now = NOW;
    tickets.reverse();
    while let Some(ticket) = tickets.last() {
        match budget.take(ticket, now) {
            Turn::Go(permit) => {
                let travel = Duration::from_millis((arrivals.len() as u64 * 709) % 2000);
                arrivals.push(now + travel);
                budget.settle_sent(permit, now + 2 * travel);
                now = now + 2 * travel;
                tickets.pop();
            }
            Turn::At(at) => now = at,
            Turn::Behind => panic!("the head of the queue is behind"),
        }
    }
    assert_eq!(arrivals.len(), 1000);
    let most = arrivals.windows(6).filter(|six| six[0].until(six[5]) < WINDOW).count();
    assert_eq!(most, 0, "six requests within a minute");
    // 5 a minute for 1,000 takes 199 further windows; little more is lost to travel.
    let took = NOW.until(now).as_secs();
    assert!((199 * 60..199 * 60 + 199 * 8).contains(&took), "took {took} s");
}

proptest! {
    /// Tickets come, go and change class, requests overlap and fail, penalties fall.
    #[test]
    fn no_history_exceeds_the_limit_or_breaks_a_penalty(
        limit in 1_usize..7,
        history in prop::collection::vec((0_u8..8, 0_u64..20_000), 1..300),
    ) {
        let mut budget = Budget::new(limit);
        let (mut now, mut tickets, mut flying) = (NOW, BTreeMap::new(), Vec::new());
        let (mut sent, mut silent_until) = (Vec::<Timestamp>::new(), NOW);
        for (what, number) in history {
            now = now + Duration::from_millis(number);
            match what {
                0..3 => {
                    let class = [Class::Waiting, Class::Expiring(now), Class::Idle][usize::from(what)];
                    let ticket = budget.join(class);
                    tickets.insert(ticket.number, ticket);
                }
                3 => {
                    if let Some((_, ticket)) = tickets.pop_first() {
                        budget.leave(&ticket);
                    }
                }
                4 => {
                    if let Some(permit) = flying.pop() {
                        budget.settle_sent(permit, now);
                    }
                }
                5 if number % 4 == 0 => {
                    silent_until = silent_until.max(now + Duration::from_secs(45));
                    budget.silence(silent_until);
                }
                _ => {
                    let mut turns = 0;
                    tickets.retain(|_, ticket| match budget.take(ticket, now) {
                        Turn::Go(permit) => {
                            flying.push(permit);
                            sent.push(now);
                            turns += 1;
                            false
                        }
                        _ => true,
                    });
                    prop_assert!(turns == 0 || now >= silent_until, "sent inside a penalty");
                }
            }
            let recent = sent.iter().filter(|at| **at + WINDOW > now).count();
            prop_assert!(recent <= limit, "{recent} requests in a window of {limit}");
        }
    }
}
