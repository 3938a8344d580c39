use proptest::prelude::*;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;

fn port() -> (SerialPort, Console) {
    let console = Console::new(false);
    (SerialPort::new(EventFd::new(EFD_NONBLOCK).expect("eventfd"), console.clone()), console)
}

fn say(port: &mut SerialPort, text: &str) {
    for byte in text.bytes() {
        port.write(0, byte);
    }
}

#[test]
fn only_the_last_lines_are_kept() {
    let (mut port, console) = port();
    for line in 0..5000 {
        say(&mut port, &format!("line {line}\r\n"));
    }
    assert_eq!(console.len(), LOG_BYTES);
    assert_eq!(console.last_lines(2), "line 4998\nline 4999");
    assert!(console.contains("line 4998") && !console.contains("line 7\r"));
}

#[test]
fn control_characters_do_not_reach_a_terminal() {
    let (mut port, console) = port();
    say(&mut port, "\x1b[2Jboo\x07\n");
    assert_eq!(console.last_lines(1), "\u{fffd}[2Jboo\u{fffd}");
}

proptest! {
    #[test]
    fn any_register_traffic_is_survived(
        accesses in proptest::collection::vec((any::<bool>(), any::<u8>(), any::<u8>()), 0..300),
    ) {
        let (mut port, console) = port();
        for (write, register, value) in accesses {
            if write { port.write(register, value) } else { let _any = port.read(register); }
        }
        prop_assert!(console.len() <= LOG_BYTES);
        let state = port.state();
        let interrupt = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        let restored = SerialPort::restore(state.clone(), interrupt, console).expect("a state of its own");
        prop_assert_eq!(restored.state(), state);
    }
}
