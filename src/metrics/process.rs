//! What the operating system says of this process, where it says so in `/proc`.

use std::fs;

use super::page::{Kind, Page};
use crate::clock;

/// Writes the families that Prometheus knows for every process. What cannot be read is left out.
pub fn write(page: &mut Page) {
    let mut gauge = |name, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            page.family(name, Kind::Gauge, help).sample(&[], value);
        }
    };
    gauge("process_resident_memory_bytes", "Memory that is in use.", resident_memory());
    gauge("process_open_fds", "Descriptors that are open.", open_descriptors());
    gauge("process_max_fds", "Descriptors that may be open.", most_descriptors());
    gauge(
        "process_start_time_seconds",
        "When the process has started, in Unix time.",
        clock::process_start(),
    );
    page.family("process_cpu_seconds_total", Kind::Counter, "CPU time that was used.")
        .sample(&[], clock::process_cpu().as_secs_f64());
}

/// In bytes.
pub fn resident_memory() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn open_descriptors() -> Option<f64> {
    let listed = fs::read_dir("/proc/self/fd").ok()?.count();
    // The listing has one itself.
    u32::try_from(listed.saturating_sub(1)).ok().map(f64::from)
}

fn most_descriptors() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_size() {
        let mut page = Page::default();
        write(&mut page);
        let text = page.into_text();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("{name} in {text}"))
                .rsplit_once(' ')
                .unwrap()
                .1
                .parse()
                .unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1024.0 * 1024.0);
        assert!((3.0..=value("process_max_fds")).contains(&value("process_open_fds")));
        assert!(value("process_cpu_seconds_total") > 0.0);
        assert!(value("process_start_time_seconds") > 1.7e9);
    }
}
