//! The agent as a process, under the names that every Prometheus dashboard knows.
//! In: /proc and the process's own clock. Out: samples.
//! Invariant: kernel memory of maps is not in it; `tortie_map_memory_bytes` has that.
//! Never: another process.

use super::text::{Kind, Text};
use rustix::time::{ClockId, clock_gettime};
use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

/// Writes them.
pub fn write(text: &mut Text, started: SystemTime) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "seconds of one process, to the microsecond")]
    let cpu_s = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    text.family("process_cpu_seconds_total", Kind::Counter, "Processor time used by the agent.").value(&[], cpu_s);
    text.family("process_resident_memory_bytes", Kind::Gauge, "Resident memory of the agent, kernel maps apart.");
    text.value(&[], resident().unwrap_or_default());
    text.family("process_start_time_seconds", Kind::Gauge, "When the agent started, Unix time.");
    text.value(&[], started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    text.family("process_open_fds", Kind::Gauge, "Open file descriptors.");
    text.value(&[], fs::read_dir("/proc/self/fd").map_or(0, Iterator::count));
}

/// Bytes.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let said = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    said.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_this_process_is_found() {
        assert!(resident().is_some_and(|bytes| bytes > 100_000));
    }
}
