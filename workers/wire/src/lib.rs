//! The framed, bounded protocol between the worker and a sentry or a guest agent.
