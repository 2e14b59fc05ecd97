//! Busy loops that share the cores with the daemon.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::Context;

use crate::kernel::Cpu;
use crate::window::now;

/// Processes that do nothing, all the time; ended on drop.
pub(super) struct Loops {
    children: Vec<Child>,
    started: Instant,
}

impl Loops {
    /// So many, at our nice value.
    pub(super) fn start(count: usize) -> anyhow::Result<Loops> {
        let mut loops = Loops { children: Vec::with_capacity(count), started: now() };
        for _ in 0..count {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            loops.children.push(command.spawn().context("cannot start a busy loop")?);
        }
        Ok(loops)
    }

    /// Cores that they have taken, all together.
    pub(super) fn cores(&self) -> anyhow::Result<f64> {
        let mut ns = 0;
        for child in &self.children {
            ns += Cpu::read(child.id())?.total_ns();
        }
        Ok(ns as f64 / 1e9 / self.started.elapsed().as_secs_f64())
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
