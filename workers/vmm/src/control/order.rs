//! Which frame the agent may send when. A guest that takes the agent over can send anything; the launcher sees only what a
//! sentry would send.

use bulkhead_wire::Frame;

/// How far a job is, by the agent's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// The guest boots.
    #[default]
    Booting,
    /// The agent takes inputs.
    Preparing,
    /// The job runs.
    Running,
    /// It has ended; outputs may be collected.
    Ended,
    /// An output's data is on its way.
    InOutput,
    /// The agent has said its last word.
    Failed,
}

/// A frame out of order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the agent sent {kind:?} in phase {phase:?}")]
pub struct OutOfOrder {
    /// What came.
    pub kind: bulkhead_wire::Kind,
    /// When.
    pub phase: Phase,
}

impl Phase {
    /// The phase after this frame of the agent.
    ///
    /// # Errors
    /// [`OutOfOrder`]: the machine is to end.
    pub fn after(self, frame: &Frame) -> Result<Self, OutOfOrder> {
        match (self, frame) {
            (Self::Booting, Frame::Ready) => Ok(Self::Preparing),
            (Self::Preparing, Frame::Started) => Ok(Self::Running),
            (Self::Running, Frame::Exited(_)) => Ok(Self::Ended),
            (Self::Ended, Frame::Output(_)) => Ok(Self::InOutput),
            (Self::Ended, Frame::OutputProblem(_) | Frame::Collected) => Ok(Self::Ended),
            (Self::InOutput, Frame::Data(_)) => Ok(Self::InOutput),
            (Self::InOutput, Frame::End) => Ok(Self::Ended),
            (Self::Failed, _) => Err(OutOfOrder { kind: frame.kind(), phase: self }),
            (_, Frame::Failed(_)) => Ok(Self::Failed),
            _ => Err(OutOfOrder { kind: frame.kind(), phase: self }),
        }
    }
}

/// Whether the launcher may send this frame after `Start`; the agent checks their order.
pub fn is_for_agent(frame: &Frame) -> bool {
    matches!(
        frame,
        Frame::Input(_) | Frame::Data(_) | Frame::End | Frame::Go | Frame::Signal { .. } | Frame::Collect(_)
    )
}

#[cfg(test)]
mod tests {
    use bulkhead_wire::{Failed, FailureStage, OutputStart};

    use super::*;

    fn walk(frames: &[Frame]) -> Result<Phase, OutOfOrder> {
        frames.iter().try_fold(Phase::Booting, |phase, frame| phase.after(frame))
    }

    fn failed() -> Frame {
        Frame::Failed(Failed { stage: FailureStage::Input, message: String::new() })
    }

    fn output() -> Frame {
        Frame::Output(OutputStart { path: b"/out".to_vec(), mode: 0o644, is_directory: false })
    }

    #[test]
    fn a_job_s_life_passes() {
        assert_eq!(walk(&[Frame::Ready, Frame::Started]), Ok(Phase::Running));
        assert_eq!(walk(&[Frame::Ready, failed()]), Ok(Phase::Failed));
        let outputs = [output(), Frame::Data(vec![1]), Frame::Data(vec![2]), Frame::End, Frame::Collected];
        let end = outputs.iter().try_fold(Phase::Ended, |phase, frame| phase.after(frame));
        assert_eq!(end, Ok(Phase::Ended));
    }

    #[test]
    fn anything_else_does_not() {
        for frames in [
            vec![Frame::Started],
            vec![Frame::Ready, Frame::Ready],
            vec![Frame::Ready, Frame::Data(vec![])],
            vec![Frame::Ready, Frame::Started, Frame::Started],
            vec![Frame::Ready, Frame::Started, output()],
            vec![Frame::Ready, Frame::Go],
            vec![failed(), failed()],
            vec![failed(), Frame::Ready],
        ] {
            assert!(walk(&frames).is_err(), "{frames:?}");
        }
        assert!(Phase::InOutput.after(&Frame::Collected).is_err());
        assert!(Phase::Ended.after(&Frame::Data(vec![])).is_err());
    }
}
