//! What the fuzz targets assert, on stable Rust: over their seeds, and over thousands of inputs that a
//! seeded generator makes of those. `cargo fuzz` runs the same bodies for as long as one likes.

use std::fs;
use std::path::Path;

use fastrand::Rng;

#[path = "../../fuzz/bodies/answer.rs"]
mod answer;
#[path = "../../fuzz/bodies/config.rs"]
mod config;
#[path = "../../fuzz/bodies/fields.rs"]
mod fields;
#[path = "../../fuzz/bodies/framing.rs"]
mod framing;
#[path = "../../fuzz/bodies/links.rs"]
mod links;
#[path = "../../fuzz/bodies/pass.rs"]
mod pass;
#[path = "../../fuzz/bodies/policy.rs"]
mod policy;
#[path = "../../fuzz/bodies/session.rs"]
mod session;
#[path = "../../fuzz/bodies/target.rs"]
mod target;

/// Inputs of each target, so many that the whole takes seconds.
const INPUTS: usize = 5_000;

/// No seed is larger, and no input grows beyond.
const MOST_BYTES: usize = 8 * 1024;

fn fuzz(name: &str, run: fn(&[u8])) {
    let seeds = seeds(name);
    assert!(seeds.len() > 1, "{name} has seeds");
    for seed in &seeds {
        run(seed);
    }
    let mut random = Rng::with_seed(7);
    for number in 0..INPUTS {
        let input = mutated(&seeds, &mut random);
        // What fails is shown whole, to become a seed.
        let outcome = std::panic::catch_unwind(|| run(&input));
        assert!(outcome.is_ok(), "{name}, input {number}: {:?}", String::from_utf8_lossy(&input));
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|it| it.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// A seed with up to eight changes: bits, bytes, pieces taken out, doubled, or taken from another.
fn mutated(seeds: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    const TELLING: &[u8] = b"\0\n\r\t \"'\\/:;,=@%&?#[]{}().-_~0A\x7f\x80\xff";
    let mut input = seeds[random.usize(..seeds.len())].clone();
    for _ in 0..random.usize(1..=8) {
        let length = input.len();
        let from = random.usize(..=length);
        let until = (from + random.usize(..=16)).min(length);
        match random.u8(..6) {
            0 if from < length => input[from] ^= 1 << random.u8(..8),
            1 if from < length => input[from] = TELLING[random.usize(..TELLING.len())],
            2 => input.insert(from, TELLING[random.usize(..TELLING.len())]),
            3 => drop(input.drain(from..until)),
            4 => {
                let piece = input[from..until].to_vec();
                input.splice(from..from, piece);
            }
            _ => {
                let other = &seeds[random.usize(..seeds.len())];
                let begin = random.usize(..=other.len());
                let end = (begin + random.usize(..=64)).min(other.len());
                input.splice(from..until, other[begin..end].iter().copied());
            }
        }
    }
    input.truncate(MOST_BYTES);
    input
}

#[test]
fn fields_of_any_kind_leave_one_credential_and_nothing_hop_by_hop() {
    fuzz("fields", fields::run);
}

#[test]
fn framing_is_read_alike_however_its_bytes_are_cut() {
    fuzz("framing", framing::run);
}

#[test]
fn any_configuration_is_understood_or_refused_in_words() {
    fuzz("config", config::run);
}

#[test]
fn any_answer_of_the_token_endpoint_is_a_token_set_or_an_error() {
    fuzz("answer", answer::run);
}

#[test]
fn no_token_of_the_facades_is_made_up() {
    fuzz("pass", pass::run);
}

#[test]
fn any_stored_document_is_a_session_or_refused() {
    fuzz("session", session::run);
}

#[test]
fn no_target_leads_elsewhere_than_it_says() {
    fuzz("target", target::run);
}

#[test]
fn a_policy_lets_nothing_pass_that_means_what_it_denies() {
    fuzz("policy", policy::run);
}

#[test]
fn links_are_led_back_however_content_is_cut() {
    fuzz("links", links::run);
}

#[test]
fn each_target_of_cargo_fuzz_is_run_here_too() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |directory: &str| {
        let entries = fs::read_dir(root.join(directory)).unwrap().map(|it| it.unwrap().path());
        let mut names: Vec<_> =
            entries.map(|it| it.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let source = include_str!("fuzzed.rs");
    for name in names("fuzz_targets") {
        assert!(source.contains(&format!("fuzz(\"{name}\", {name}::run)")), "{name}");
    }
    assert_eq!(names("fuzz_targets"), names("bodies"));
    assert_eq!(names("fuzz_targets"), names("seeds"));
}
