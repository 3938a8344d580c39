//! What a test decides by itself, and how guests begin and end that are no plain forks.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bulkhead_platform::{Call, Fault, GuestThread, Ran, Registers};

use super::kernel::{End, Mini, Process, Task, task};

/// What a test wants to decide by itself; each answers whether it has dealt with the stop.
pub trait Policy: Send + Sync {
    fn call(&self, _kernel: &Mini, _thread: &Arc<GuestThread>, _call: &Call) -> bool {
        false
    }
    fn trapped(&self, _kernel: &Mini, _thread: &Arc<GuestThread>, _call: &Call, _regs: &Registers) -> bool {
        false
    }
    fn fault(&self, _kernel: &Mini, _thread: &Arc<GuestThread>, _fault: &Fault, _regs: &Registers) -> bool {
        false
    }
    fn interrupted(&self, _k: &Mini, _t: &Arc<GuestThread>, _r: &Registers, _call: Option<Call>) -> bool {
        false
    }
    fn ran(&self, _kernel: &Mini, _thread: &Arc<GuestThread>, _ran: &Ran) -> bool {
        false
    }
}

/// Decides nothing.
pub struct Ordinary;

impl Policy for Ordinary {}

impl Mini {
    /// The child borrows the parent's host thread.
    pub(super) fn vfork(&self, thread: &Arc<GuestThread>, regs: &Registers) {
        let lender = task(thread);
        let id = {
            let mut state = self.state.lock().expect("state");
            state.next += 1;
            let id = state.next;
            state.processes.insert(id, Process::new(id, lender.process));
            id
        };
        let parent = Registers { rax: id, ..*regs };
        let borrower = Task {
            process: id,
            tid: id,
            clear_tid: Mutex::new(None),
            rseq: Mutex::new(None),
            lender: Some((lender, parent)),
        };
        thread.attach(Arc::new(borrower));
        thread.resume(&Registers { rax: 0, ..*regs });
    }

    pub(super) fn execve(&self, thread: &Arc<GuestThread>, call: &Call) {
        let path = thread.memory().read_cstr(call.args[0], 4096).expect("a path");
        let mut argv = Vec::new();
        for n in 1..16 {
            let mut pointer = [0; 8];
            thread.memory().read(call.args[1] + 8 * n, &mut pointer).expect("argv");
            match u64::from_le_bytes(pointer) {
                0 => break,
                at => argv.push(
                    String::from_utf8(thread.memory().read_cstr(at, 4096).expect("argv")).expect("text"),
                ),
            }
        }
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let task = task(thread);
        self.exec(task.process, Path::new(&String::from_utf8(path).expect("text")), &argv);
        match &task.lender {
            Some((parent, registers)) => {
                thread.attach(parent.clone());
                thread.resume(registers);
            }
            None => thread.stub().kill(),
        }
    }

    pub(super) fn exit_group(&self, thread: &Arc<GuestThread>, status: u64) {
        let task = task(thread);
        let exit = End::Exited((status & 0xff) as i32);
        if let Some(process) = self.state.lock().expect("state").processes.get_mut(&task.process) {
            process.exit = Some(exit);
            if task.lender.is_some() {
                process.end = Some(exit);
            }
        }
        if task.lender.is_some() {
            thread.redirect();
        } else {
            thread.stub().kill();
        }
    }
}
